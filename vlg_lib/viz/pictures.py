"""Pictures: the matplotlib style, label images, legends, and the pipeline strip
at the head of each chapter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.font_manager import get_font_names
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from scipy import ndimage
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL, UNLABELLED_COLOR, ClassSet
from vlg_lib.viz.payload import ASSETS, label_colors

PIPELINE_STEPS = (
    "frames",
    "vision-language model",
    "projection",
    "fusion",
    "pseudo labels",
    "adapter",
    "3D network",
    "evaluation",
)
"""The steps of :func:`pipeline_strip`, in the order the data walks."""

FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Nirmala UI",
    "Arial Unicode MS",
)
"""Fonts with the letters of other scripts, which matplotlib does not look for
by itself."""


def use_style() -> None:
    """Use the book's matplotlib style in this session. Letters that
    matplotlib's own font lacks are taken from one of FONTS, where installed.

    >>> use_style()
    """
    plt.style.use(ASSETS / "vlg.mplstyle")
    installed = set(get_font_names())
    plt.rcParams["font.family"] = [
        "sans-serif",
        *(font for font in FONTS if font in installed),
    ]


def legend(
    class_set: ClassSet,
    labels: Integer[Tensor, "*shape"] | Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Legend:
    """Draw a legend of class colours beside ``ax``: of the names given, of the
    labels that occur, or of all classes.

    >>> from vlg_lib.classes import ROOMS_12
    >>> axis = plt.figure().gca()
    >>> shown = legend(ROOMS_12, ["chair", "sofa"], ax=axis)
    >>> [text.get_text() for text in shown.get_texts()]
    ['chair', 'sofa']
    """
    ax = ax or plt.gca()
    unlabelled = isinstance(labels, Tensor) and bool(
        (labels == IGNORE_LABEL).any()
    )
    if labels is None:
        names: Iterable[str] = class_set.names
    elif isinstance(labels, Tensor):
        names = [
            class_set.names[k]
            for k in torch.unique(labels).tolist()
            if k != IGNORE_LABEL
        ]
    else:
        names = labels
    colors = {name: class_set.palette[class_set.index(name)] for name in names}
    if unlabelled:
        colors["unlabelled"] = UNLABELLED_COLOR
    handles = [
        Patch(
            facecolor=(r / 255, g / 255, b / 255), edgecolor="0.3", label=name
        )
        for name, (r, g, b) in colors.items()
    ]
    return ax.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        handlelength=1,
        handleheight=1,
    )


def show_label_image(
    labels: Integer[Tensor, "H W"],
    class_set: ClassSet,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    names: bool = True,
) -> Axes:
    """Show an (H, W) label image in the class colours.

    With ``names`` each class is also written on its largest region, where that
    covers over 1.5 % of the image, because colour alone must not carry the
    meaning.

    >>> from vlg_lib.classes import ROOMS_12
    >>> labels = torch.full((20, 30), ROOMS_12.index("chair"))
    >>> shown = show_label_image(labels, ROOMS_12, ax=plt.figure().gca())
    >>> [text.get_text() for text in shown.texts]
    ['chair']
    """
    ax = ax or plt.subplots()[1]
    ax.imshow(label_colors(labels, class_set).numpy())
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    for k in torch.unique(labels).tolist() if names else []:
        place = _middle_of_largest_region(
            (labels == k).cpu().numpy(), 0.015 * labels.numel()
        )
        if k != IGNORE_LABEL and place is not None:
            box = {
                "facecolor": "white",
                "alpha": 0.8,
                "edgecolor": "none",
                "pad": 1,
            }
            ax.text(
                *place,
                class_set.names[k],
                ha="center",
                va="center",
                fontsize=7,
                color="black",
                bbox=box,
            )
    return ax


def _middle_of_largest_region(
    inside: np.ndarray, smallest: float
) -> tuple[int, int] | None:
    """(column, row) of the pixel deepest inside the largest connected region,
    or None if all are too small.
    """
    regions, count = ndimage.label(inside)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    if sizes.size == 0 or sizes.max() < smallest:
        return None
    depth = ndimage.distance_transform_edt(
        np.pad(regions == 1 + sizes.argmax(), 1)
    )[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(column), int(row)


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook shows; ``text`` says the same to those
    who see plain text only.
    """

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def pipeline_strip(current: str) -> Html:
    """The pipeline as a strip of boxes with "you are here" on ``current``, one
    of ``PIPELINE_STEPS``.

    >>> pipeline_strip("fusion").text.split(". ")[1]
    'You are here: fusion.'
    """
    if current not in PIPELINE_STEPS:
        raise ValueError(
            f"unknown step {current!r}; known: {', '.join(PIPELINE_STEPS)}"
        )
    box = (
        "flex:1;margin:0;padding:.4em;border:1px solid"
        " #5f6b7a;border-radius:5px;text-align:center;align-content:center"
    )
    here = (
        f'<li style="{box};background:#0b57d0;color:#fff"'
        f' aria-current="step"><b>{current}</b><br>you are here</li>'
    )
    other = f'<li style="{box};background:#eef1f6;color:#1f2328">'
    items = [
        here if step == current else f"{other}{step}</li>"
        for step in PIPELINE_STEPS
    ]
    arrow = '<li style="align-self:center" aria-hidden="true">&rarr;</li>'
    alt = f"The pipeline: {', '.join(PIPELINE_STEPS)}. You are here: {current}."
    style = (
        "display:flex;gap:.3em;margin:.5rem"
        " 0;padding:0;list-style:none;flex-wrap:wrap;font-size:.75rem"
    )
    return Html(
        f'<ol class="vlg-strip" aria-label="{alt}"'
        f' style="{style}">{arrow.join(items)}</ol>',
        alt,
    )
