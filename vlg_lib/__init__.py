"""Weakly supervised 3D semantic segmentation from scene-level labels and a
frozen 2D vision-language model.

The library behind the book: data walks one way, from posed images to point
embeddings, pseudo labels, the adapter, the 3D network and the evaluation. Each
module is one chapter's subject. The names that are typed first are handed on
here, and their modules are imported when they are asked for::

    from pathlib import Path

    from vlg_lib import create_model, fuse_scene, read_scene

    scene = read_scene(Path("scenes/kitchen"))
    fused = fuse_scene(scene, create_model().dense_embeddings)

On the command line everything starts with ``vlg``: ``vlg --help``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlg_lib.data.layout import read_scene
    from vlg_lib.fusion import fuse_scene
    from vlg_lib.metrics import evaluate
    from vlg_lib.networks.point_network import load_network
    from vlg_lib.own_scan.predict import predict
    from vlg_lib.pseudo_labels import make_pseudo_labels
    from vlg_lib.scene import Camera, Frame, Scene
    from vlg_lib.vision_language import create_model, list_models

__version__ = "0.2.0"

__all__ = [
    "Camera",
    "Frame",
    "Scene",
    "create_model",
    "evaluate",
    "fuse_scene",
    "list_models",
    "load_network",
    "make_pseudo_labels",
    "predict",
    "read_scene",
]

_HOMES = {
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
"""The module of each name. ``import vlg_lib`` alone imports none of them, so
that the command line starts without torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
