"""Point clouds that show themselves: in the book, in JupyterLab, on Colab, and as a page of their own.

A figure carries int16 coordinates and uint8 labels as base64, a still picture for print and for readers without
JavaScript, and is drawn by a small loader (``assets/vlg3d.js``) that the book and stand-alone pages share.
"""

import base64
import html
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

from vlg_lib.classes import IGNORE_LABEL, ClassSet
from vlg_lib.store import atomic_write
from vlg_lib.viz.cloud import (
    choose_points,
    class_fields,
    count_labels,
    encode,
    geometry,
    label_bytes,
    poster,
    quantise_logits,
)
from vlg_lib.viz.pictures import ASSETS, label_colors

PLOTLY_JS = "4.1.1"
"""The version of the plotly.js bundle in ``assets``."""

_EYE = (0.62, -0.85, 1.75)


@dataclass(frozen=True)
class Figure3D:
    """A 3D figure. ``data``: what the loader reads; ``poster``: a PNG; ``counts``: points of each label, by name."""

    data: dict[str, Any]
    poster: bytes
    alt: str
    caption: str | None
    counts: dict[str, int]

    def to_html(self) -> str:
        """The figure as a fragment, for a page that has the loader (the book, or :meth:`to_page`)."""
        items = []
        colors = dict(zip(self.data.get("names", ()), self.data.get("palette", ()), strict=True))
        for name, count in self.counts.items():
            color = colors.get(name, self.data["unlabelled"])
            swatch = f'<span class="vlg3d-swatch" style="background:{color}"></span>'
            name = html.escape(name)
            items.append(f'<li>{swatch}{name} <span class="vlg3d-count" data-class="{name}">{count:,}</span></li>')
        return _fill(
            "figure3d.html",
            alt=html.escape(self.alt),
            poster=base64.b64encode(self.poster).decode(),
            legend=f'<ul class="vlg3d-legend">{"".join(items)}</ul>' if items else "",
            caption=f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else "",
            data=json.dumps(self.data, separators=(",", ":")).replace("</", "<\\/"),
        )

    def to_page(self, title: str, plotly_address: str | None = None) -> str:
        """The figure as a page of its own with plotly inside, or loaded from an address."""
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

    def to_plotly(self) -> Any:
        """The same picture as a ``plotly.graph_objects.Figure``."""
        import plotly.graph_objects as go

        xyz = np.frombuffer(base64.b64decode(self.data["points"]), "<i2").reshape(-1, 3) * self.data["unit"]
        xyz = (xyz + self.data["center"]).astype(np.float32)
        if "labels" in self.data:
            index = np.minimum(self._bytes("labels"), len(self.data["names"]))
            colors = np.array([*self.data["palette"], self.data["unlabelled"]])[index]
            text = np.array([*self.data["names"], "unlabelled"])[index]
        else:
            colors = np.array([f"rgb({r},{g},{b})" for r, g, b in self._bytes("colors").reshape(-1, 3).tolist()])
            text = np.full(len(colors), "")
        keep = np.full(len(xyz), True) if self.data["cut"] is None else xyz[:, 2] <= self.data["cut"]
        x, y, z = np.ascontiguousarray(xyz[keep].T)
        marker = {"size": self.data["size"], "color": colors[keep].tolist()}
        trace = go.Scatter3d(x=x, y=y, z=z, mode="markers", marker=marker, text=text[keep].tolist(), hoverinfo="text")
        axis = {"visible": self.data["axes"]}
        camera = {key: dict(zip("xyz", self.data[key], strict=True)) for key in ("eye", "center_of_view")}
        camera["center"] = camera.pop("center_of_view")
        scene = {"aspectmode": "data", "camera": camera, "xaxis": axis, "yaxis": axis, "zaxis": axis}
        return go.Figure(trace, {"scene": scene, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "height": 460})

    def _bytes(self, field: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(self.data[field]), np.uint8)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        front_end = _front_end()
        thinks = "logits" in self.data
        if front_end == "colab" or (front_end == "live" and thinks):
            address = f"https://cdn.plot.ly/plotly-gl3d-{PLOTLY_JS}.min.js" if front_end == "colab" else None
            title = "Scene tags" if thinks else "A point cloud"
            page, alt = html.escape(self.to_page(title, address)), html.escape(self.alt)
            style = f"width:100%;height:{860 if thinks else 660}px;border:0"
            return {"text/html": f'<iframe title="{alt}" style="{style}" srcdoc="{page}"></iframe>'}
        bundle: dict[str, Any] = {"text/html": self.to_html(), "text/plain": repr(self)}
        if front_end == "live":
            bundle["application/vnd.plotly.v1+json"] = json.loads(self.to_plotly().to_json())
        return bundle

    def __repr__(self) -> str:
        return f"Figure3D: {self.alt}"


def _fill(template: str, **fields: str) -> str:
    return Template((ASSETS / template).read_text(encoding="utf8")).substitute(fields)


