"""Trained networks by name: what is there loads and has its card, what is not
there is named."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from vlg_lib.artifacts import StoreError
from vlg_lib.networks import zoo
from vlg_lib.networks.point_network import (
    NetworkSettings,
    PointNetwork,
    save_network,
)
from vlg_lib.networks.zoo import list_checkpoints, load_checkpoint
from vlg_lib.vision_language import create_model, list_models

ROOT = Path(__file__).parent.parent
SETTINGS = NetworkSettings(channels=4, output="scores")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of checkpoints of its own, with two networks in it."""
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "shipped")
    for seed, name in enumerate(("second", "first")):
        save_network(
            tmp_path / "shipped" / f"{name}.safetensors",
            PointNetwork(SETTINGS, seed=seed),
            about=name,
        )
        (tmp_path / "shipped" / f"{name}.md").write_text("# card")
    return tmp_path / "shipped"


def test_names_are_sorted_files(folder):
    (folder / ".third.safetensors.12.part").write_bytes(b"")
    assert list_checkpoints() == ["first", "second"]


def test_by_name_and_by_path(folder, tmp_path):
    network, about = load_checkpoint("second")
    assert about["about"] == "second"
    expected = PointNetwork(SETTINGS, seed=0).unet.final.kernel
    torch.testing.assert_close(
        network.unet.final.kernel, expected, atol=1e-3, rtol=1e-3
    )
    elsewhere = (folder / "first.safetensors").rename(tmp_path / "mine.weights")
    for path in (elsewhere, str(elsewhere)):
        assert load_checkpoint(path)[1]["about"] == "first"


def test_a_name_wins_over_a_file_of_that_name_and_a_path_does_not(
    folder, tmp_path, monkeypatch
):
    save_network(
        tmp_path / "first", PointNetwork(SETTINGS), about="a file beside me"
    )
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("first")[1]["about"] == "first"
    assert load_checkpoint(Path("first"))[1]["about"] == "a file beside me"


def test_unknown_names(folder):
    with pytest.raises(
        ValueError,
        match=(
            r"unknown checkpoint 'third'; known: first, second; or give the"
            r" path of a"
        ),
    ):
        load_checkpoint("third")
    for file in folder.iterdir():
        file.unlink()
    assert list_checkpoints() == []
    with pytest.raises(
        ValueError,
        match=(
            r"unknown checkpoint 'first'; this copy of the library comes with"
            r" none; or"
        ),
    ):
        load_checkpoint("first")


def test_no_folder_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "none")
    assert list_checkpoints() == []


def test_files_that_are_no_checkpoint(folder, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.safetensors: no such file"):
        load_checkpoint("nowhere.safetensors")
    with pytest.raises(StoreError, match="nowhere: no such file"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "cut.safetensors").write_bytes(
        (folder / "first.safetensors").read_bytes()[:5000]
    )
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        load_checkpoint(str(tmp_path / "cut.safetensors"))


def test_the_package_takes_weights_and_cards_along():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["vlg_lib"]
    for name in ("3dss-vlg.safetensors", "3dss-vlg.md"):
        file = zoo.FOLDER / name
        assert file.is_file()
        inside = file.relative_to(ROOT / "vlg_lib").as_posix()
        assert any(fnmatch(inside, pattern) for pattern in patterns)


@pytest.mark.parametrize("name", list_checkpoints())
def test_what_is_shipped_is_whole(name):
    file = zoo.FOLDER / f"{name}.safetensors"
    assert file.stat().st_size < 10_000_000
    assert file.with_suffix(".md").is_file()
    network, about = load_checkpoint(name)
    names = about["class_set"]["names"]
    assert all(
        bool(tensor.isfinite().all())
        for tensor in network.state_dict().values()
    )
    if network.settings.output == "scores":
        assert network.settings.channels == len(names)
    else:
        assert about["teacher"] in list_models()
        texts = create_model(about["teacher"]).text_embeddings(
            [about["prompt_template"].format(name=name) for name in names]
        )
        assert texts.shape == (len(names), network.settings.channels)
