"""Record a figure of the book in results/: what was measured, on which machine,
with which versions and seeds.

* ``pipeline``: the table of `vlg run` over several seeds, with
  mean, least and largest over the seeds.
* ``command``: any command that prints JSON lines (a benchmark, the scores of
  the small model), stored as it printed them.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

from chapters import ROOT

from vlg_lib.artifacts import write_json
from vlg_lib.pipeline.circumstances import circumstances
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.run import open_run
from vlg_lib.pipeline.table import Row


def record_pipeline(
    name: str, profile: str, seeds: list[int], networks: list[str]
) -> None:
    """Run the pipeline once a seed and store every row of every seed, and their
    summary.
    """
    found = circumstances()
    tables: dict[int, list[Row]] = {}
    for seed in seeds:
        run = open_run(profile, seed, RunOptions(progress=True))
        tables[seed] = run.table.rows(networks)
    summary = []
    for rows in zip(*tables.values(), strict=True):
        shares = {
            "miou": [row["miou"] for row in rows],
            "miou_train": [row["miou_train"] for row in rows],
            "accuracy": [row["accuracy"] for row in rows],
        }
        for share, values in shares.items():
            spread = {
                "mean": statistics.mean(values),
                "least": min(values),
                "largest": max(values),
            }
            summary.append(
                {
                    "row": rows[0]["row"],
                    "figure": share,
                    **{k: round(v, 2) for k, v in spread.items()},
                }
            )
    which = (
        ""
        if tuple(networks) == NETWORKS
        else f" --networks {' '.join(networks)}"
    )
    command = (
        f"record.py pipeline {name} --profile {profile} --seeds"
        f" {' '.join(map(str, seeds))}{which}"
    )
    figures = {
        "command": command,
        "profile": profile,
        "seeds": seeds,
        "summary": summary,
        "tables": tables,
    }
    _write(name, found | figures)


def record_command(name: str, command: list[str]) -> None:
    """Run a command of this repository and store the JSON lines that it
    prints.
    """
    # before the command, which may write files of the repository
    found = circumstances()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = [
        json.loads(line)
        for line in done.stdout.splitlines()
        if line.startswith("{")
    ]
    if not lines:
        sys.exit(f"{' '.join(command)} printed no line of JSON")
    _write(
        name, found | {"command": f"python {' '.join(command)}", "lines": lines}
    )


def _write(name: str, figures: dict[str, Any]) -> None:
    path = ROOT / "results" / f"{name}.json"
    write_json(path, figures)
    print(path.relative_to(ROOT))


def main() -> None:
    """Record one figure."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    pipeline = kinds.add_parser("pipeline")
    pipeline.add_argument("name")
    pipeline.add_argument("--profile", default="book")
    pipeline.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    pipeline.add_argument(
        "--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS
    )
    command = kinds.add_parser("command")
    command.add_argument("name")
    command.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        help="a script of this repository and its options",
    )
    options = parser.parse_args()
    if options.kind == "pipeline":
        record_pipeline(
            options.name, options.profile, options.seeds, options.networks
        )
    else:
        record_command(options.name, options.command)


if __name__ == "__main__":
    main()
