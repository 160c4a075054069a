"""What a 3D figure carries into a page: coordinates, labels, logits and a still
picture, as few bytes as will do.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL, UNLABELLED_COLOR, ClassSet

ASSETS = Path(__file__).parent.parent / "assets"
"""The style file, the loader of 3D figures and the plotly that it loads."""

UNLABELLED_BYTE = 255
"""The ignore label in a page, where labels are uint8."""

EYE = (0.62, -0.85, 1.75)
"""Where plotly's camera stands at first, in units of the cloud's size."""

_LARGEST_INT16 = 32_000
# rooms are cut open at the top, so look a little below the middle
_CENTER_OF_VIEW = (0.0, 0.0, -0.2)
_FIELD_OF_VIEW = 45.0  # plotly's, in degrees, vertical


def encode(values: Integer[Tensor, "*shape"] | UInt8[Tensor, "*shape"]) -> str:
    """Base64 of a tensor's bytes, little endian."""
    array = values.cpu().contiguous().numpy()
    return base64.b64encode(
        array.astype(array.dtype.newbyteorder("<")).tobytes()
    ).decode()


def choose_points(
    points: Float[Tensor, "N 3"],
    others: dict[str, Tensor],
    max_points: int,
    alt: str,
) -> Integer[Tensor, " M"]:
    """Indices of the points to draw, by a fixed seed; ValueError for what no
    figure can be made of.
    """
    if not alt.strip():
        raise ValueError(
            "alt is empty: say what a reader who cannot see the figure should"
            " know"
        )
    if len(points) == 0:
        raise ValueError("no points to show")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points contain NaN or infinite coordinates")
    for name, other in others.items():
        if len(other) != len(points):
            raise ValueError(f"{len(points)} points but {len(other)} {name}")
    if len(points) <= max_points:
        return torch.arange(len(points))
    return (
        torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[
            :max_points
        ]
        .sort()
        .values
    )


def geometry(
    points: Float[Tensor, "N 3"], cut: float | str | None
) -> dict[str, Any]:
    """The points as int16 millimetres about their middle (coarser for clouds
    over 64 m), and how to look at them.
    """
    low, high = points.amin(0), points.amax(0)
    center = ((low + high) / 2).double()
    unit = max(0.001, float((high - low).max()) / 2 / _LARGEST_INT16)
    if cut == "auto":
        height = float(high[2] - low[2])
        cut = float(low[2]) + 0.85 * height if 1.5 < height < 6.0 else None
    padding = torch.clamp(0.02 * (high - low), min=0.01)
    return {
        "points": encode(
            ((points.double() - center) / unit).round().to(torch.int16)
        ),
        "unit": unit,
        "center": center.tolist(),
        "bounds": [(low - padding).tolist(), (high + padding).tolist()],
        "cut": None if cut is None else round(float(cut), 3),
        "eye": list(EYE),
        "center_of_view": list(_CENTER_OF_VIEW),
        "size": 3.0,
        "unlabelled": _hex(UNLABELLED_COLOR),
    }


def class_fields(class_set: ClassSet) -> dict[str, Any]:
    """Names and colours of the classes, for the page."""
    if len(class_set) > UNLABELLED_BYTE - 1:
        raise ValueError(
            f"a 3D figure shows at most {UNLABELLED_BYTE - 1} classes, found"
            f" {len(class_set)}"
        )
    return {
        "names": list(class_set.names),
        "palette": [_hex(color) for color in class_set.palette],
    }


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def label_colors(
    labels: Integer[Tensor, "*shape"], class_set: ClassSet
) -> UInt8[Tensor, "*shape 3"]:
    """The palette colour of each label; the ignore label gets
    ``UNLABELLED_COLOR``. ValueError for other labels.

    >>> from vlg_lib.classes import ROOMS_12
    >>> label_colors(torch.tensor([0, -1]), ROOMS_12).tolist()
    [[255, 220, 255], [190, 190, 190]]
    """
    if labels.numel() and (
        int(labels.min()) < IGNORE_LABEL or int(labels.max()) >= len(class_set)
    ):
        raise ValueError(
            f"labels of {class_set.name!r} are {IGNORE_LABEL} to"
            f" {len(class_set) - 1}, found {int(labels.min())} to"
            f" {int(labels.max())}"
        )
    table = torch.cat(
        [
            class_set.colors(),
            torch.tensor([UNLABELLED_COLOR], dtype=torch.uint8),
        ]
    )
    return table[
        torch.where(labels == IGNORE_LABEL, len(class_set), labels).long().cpu()
    ]


def label_bytes(labels: Integer[Tensor, " N"]) -> UInt8[Tensor, " N"]:
    """Labels as uint8, with 255 for the ignore label."""
    return torch.where(labels == IGNORE_LABEL, UNLABELLED_BYTE, labels).to(
        torch.uint8
    )


def count_labels(
    labels: Integer[Tensor, " N"], class_set: ClassSet
) -> dict[str, int]:
    """Points of each class that occurs, and of "unlabelled"."""
    counts = torch.bincount(labels + 1, minlength=len(class_set) + 1).tolist()
    named = zip(("unlabelled", *class_set.names), counts, strict=True)
    return {name: count for name, count in named if count}


def rank_logits(logits: Float[Tensor, "N K"]) -> UInt8[Tensor, "N K"]:
    """The rank of each class in its row, 0 for the least; of equal logits the
    lower class ranks higher.

    All that an argmax needs: under any mask of classes the largest rank is
    where the largest logit is.
    """
    # flipped: of equals the lower class comes last
    ascending = logits.flip(1).argsort(dim=1, stable=True)
    return ascending.argsort(dim=1).flip(1).to(torch.uint8)


def poster(
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    data: dict[str, Any],
    width: int = 640,
    height: int = 420,
) -> bytes:
    """A still PNG of the cloud as plotly's camera first shows it: perspective,
    near points over far ones.
    """
    keep = (
        torch.ones(len(points), dtype=torch.bool)
        if data["cut"] is None
        else points[:, 2] <= data["cut"]
    )
    xyz, rgb = points[keep].double().numpy(), colors[keep].numpy()
    low, high = (np.array(bound) for bound in data["bounds"])
    scaled = (xyz - (low + high) / 2) / np.prod(high - low) ** (1 / 3)
    eye = np.array(data["eye"], dtype=float)
    target = np.array(data["center_of_view"], dtype=float)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-6:  # seen from straight above
        right = np.array([1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    camera = (scaled - eye) @ np.stack(
        [right, -np.cross(right, forward), forward], axis=1
    )
    camera, rgb = camera[camera[:, 2] > 0.05], rgb[camera[:, 2] > 0.05]
    focal = height / 2 / np.tan(np.radians(_FIELD_OF_VIEW) / 2)
    column, row = (
        (camera[:, :2] / camera[:, 2:] * focal + [width / 2, height / 2])
        .round()
        .astype(int)
        .T
    )
    canvas = np.full((height, width, 3), 252, dtype=np.uint8)
    # far to near: of two points on one pixel the last written stays
    order = np.argsort(-camera[:, 2])
    y = (row[order, None] + np.repeat([-1, 0, 1], 3)).ravel()
    x = (column[order, None] + np.tile([-1, 0, 1], 3)).ravel()
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    canvas[y[inside], x[inside]] = np.repeat(rgb[order], 9, axis=0)[inside]
    file = io.BytesIO()
    Image.fromarray(canvas).quantize(48, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    return file.getvalue()
