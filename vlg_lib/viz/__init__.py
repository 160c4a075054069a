"""Figures: one palette, one style, light 3D figures that work offline, and the
page that thinks.

``pictures``: matplotlib and the pipeline strip. ``figure3d``: :func:`show3d`,
``tag_room`` and stand-alone pages. ``payload``: what a 3D figure carries into
the page. ``source``: the library's code, shown.

matplotlib takes longer to import than a cloud to label: ``pictures`` is
imported when one of its names is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlg_lib.viz.figure3d import (
    Figure3D,
    View3D,
    save_page3d,
    show3d,
    tag_room,
)
from vlg_lib.viz.payload import label_colors
from vlg_lib.viz.source import Source, show_source

if TYPE_CHECKING:
    from vlg_lib.viz.pictures import (
        PIPELINE_STEPS,
        Html,
        legend,
        pipeline_strip,
        show_label_image,
        use_style,
    )

__all__ = [
    "PIPELINE_STEPS",
    "Figure3D",
    "Html",
    "Source",
    "View3D",
    "label_colors",
    "legend",
    "pipeline_strip",
    "save_page3d",
    "show3d",
    "show_label_image",
    "show_source",
    "tag_room",
    "use_style",
]

_PICTURES = (
    "PIPELINE_STEPS",
    "Html",
    "legend",
    "pipeline_strip",
    "show_label_image",
    "use_style",
)


def __getattr__(name: str) -> Any:
    if name not in _PICTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vlg_lib.viz.pictures"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
