"""The tables of keys in book/own_scan.md: what each format of scans may say,
and whether its reader uses it, refuses it or leaves it.

    python tools/format_keys.py            write them into book/own_scan.md
    python tools/format_keys.py --check    exit 1 where they are out of date

The keys stand beside the readers, as ``KEYS`` of each module in
``vlg_lib/convert/formats``.
"""

import argparse
import sys
from collections.abc import Sequence

from chapters import ROOT

from vlg_lib.convert.formats import rgbd_folder
from vlg_lib.convert.formats.base import Key
from vlg_lib.convert.formats.registry import FORMATS

PAGE = ROOT / "book" / "own_scan.md"
BEGIN, END = "<!-- keys: make sync -->", "<!-- /keys -->"


def tables() -> str:
    """A table a format, as Markdown."""
    known = {name: form.keys for name, form in FORMATS.items()}
    known["rgbd"] = rgbd_folder.KEYS
    return "\n\n".join(table(name, keys) for name, keys in known.items())


def table(name: str, keys: Sequence[Key]) -> str:
    """The table of a format."""
    lines = [
        f"**{name}**",
        "",
        "| what it may say | its fate | meaning, reason | who says so |",
        "|---|---|---|---|",
    ]
    for key in keys:
        names = ", ".join(f"`{word}`" for word in key.name.split(", "))
        lines.append(f"| {names} | {key.fate} | {key.why} | {key.source} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """A page with its tables as they are now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """Write the tables into the page, or check them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true")
    page = PAGE.read_text(encoding="utf8")
    if not arguments.parse_args().check:
        PAGE.write_text(with_tables(page), encoding="utf8")
    elif page != with_tables(page):
        sys.exit("book/own_scan.md: its keys are out of date: run `make sync`")


if __name__ == "__main__":
    main()