def _front_end() -> str:
    """Who looks at the kernel's output: "colab", "live" (Jupyter, VS Code) or "book" (executed for the site)."""
    if "google.colab" in sys.modules:
        return "colab"
    return "live" if os.environ.get("JPY_SESSION_NAME") or os.environ.get("VSCODE_PID") else "book"


def show3d(
    points: Float[Tensor, "N 3"],
    labels_or_colors: Integer[Tensor, " N"] | UInt8[Tensor, "N 3"],
    *,
    alt: str,
    class_set: ClassSet | None = None,
    caption: str | None = None,
    max_points: int = 20_000,
    cut: float | str | None = "auto",
    eye: tuple[float, float, float] = _EYE,
    size: float = 3.0,
    axes: bool = False,
) -> Figure3D:
    """A point cloud coloured by (N,) integer labels of ``class_set`` or by (N, 3) uint8 colours.

    ``points``: (N, 3) metres, z up; at most ``max_points`` of them are drawn, chosen by a fixed seed. ``alt``: what a
    reader who cannot see the figure should know. ``cut`` hides the points above a height in metres at first ("auto":
    the top of a room-sized cloud, to look under its ceiling; None: nothing, and no slider). ``eye``: plotly's camera.
    ValueError for an empty ``alt``, for lengths that differ and for labels outside the class set.
    """
    chosen = choose_points(points, {"labels or colours": labels_or_colors}, max_points, alt)
    points, values = points[chosen].cpu(), labels_or_colors[chosen].cpu()
    data = geometry(points, cut, eye, size, axes)
    if values.ndim == 2:
        return Figure3D(data | {"colors": encode(values)}, poster(points, values, data), alt, caption, {})
    if class_set is None:
        raise ValueError("labels need a class_set; colours are an (N, 3) uint8 tensor")
    colors = label_colors(values, class_set)
    data |= class_fields(class_set) | {"labels": encode(label_bytes(values))}
    return Figure3D(data, poster(points, colors, data), alt, caption, count_labels(values, class_set))


def tag_room(
    points: Float[Tensor, "N 3"],
    colors: UInt8[Tensor, "N 3"],
    logits: Float[Tensor, "N K"],
    class_set: ClassSet,
    scene_labels: Bool[Tensor, " K"],
    *,
    alt: str,
    caption: str | None = None,
    max_points: int = 20_000,
    cut: float | str | None = "auto",
    eye: tuple[float, float, float] = _EYE,
    size: float = 3.0,
) -> Figure3D:
    """The page that thinks: ticking scene tags masks the logits and recolours the room in the reader's browser.

    ``logits``: (N, K) cosines of points and words; a row of zeros is a point that no view saw, and stays unlabelled.
    They travel as uint8 (:func:`quantise_logits`), so that for every choice of tags the browser's argmax is the
    library's. ``scene_labels``: (K,) bool, the tags that are ticked at first. Other arguments as in :func:`show3d`.
    """
    if logits.shape[1] != len(class_set) or len(scene_labels) != len(class_set):
        raise ValueError(
            f"{class_set.name!r} has {len(class_set)} classes; found {logits.shape[1]} columns of logits and "
            f"{len(scene_labels)} scene labels"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("logits contain NaN or infinite values: pass them before the mask")
    chosen = choose_points(points, {"colours": colors, "logits": logits}, max_points, alt)
    points, colors, logits = points[chosen].cpu(), colors[chosen].cpu(), logits[chosen].cpu()
    scene_labels = scene_labels.cpu()
    seen = (logits != 0).any(1)
    masked = logits.masked_fill(~scene_labels, -torch.inf)
    labels = torch.where(seen & scene_labels.any(), masked.argmax(1), IGNORE_LABEL)
    data = geometry(points, cut, eye, size, axes=False) | class_fields(class_set)
    data["colors"], data["labels"] = encode(colors), encode(label_bytes(labels))
    data["logits"] = encode(quantise_logits(logits))
    data["seen"] = encode(seen.to(torch.uint8))
    data["scene_labels"] = scene_labels.tolist()
    picture = poster(points, label_colors(labels, class_set), data)
    return Figure3D(data, picture, alt, caption, count_labels(labels, class_set))


def save_page3d(
    path: Path,
    points: Float[Tensor, "N 3"],
    labels_or_colors: Integer[Tensor, " N"] | UInt8[Tensor, "N 3"],
    class_set: ClassSet | None = None,
    title: str = "A point cloud",
    *,
    alt: str | None = None,
    max_points: int = 60_000,
    cut: float | str | None = "auto",
) -> Path:
    """Write :func:`show3d` as one HTML file that needs no other file and no network; returns ``path``."""
    figure = show3d(
        points, labels_or_colors, alt=alt or title, class_set=class_set, caption=title, max_points=max_points, cut=cut
    )
    with atomic_write(path) as file:
        file.write(figure.to_page(title).encode())
    return path
