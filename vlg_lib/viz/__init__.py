"""Figures: one palette, one style, light 3D figures that work offline, and the
page that thinks.

``pictures``: matplotlib and the pipeline strip. ``figure3d``: :func:`show3d`,
``tag_room`` and stand-alone pages. ``payload``: what a 3D figure carries into
the page. ``source``: the library's code, shown.
"""

from vlg_lib.viz.figure3d import (
    Figure3D,
    View3D,
    save_page3d,
    show3d,
    tag_room,
)
from vlg_lib.viz.pictures import (
    PIPELINE_STEPS,
    Html,
    label_colors,
    legend,
    pipeline_strip,
    show_label_image,
    use_style,
)
from vlg_lib.viz.source import Source, show_source

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
