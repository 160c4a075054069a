"""Write requirements.txt from a resolved list, without the GPU libraries that
torch itself pins exactly.

They are left out so that a CPU-only torch (TORCH_INDEX in the Makefile) does
not drag them in.
"""

import re
import sys
from pathlib import Path

HEADER = """\
# Resolved by `make lock` from requirements.in: the book's environment on Python
# 3.11 to 3.13. Do not edit by hand. torch brings its own exactly pinned GPU
# libraries. MinkowskiEngine is not listed: `pip install MinkowskiEngine` cannot
# work on any current Python (its 2021 source does not build there). `make
# minkowski` serves it; no chapter requires it.
"""
BROUGHT_BY_TORCH = re.compile(r"^(nvidia-|cuda-|triton==)")


def main(resolved: Path, requirements: Path) -> None:
    """Filter ``resolved`` into ``requirements`` and remove the former."""
    lines = [
        line
        for line in resolved.read_text().splitlines()
        if not BROUGHT_BY_TORCH.match(line)
    ]
    requirements.write_text(HEADER + "\n".join(lines) + "\n")
    resolved.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
