"""Trained 3D networks that come with the library, by name: ``NAME.safetensors``
and its card ``NAME.md``.
"""

from pathlib import Path
from typing import Any

from vlg_lib.networks.point_network import PointNetwork, load_network

FOLDER = Path(__file__).parent / "weights"


def list_checkpoints() -> list[str]:
    """The names that :func:`load_checkpoint` knows, sorted; empty where the
    library was taken without them.

    >>> [name for name in list_checkpoints() if not name.endswith("-scans")]
    ['3dss-vlg', 'cam', 'openscene', 'supervised']

    Names that end in ``-scans`` learnt from rooms that were made to look like
    scans (:mod:`vlg_lib.training.scan_like`).
    """
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load_checkpoint(
    name_or_path: str | Path, *, backend: str | None = None
) -> tuple[PointNetwork, dict[str, Any]]:
    """A trained network by its name here or by the path of a file: (network in
    evaluation mode, what is said of it).

    What is said of it: ``class_set`` {name, names, and where the classes are no
    known set perhaps their palette}, ``teacher`` (the vision-language model
    whose text tower belongs to it), ``prompt_template``, ``training``.
    A text is taken for a path where it names a file or ends in
    ``.safetensors``. ValueError, naming what there is, for an unknown name;
    StoreError (a ValueError) for a file that is missing, cut, or no network of
    this library.

    >>> network, about = load_checkpoint("3dss-vlg")
    >>> about["teacher"], network.settings.channels
    ('small-attributes', 64)
    """
    known = list_checkpoints()
    if isinstance(name_or_path, str) and name_or_path in known:
        return load_network(
            FOLDER / f"{name_or_path}.safetensors", backend=backend
        )
    path = Path(name_or_path)
    if (
        isinstance(name_or_path, Path)
        or path.suffix == ".safetensors"
        or path.is_file()
    ):
        return load_network(path, backend=backend)
    names = (
        f"known: {', '.join(known)}"
        if known
        else "this copy of the library comes with none"
    )
    raise ValueError(
        f"unknown checkpoint {name_or_path!r}; {names}; or give the path of a"
        " .safetensors file"
    )
