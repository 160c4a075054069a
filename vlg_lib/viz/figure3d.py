"""Point clouds that show themselves: in the book, in JupyterLab, on Colab, and
as a page of their own.

A figure carries int16 coordinates and uint8 labels as base64, a still picture
for print and for readers without JavaScript, and is drawn by a small loader
(``assets/vlg3d.js``) that the book and stand-alone pages share.
"""

import base64
import html
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from vlg_lib.artifacts import atomic_write
from vlg_lib.classes import IGNORE_LABEL, ClassSet
from vlg_lib.viz.payload import (
    ASSETS,
    choose_points,
    class_fields,
    count_labels,
    encode,
    geometry,
    label_bytes,
    label_colors,
    poster,
    rank_logits,
)

PLOTLY_JS = "4.1.1"
"""The version of the plotly.js bundle in ``assets``."""


@dataclass(frozen=True)
class View3D:
    """How much of a cloud a 3D figure shows at first."""

    max_points: int = 20_000
    """At most so many points are drawn, chosen by a fixed seed."""
    cut: float | str | None = "auto"
    """A height in metres above which points are hidden at first. "auto": the
    top of a room-sized cloud, to look under its ceiling. None: nothing, and no
    slider."""


@dataclass(frozen=True)
class Figure3D:
    """A point cloud that shows itself where a notebook displays it."""

    data: dict[str, Any]
    """What the loader reads: coordinates, labels or colours, how to look."""
    poster: bytes
    """A still picture, PNG."""
    alt: str
    """What a reader who cannot see the figure should know."""
    caption: str | None
    """A line under the figure."""
    counts: dict[str, int]
    """Points of each label, by name; empty for a cloud in its own colours."""

    def to_html(self) -> str:
        """The figure as a fragment, for a page that has the loader (the book,
        or :meth:`to_page`).
        """
        caption = ""
        if self.caption:
            caption = f"<figcaption>{html.escape(self.caption)}</figcaption>"
        data = json.dumps(self.data, separators=(",", ":"))
        return _fill(
            "figure3d.html",
            alt=html.escape(self.alt),
            poster=base64.b64encode(self.poster).decode(),
            legend=self._legend(),
            caption=caption,
            # a "</script>" among the names would end the script
            data=data.replace("</", "<\\/"),
        )

    def _legend(self) -> str:
        """Each label with its colour and its count, as a list; "" without
        labels.
        """
        if not self.counts:
            return ""
        names, palette = self.data["names"], self.data["palette"]
        colors = dict(zip(names, palette, strict=True))
        items = []
        for name, count in self.counts.items():
            color = colors.get(name, self.data["unlabelled"])
            name = html.escape(name)
            items.append(
                f'<li><span class="vlg3d-swatch" style="background:{color}">'
                f'</span>{name} <span class="vlg3d-count"'
                f' data-class="{name}">{count:,}</span></li>'
            )
        return f'<ul class="vlg3d-legend">{"".join(items)}</ul>'

    def to_page(self, title: str, plotly_address: str | None = None) -> str:
        """The figure as a page of its own, plotly inside or from an address."""
        if plotly_address is None:
            plotly = (ASSETS / "plotly-gl3d.min.js").read_text(encoding="utf8")
        else:
            plotly = f"window.VLG3D_PLOTLY = {json.dumps(plotly_address)};"
        return _fill(
            "page3d.html",
            title=html.escape(title),
            css=(ASSETS / "vlg3d.css").read_text(encoding="utf8"),
            plotly=plotly,
            loader=(ASSETS / "vlg3d.js").read_text(encoding="utf8"),
            figure=self.to_html(),
        )

    def to_plotly(self) -> go.Figure:
        """The same points and colours as a plotly figure, to style further."""
        xyz = self._numbers("points", "<i2", 3) * self.data["unit"] + np.array(
            self.data["center"]
        )
        if "labels" in self.data:
            palette = np.array([*self.data["palette"], self.data["unlabelled"]])
            labels = self._numbers("labels", "u1", 1)[:, 0]
            colors = palette[labels.clip(max=len(palette) - 1)]
        else:
            rows = self._numbers("colors", "u1", 3)
            colors = np.array([f"rgb({r},{g},{b})" for r, g, b in rows])
        cut = self.data["cut"]
        shown = xyz[:, 2] <= (np.inf if cut is None else cut)
        x, y, z = xyz[shown].astype(np.float32).T
        marker = {"size": self.data["size"], "color": colors[shown]}
        axes = {f"{axis}axis": {"visible": False} for axis in "xyz"}
        camera = {"eye": dict(zip("xyz", self.data["eye"], strict=True))}
        return go.Figure(
            go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker),
            {
                "scene": axes | {"aspectmode": "data", "camera": camera},
                "margin": dict.fromkeys("lrtb", 0),
            },
        )

    def _numbers(self, field: str, dtype: str, columns: int) -> np.ndarray:
        return np.frombuffer(base64.b64decode(self.data[field]), dtype).reshape(
            -1, columns
        )

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> dict[str, Any]:
        """The fragment where the book is made, the loader's home.

        Elsewhere Jupyter draws plotly figures itself; Colab and the page that
        thinks take a page in a frame.
        """
        colab, thinks = "google.colab" in sys.modules, "logits" in self.data
        live = colab or bool(
            os.environ.get("JPY_SESSION_NAME") or os.environ.get("VSCODE_PID")
        )
        markup = self.to_html()
        if live and not colab and not thinks:
            return {
                "application/vnd.plotly.v1+json": json.loads(
                    self.to_plotly().to_json()
                ),
                "text/plain": repr(self),
            }
        if live:
            address = (
                f"https://cdn.plot.ly/plotly-gl3d-{PLOTLY_JS}.min.js"
                if colab
                else None
            )
            page, alt = (
                html.escape(text)
                for text in (self.to_page(self.alt, address), self.alt)
            )
            style = f"width:100%;height:{860 if thinks else 660}px;border:0"
            markup = (
                f'<iframe title="{alt}" style="{style}"'
                f' srcdoc="{page}"></iframe>'
            )
        return {"text/html": markup, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"Figure3D: {self.alt}"


def _fill(template: str, **fields: str) -> str:
    return Template((ASSETS / template).read_text(encoding="utf8")).substitute(
        fields
    )


_DEFAULT_VIEW = View3D()


def show3d(
    points: Float[Tensor, "N 3"],
    labels_or_colors: Integer[Tensor, " N"] | UInt8[Tensor, "N 3"],
    *,
    alt: str,
    class_set: ClassSet | None = None,
    caption: str | None = None,
    view: View3D = _DEFAULT_VIEW,
) -> Figure3D:
    """A point cloud coloured by (N,) integer labels of ``class_set`` or by (N,
    3) uint8 colours.

    ``points``: (N, 3) metres, z up. ``alt``: what a reader who cannot see the
    figure should know. ``class_set``: needed for labels. ``caption``: a line
    under the figure. ``view``: how many points are drawn, and up to what
    height. ValueError for an empty ``alt``, for lengths that differ and for
    labels outside the class set.

    >>> points = torch.rand(50, 3)
    >>> show3d(points, (255 * points).byte(), alt="a cube of noise")
    Figure3D: a cube of noise
    """
    others = {"labels or colours": labels_or_colors}
    chosen = choose_points(points, others, view.max_points, alt)
    points, values = points[chosen].cpu(), labels_or_colors[chosen].cpu()
    data = geometry(points, view.cut)
    counts: dict[str, int] = {}
    if values.ndim == 2:
        colors = values
        data |= {"colors": encode(colors)}
    elif class_set is None:
        raise ValueError(
            "labels need a class_set; colours are an (N, 3) uint8 tensor"
        )
    else:
        colors = label_colors(values, class_set)
        counts = count_labels(values, class_set)
        data |= class_fields(class_set)
        data |= {"labels": encode(label_bytes(values))}
    return Figure3D(data, poster(points, colors, data), alt, caption, counts)


def tag_room(
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    logits: Float[Tensor, "N K"],
    class_set: ClassSet,
    scene_labels: Bool[Tensor, " K"],
    *,
    alt: str,
    caption: str | None = None,
    view: View3D = _DEFAULT_VIEW,
) -> Figure3D:
    """The page that thinks: ticking scene tags masks the logits and recolours
    the room in the reader's browser.

    ``logits``: (N, K) cosines of points and words; a row of zeros is a point
    that no view saw, and stays unlabelled. Their ranks travel as uint8
    (:func:`rank_logits`), so that for every choice of tags the browser's argmax
    is the library's. ``scene_labels``: (K,) bool, the tags that are ticked at
    first. Other arguments as in :func:`show3d`.

    >>> from vlg_lib.classes import own_class_set
    >>> cups = own_class_set(["cup", "plate"])
    >>> points, logits = torch.rand(50, 3), torch.rand(50, 2)
    >>> colors, tags = (255 * points).byte(), torch.tensor([True, False])
    >>> tag_room(points, colors, logits, cups, tags, alt="cups").counts
    {'cup': 50}
    """
    if logits.shape[1] != len(class_set) or len(scene_labels) != len(class_set):
        raise ValueError(
            f"{class_set.name!r} has {len(class_set)} classes; found"
            f" {logits.shape[1]} columns of logits and {len(scene_labels)}"
            " scene labels"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "logits contain NaN or infinite values: pass them before the mask"
        )
    others = {"colours": colors, "logits": logits}
    chosen = choose_points(points, others, view.max_points, alt)
    seen = (logits != 0).any(1)
    masked = logits.masked_fill(~scene_labels.to(logits.device), -torch.inf)
    labels = torch.where(
        seen & scene_labels.any(), masked.argmax(1), IGNORE_LABEL
    )
    figure = show3d(
        points,
        labels,
        alt=alt,
        class_set=class_set,
        caption=caption,
        view=view,
    )
    thoughts = {
        "colors": encode(colors[chosen]),
        "logits": encode(rank_logits(logits[chosen])),
        "seen": encode(seen[chosen].to(torch.uint8)),
        "scene_labels": scene_labels.tolist(),
    }
    return replace(figure, data=figure.data | thoughts)


def save_page3d(
    path: Path,
    points: Float[Tensor, "N 3"],
    labels_or_colors: Integer[Tensor, " N"] | UInt8[Tensor, "N 3"],
    class_set: ClassSet | None = None,
    title: str = "A point cloud",
    *,
    alt: str | None = None,
) -> Path:
    """Write :func:`show3d` as one HTML file that needs no other file and no
    network; returns ``path``.

    >>> from tempfile import TemporaryDirectory
    >>> points = torch.rand(50, 3)
    >>> colors = (255 * points).byte()
    >>> with TemporaryDirectory() as root:
    ...     page = save_page3d(Path(root) / "cloud.html", points, colors)
    ...     page.read_text("utf-8")[:15]
    '<!DOCTYPE html>'
    """
    figure = show3d(
        points,
        labels_or_colors,
        alt=alt or title,
        class_set=class_set,
        caption=title,
        view=View3D(max_points=60_000),
    )
    with atomic_write(path) as file:
        file.write(figure.to_page(title).encode())
    return path
