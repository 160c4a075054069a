"""Figures: one palette, one style, light 3D figures that work offline, and the
page that thinks.

``pictures``: matplotlib and the pipeline strip. ``figure3d``: :func:`show3d`,
:func:`tag_room` and stand-alone pages. ``cloud``: what a 3D figure carries into
the page. ``source``: the library's code, shown.
"""

from vlg_lib.viz.figure3d import Figure3D, save_page3d, show3d, tag_room
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
