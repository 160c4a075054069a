"""The script that compares networks with and without rooms like scans, at the
smallest size."""

import json
import sys
from pathlib import Path

import pytest
import torch
import train_scan_networks as script
from tiny import TINY

from vlg_lib.networks import zoo
from vlg_lib.networks.zoo import load_checkpoint
from vlg_lib.pipeline import profiles
from vlg_lib.training.scan_like import ScanLike


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs the script; the JSON lines that it printed."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    monkeypatch.setattr(script, "FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "shipped")
    monkeypatch.setenv("VLG_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> list[dict]:
        sizes = ["--profile", "tiny", "--seed", "92", "--test", "2"]
        out = ["--out", str(tmp_path / "networks")]
        monkeypatch.setattr(sys, "argv", ["script", *sizes, *out, *words])
        script.main()
        lines = capsys.readouterr().out.splitlines()
        return [json.loads(line) for line in lines]

    return run


def test_with_and_without(typed, tmp_path):
    """One thing differs; what is there is scored again, not trained again; what
    is shipped answers as what was scored."""
    plain, scans, difference = typed("--kinds", "supervised", "--ship")
    assert (plain["network"], scans["network"]) == (
        "supervised",
        "supervised-scans",
    )
    assert plain["scan_like"] is None
    assert ScanLike(**scans["scan_like"]) == ScanLike()
    assert plain["rooms"] == scans["rooms"] == 2
    assert plain["confusion"] != scans["confusion"]
    apart = scans["miou"] - plain["miou"]
    assert difference["miou"] == pytest.approx(apart, abs=0.02)
    assert difference["interval"][0] <= difference["interval"][1]

    files = sorted((tmp_path / "networks").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    assert typed("--kinds", "supervised") == [plain, scans, difference]
    assert [file.stat().st_mtime_ns for file in files] == before

    assert zoo.list_checkpoints() == ["supervised-scans"]
    shipped, about = load_checkpoint("supervised-scans")
    scored, _ = load_checkpoint(files[0])
    assert files[0].name == "supervised-scans.safetensors"
    for one, other in zip(
        shipped.parameters(), scored.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert about["training"]["recipe"]["scan_like"]["share"] == 0.75
    card = (tmp_path / "shipped" / "supervised-scans.md").read_text()
    assert f"**{scans['miou']:.1f}** on 2 unseen generated rooms" in card
    assert "thinning 0.6" in card
