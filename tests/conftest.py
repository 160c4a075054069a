"""Shapes and dtypes of the library's arrays are checked in every test; what
several files of tests compute, they share."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("vlg_lib", "typechecker.typechecker")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a whole run of the tiny profile, seed 0: to read from."""
    # after the hook
    from tiny import TINY, quiet

    from vlg_lib.pipeline.run import open_run

    folder = tmp_path_factory.mktemp("tiny_run")
    open_run(TINY, 0, quiet(folder)).table.rows()
    return folder
