from pathlib import Path

import pytest

from vlg_lib import artifacts
from vlg_lib.artifacts import code_key


@pytest.fixture
def editable(monkeypatch: pytest.MonkeyPatch):
    """Edit a module of the library as the hash sees it, without touching the
    file."""

    def edit(name: str) -> None:
        file = Path(artifacts.__file__).parent / name
        assert file.is_file()
        hashes = artifacts.hash_files
        code_key.cache_clear()
        monkeypatch.setattr(
            artifacts,
            "hash_files",
            lambda path: hashes(path) + ("edited" if path == file else ""),
        )

    yield edit
    monkeypatch.undo()
    code_key.cache_clear()


@pytest.mark.parametrize(
    ("module", "edited", "follows"),
    [
        ("vlg_lib.rooms.scenes", "rooms/scenes.py", True),
        ("vlg_lib.rooms.scenes", "rooms/plan.py", True),
        ("vlg_lib.rooms.scenes", "geometry/cameras.py", True),
        # imported by what it imports
        ("vlg_lib.rooms.scenes", "classes.py", True),
        # the palettes
        ("vlg_lib.rooms.scenes", "rooms/materials.py", True),
        ("vlg_lib.classes", "rooms/materials.py", False),
        ("vlg_lib.rooms.scenes", "viz/__init__.py", False),
        ("vlg_lib.rooms.scenes", "fusion.py", False),
        ("vlg_lib.fusion", "geometry/cameras.py", True),
        ("vlg_lib.fusion", "adapter.py", False),
        # through the package
        ("vlg_lib.vision_language", "vision_language/small.py", True),
        ("vlg_lib.adapter", "training/loop.py", True),
        ("vlg_lib.adapter", "pseudo_labels.py", False),
        ("vlg_lib.pipeline.run", "vision_language/base.py", True),
    ],
)
def test_a_key_follows_the_code_it_depends_on(
    editable, module: str, edited: str, follows: bool
) -> None:
    before = code_key(module)
    editable(edited)
    assert (code_key(module) != before) == follows
