"""The main table in README.md, from the record of the evidence.

    python tools/evidence_page.py            write it into README.md
    python tools/evidence_page.py --check    exit 1 where it is out of date

``vlg experiment main`` makes the record, ``results/evidence/main.json``; this
writes its rows as Markdown, and nothing else.
"""

import argparse
import sys
from typing import Any

from chapters import ROOT

from vlg_lib.artifacts import read_json

README = ROOT / "README.md"
RECORD = ROOT / "results" / "evidence" / "main.json"
BEGIN, END = "<!-- evidence: make sync -->", "<!-- /evidence -->"


def table(record: dict[str, Any]) -> str:
    """The rows of the record: labels from images first, then networks."""
    lines = [
        "| | needs at inference | learns from | unseen rooms, mIoU | gap closed"
        " |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        is_network = row["needs"] == "points"
        if is_network and row["row"].endswith(", voted"):
            continue
        name = f"3D network, {row['row']}" if is_network else row["row"]
        low, high = row["interval"]
        share = f"{row['share_of_gap']:.0f} %"
        if row["row"].endswith(", voted"):
            share = ""
        lines.append(
            f"| {name} | {row['needs']} | {row['learnt_from'] or ''} |"
            f" {row['miou']:.1f} ({low:.1f} to {high:.1f}) | {share} |"
        )
    seeds = ", ".join(map(str, record["seeds"]))
    rooms = record["test_rooms"][0]
    return "\n".join(
        [
            f"Seeds {seeds}, {rooms} unseen rooms each; in brackets the 95 %"
            " interval over seeds and rooms.",
            "",
            *lines,
        ]
    )


def with_table(page: str) -> str:
    """A page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = table(read_json(RECORD))
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def main() -> None:
    """Write the table into README.md, or check it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true")
    page = README.read_text(encoding="utf8")
    if not arguments.parse_args().check:
        README.write_text(with_table(page), encoding="utf8")
    elif page != with_table(page):
        sys.exit("README.md: its table is out of date: run `make sync`")


if __name__ == "__main__":
    main()
