"""The names that vlg_lib hands on: the right ones, whatever was imported
before."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from programs import python

import vlg_lib

HOMES = {
    "Camera": "vlg_lib.scene",
    "Frame": "vlg_lib.scene",
    "Scene": "vlg_lib.scene",
    "create_model": "vlg_lib.vision_language",
    "evaluate": "vlg_lib.metrics",
    "fuse_scene": "vlg_lib.fusion",
    "list_models": "vlg_lib.vision_language",
    "load_network": "vlg_lib.networks.point_network",
    "make_pseudo_labels": "vlg_lib.pseudo_labels",
    "predict": "vlg_lib.own_scan.predict",
    "read_scene": "vlg_lib.data.layout",
}

CHECK = f"""
import vlg_lib
from importlib import import_module
for name, home in {HOMES!r}.items():
    there = getattr(import_module(home), name)
    assert getattr(vlg_lib, name) is there, name
    assert callable(there) and there.__name__ == name, name
"""


def test_all_names_are_told() -> None:
    assert sorted(HOMES) == vlg_lib.__all__
    assert set(HOMES) <= set(dir(vlg_lib))
    assert set(HOMES) == set(vlg_lib._HOMES)


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import vlg_lib.own_scan.predict, vlg_lib.scene, vlg_lib.metrics",
        "from vlg_lib.own_scan import predict, fuse, label",
        "from vlg_lib import predict, evaluate, Scene\n"
        "import vlg_lib.metrics, vlg_lib.own_scan.predict, vlg_lib.scene",
    ],
    ids=["nothing", "modules", "rooms", "names"],
)
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    python(["-c", f"{first}\n{CHECK}"], check=True)


def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    """Labelling a cloud needs neither open_clip's model zoo nor matplotlib,
    which take longer to import than a room to label."""
    # a fork of a process that has imported them would have them
    code = (
        "import sys\n"
        "from vlg_lib import create_model, predict\n"
        "create_model('small-attributes').text_embeddings(['a chair'])\n"
        "slow = {'open_clip', 'torchvision', 'matplotlib'}\n"
        "assert not slow & set(sys.modules)\n"
        "from vlg_lib.viz import use_style, legend, PIPELINE_STEPS\n"
        "assert 'matplotlib' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for them alone are the names that are handed on."""
    tree = ast.parse(Path(vlg_lib.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module for node in block.body for alias in node.names
    }
    assert seen == HOMES


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        vlg_lib.nothing  # noqa: B018
    with pytest.raises(ImportError):
        from vlg_lib import nothing  # noqa: F401


def test_no_name_is_that_of_a_submodule() -> None:
    """Importing a submodule would put the module in its place."""
    folder = Path(vlg_lib.__file__).parent
    modules = {path.stem for path in folder.iterdir()}
    assert not modules & set(HOMES)
