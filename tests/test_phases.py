"""The phases of make test: in order, until one fails; what they take is
told."""

from pathlib import Path

import phases
import pytest

TARGETS = """
.PHONY: env lint unit site
env:
\t@echo made env
lint: env
\t@echo "work in $(WORD)"
unit: lint
\t@echo tested; $(BUSY)
site:
\t@exit 3
"""
BUSY = "python3 -c 'sum(range(10_000_000))'"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """Runs tracks of phases; the exit status, what was printed and the
    table."""
    (tmp_path / "Makefile").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUSY", "true")

    def run(*tracks: str) -> tuple[int, list[str], dict[str, list[str]]]:
        status = phases.main(list(tracks))
        printed = capfd.readouterr().out
        lines, _, table = printed.partition("phase ")
        rows = [line.split() for line in table.splitlines()[1:]]
        return status, lines.splitlines(), {row[0]: row[1:] for row in rows}

    return run


def test_a_track_is_walked_in_order_and_nothing_is_made_twice(
    made, monkeypatch
):
    monkeypatch.setenv("WORD", "progress")
    status, lines, table = made("lint unit")
    assert lines == ["lint | work in progress", "unit | tested"]
    assert [row[-1] for row in table.values()][:2] == ["passed", "passed"]
    assert status == 0


def test_what_fails_ends_its_track_and_no_other(made):
    status, lines, table = made("site unit", "lint")
    assert [name for name, row in table.items() if row[-1] == "passed"] == [
        "lint"
    ]
    assert (table["site"][-1], table["unit"][-2:]) == ("failed", ["not", "run"])
    assert not any("tested" in line for line in lines)
    assert status == 1


@pytest.mark.parametrize(
    "busy", [BUSY, f"setsid {BUSY} > /dev/null 2>&1 &"], ids=["child", "orphan"]
)
def test_the_cpu_seconds_of_all_processes_count(made, monkeypatch, busy):
    """Those of a process that outlives the one that started it, too."""
    _, _, idle = made("unit")
    monkeypatch.setenv("BUSY", busy)
    _, _, working = made("unit")
    assert float(working["unit"][1]) > float(idle["unit"][1])


def test_without_a_phase_it_says_what_it_wants(capsys):
    with pytest.raises(SystemExit, match="usage"):
        phases.main([])
