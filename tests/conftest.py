"""Shapes and dtypes of the library's arrays are checked in every test; what
several files of tests compute, they share."""

import os
from pathlib import Path

# Without it MKL takes fewer threads when a machine is busy, adds in another
# order, and two trainings differ in their last digits. It is read when torch
# multiplies for the first time.
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

import pytest
from click.testing import Result
from jaxtyping import install_import_hook
from typer.testing import CliRunner

install_import_hook("vlg_lib", "typechecker.typechecker")


@pytest.fixture(scope="session")
def typed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A whole run of the tiny profile, typed as a command: the folder with its
    cache and what it stored, to read from, and what it printed."""
    # after the hook
    from tiny import TINY

    from vlg_lib import cli
    from vlg_lib.pipeline import profiles

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(profiles.PROFILES, "tiny", TINY)
        patched.setenv("VLG_CACHE", str(folder / "cache"))
        sizes = ["--profile", "tiny", "--seed", "0", "--device", "cpu"]
        words = ["run", "--source", "rooms", *sizes, "--quiet", "--out"]
        result = CliRunner().invoke(cli.app, [*words, str(folder / "out")])
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture(scope="session")
def tiny_run(typed_run: tuple[Path, Result]) -> Path:
    """The cache of a whole run of the tiny profile, seed 0: to read from."""
    return typed_run[0] / "cache"
