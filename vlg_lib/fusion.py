"""From the pixels of many views to one embedding a point: multi-view averaging
(chapter 03; paper, Sec. 3.1).

A point's embedding is a mean over the frames that see it, so the frames can
pass one after another: each adds the rows of its visible points to a running
sum. Only those rows are read, normalised and added, and no array of the size
points x dimensions is made but the sum itself; where even that is too large (3
GB for a million points of 768 dimensions), it lies in a file, of which a part
is in memory at a time.
"""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Real, UInt8
from torch import Tensor
from torch.nn.functional import embedding_bag
from tqdm.auto import tqdm

from vlg_lib.data.embedding_files import write_fused
from vlg_lib.geometry.visibility import (
    PointPixelPairs,
    Visibility,
    splat_radius,
    visible_points,
)
from vlg_lib.precision import sum_dtype
from vlg_lib.scene import Camera, PointEmbeddings, Scene

Embed = Callable[[UInt8[Tensor, "height width 3"]], Float[Tensor, "h w D"]]
"""A frozen 2D model as it is seen from here: an image in, a map of embeddings
(often coarser than the image) out."""

Sampling = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class FusionSettings:
    """How the views of a point become one embedding."""

    normalize: bool = True
    """Whether each view, and their mean, is brought to length one, so that a
    view is one vote. The paper's release: a plain mean."""
    sampling: Sampling = "bilinear"
    """How a map is read at a pixel: the ``nearest`` cell, or ``bilinear``, a
    mean of the four around it, which labels more points right in 253 of 256
    training rooms (benchmarks/stage1_choices.py). The paper's release:
    nearest."""
    max_memory: int | None = None
    """Bytes for the sums, None for no limit; larger ones are kept in a
    temporary file (:class:`ViewAverager`). The result is the same."""


ROWS_AT_A_TIME, BYTES_AT_A_TIME = 2048, 2**21
"""The most rows, and their bytes, that are gathered before they are added: few
enough to be still in the processor's cache, and enough that calls cost little
(benchmarks/fusion.py)."""

CELLS_AT_A_TIME = 512
"""Cells of a channel-first map that are copied together."""

# bytes that the system may take into memory around a row that is read from a
# file
_READ_AROUND = 2**16


def sampling_weights(
    pixels: Real[Tensor, "V 2"],
    camera: Camera,
    width: int,
    height: int,
    sampling: Sampling = "bilinear",
) -> tuple[Int[Tensor, "V cells"], Float[Tensor, "V cells"]]:
    """Which cells of a map of ``width`` x ``height`` make up the value at each
    pixel (u, v), and with what weights.

    The map covers the camera's image and its cell centres are integers, as
    pixel centres are, so pixel u lies at (u + 1/2) width / camera.width - 1/2
    on it. ``"nearest"``: the one cell that holds the pixel, of weight 1.
    ``"bilinear"``: the four cells around it (at the edge, the outermost ones),
    the upper left one first; or the one cell, where the map has the image's
    size and pixels are integers. Cells are numbered row after row.
    """
    if not pixels.is_floating_point() and (width, height) == (
        camera.width,
        camera.height,
    ):
        u, v = pixels.long().unbind(-1)
        cells = v.clamp(0, height - 1) * width + u.clamp(0, width - 1)
        return cells[:, None], torch.ones_like(cells[:, None]).float()
    size = torch.tensor(
        [width, height], dtype=torch.float64, device=pixels.device
    )
    image_size = torch.tensor(
        [camera.width, camera.height], dtype=torch.float64, device=pixels.device
    )
    position = (pixels + 0.5) * size / image_size - 0.5
    if sampling == "nearest":
        corners, shares = (
            (position + 0.5).floor()[:, None],
            pixels.new_ones(len(pixels), 1, dtype=torch.float32),
        )
    else:
        low = position.floor()
        right, down = (position - low).float().unbind(-1)
        corners = low[:, None] + torch.tensor(
            [[0, 0], [1, 0], [0, 1], [1, 1]], device=pixels.device
        )
        shares = torch.stack(
            [
                (1 - right) * (1 - down),
                right * (1 - down),
                (1 - right) * down,
                right * down,
            ],
            dim=1,
        )
    u, v = corners.clamp(min=0).minimum(size - 1).long().unbind(-1)
    return v * width + u, shares


def sample_embeddings(
    dense: Float[Tensor, "h w D"],
    pixels: Real[Tensor, "V 2"],
    camera: Camera,
    sampling: Sampling = "bilinear",
) -> Float[Tensor, "V D"]:
    """The embeddings (V, D) at V pixels (u, v) of the camera's image, from a
    map that covers that image.

    >>> camera = Camera(fx=4.0, fy=4.0, cx=1.5, cy=0.5, width=4, height=2)
    >>> dense = torch.tensor([[[1.0], [2.0]]])  # two cells of two pixels each
    >>> pixels = torch.tensor([[0, 0], [1, 0], [2, 1]])
    >>> sample_embeddings(dense, pixels, camera).flatten()
    tensor([1.0000, 1.2500, 1.7500])
    >>> sample_embeddings(dense, pixels, camera, "nearest").flatten()
    tensor([1., 1., 2.])
    """
    height, width, dim = dense.shape
    cells, weights = sampling_weights(
        pixels.to(dense.device), camera, width, height, sampling
    )
    rows = _weighted_rows(dense.reshape(height * width, dim), cells, weights)
    return rows.to(dense.dtype)


class ViewAverager:
    """A running mean of embeddings over views for N points: the estimator of
    P^2D, one view at a time.

    With ``normalize`` each row is scaled to unit length before it is added, and
    so is the mean: a view is one vote, however long its embedding. Without it
    the plain mean is kept (of colours, say). Sums are float32, on ``device``.

    ``max_memory``: bytes for the sums, None for no limit. Larger sums are kept
    in a temporary file of their size (in the folder that TMPDIR names, which
    must be on a disk), on the CPU, and are added in the same order, so the
    result is the same to the bit; :meth:`save` it, since it is as large as the
    sums. OSError where the disk is full.
    """

    def __init__(
        self,
        points: int,
        dim: int,
        *,
        normalize: bool = True,
        device: torch.device | str = "cpu",
        max_memory: int | None = None,
    ) -> None:
        self.normalize = normalize
        self._copy: Tensor | None = None  # of the last channel-first map
        size, self._limit, self._held = 4 * points * dim, max_memory or 0, 0
        self._file = (
            None
            if max_memory is None or size <= max_memory
            else _temporary_file(size)
        )
        if self._file is None:
            self.sums = torch.zeros(points, dim, device=device)
        else:
            self.sums = torch.frombuffer(self._file, dtype=torch.float32).view(
                points, dim
            )
        self.view_counts = torch.zeros(
            points, dtype=torch.int32, device=self.sums.device
        )

    def add(
        self, indices: Int[Tensor, " V"], rows: Float[Tensor, "V D"]
    ) -> None:
        """Add one row each to the points ``indices``, and count a view for them
        (a vote of length 0 is none).
        """
        rows = rows.to(self.sums.dtype, copy=self.normalize)
        self._count(indices, self._add_rows(indices, rows))

    def _add_rows(
        self, indices: Int[Tensor, " V"], rows: Float[Tensor, "V D"]
    ) -> Float[Tensor, " V"]:
        """Add rows to the sums, brought to length one in place where directions
        are averaged; the lengths that they had then, else ones.
        """
        if self.normalize:
            lengths = torch.linalg.vector_norm(rows, dim=1)
            rows *= lengths.clamp(min=1e-12).reciprocal_()[:, None]
        else:
            lengths = rows.new_ones(len(rows))
        device = self.sums.device
        self.sums.index_add_(0, indices.to(device), rows.to(device))
        self._touch(len(rows) * (4 * rows.shape[1] + _READ_AROUND))
        return lengths

    def _count(
        self, indices: Int[Tensor, " V"], lengths: Float[Tensor, " V"]
    ) -> None:
        """Count a view for points, but not where a row had length 0."""
        device = self.sums.device
        votes = (lengths > 0).int().to(device)
        self.view_counts.index_add_(0, indices.to(device), votes)

    def _touch(self, size: int) -> None:
        """Count bytes of the file that are now in memory, and let all of them
        go when they are too many.
        """
        self._held += size
        if (
            self._file is not None
            and self._held > self._limit
            and hasattr(mmap, "MADV_DONTNEED")
        ):
            # of a shared file: what was written stays in the file
            self._file.madvise(mmap.MADV_DONTNEED)
            self._held = 0

    def add_view(
        self,
        dense: Float[Tensor, "h w D"],
        pairs: PointPixelPairs,
        camera: Camera,
        sampling: Sampling = "bilinear",
    ) -> None:
        """Add what one view's map holds at the pixels of its visible points;
        ValueError for another dimension.

        A map in which the D numbers of a cell lie side by side is read in
        place, any other layout is copied first.
        """
        height, width, dim = dense.shape
        if dim != self.sums.shape[1]:
            raise ValueError(
                f"expected embeddings of {self.sums.shape[1]} dimensions, found"
                f" {dim}"
            )
        rows = self._channel_last(dense)
        cells, weights = sampling_weights(
            pairs.pixels, camera, width, height, sampling
        )
        at_a_time = _rows_at_a_time(dim)
        parts = zip(
            *(
                array.split(at_a_time)
                for array in (pairs.indices, cells, weights)
            ),
            strict=True,
        )
        # fresh memory for each part would often cost more than its rows
        gathered = rows.new_empty(min(at_a_time, len(cells)), dim)
        lengths = [
            self._add_rows(
                indices,
                _weighted_rows(
                    rows, part_cells, part_weights, gathered
                ).float(),
            )
            for indices, part_cells, part_weights in parts
        ]
        self._count(pairs.indices, torch.cat(lengths))

    def _channel_last(
        self, dense: Float[Tensor, "h w D"]
    ) -> Float[Tensor, "M D"]:
        """The cells of a map row after row, the D numbers of a cell side by
        side: the map itself where it is stored so, else a copy that the next
        one overwrites (fresh memory would cost as much as the copy).
        """
        height, width, dim = dense.shape
        if dense.stride(2) == 1 or not dense.is_cpu:
            return dense.reshape(height * width, dim).contiguous()
        if self._copy is None or (
            self._copy.dtype != dense.dtype
            or self._copy.numel() < dense.numel()
        ):
            self._copy = dense.new_empty(dense.numel())
        copy = self._copy[: dense.numel()].view(height * width, dim)
        _turn(dense, copy)
        return copy

    def means(self) -> Iterator[Float[Tensor, "_ D"]]:
        """The mean at every point, a block of points after another; zero where
        no view saw it.

        This ends the averaging: the sums turn into the means. Raises ValueError
        where embeddings were NaN or infinite.
        """
        at_a_time = _rows_at_a_time(self.sums.shape[1])
        for sums, counts in zip(
            *(
                array.split(at_a_time)
                for array in (self.sums, self.view_counts)
            ),
            strict=True,
        ):
            if not bool(sums.sum(dim=1).isfinite().all()):
                raise ValueError(
                    "some points got NaN or infinite embeddings: look at what"
                    " the 2D model returns"
                )
            scale = sums.norm(dim=1) if self.normalize else counts.float()
            sums /= scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            yield sums
            self._touch(4 * sums.numel())

    def result(self) -> PointEmbeddings:
        """The means as a whole (see :meth:`means`)."""
        for _ in self.means():
            pass
        return PointEmbeddings(self.sums, self.view_counts)

    def save(
        self, path: Path, manifest: Mapping[str, Any] | None = None
    ) -> None:
        """Write the means in half precision, as
        :func:`vlg_lib.data.embedding_files.write_fused` does, block after
        block.
        """
        write_fused(
            path, self.means(), self.view_counts, self.sums.shape[1], manifest
        )


def fuse_scene(
    scene: Scene,
    embed: Embed,
    visibility: Visibility | None = None,
    settings: FusionSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> PointEmbeddings:
    """P^2D of a scene: at each point, the mean over the frames that see it of
    the embedding at its pixel (Sec. 3.1).

    ``embed`` turns an image (height, width, 3) uint8 into a map (h, w, D);
    ``visibility`` says which points a frame sees, ``settings`` how views are
    averaged (None: the defaults of both). Frames are loaded, embedded and
    forgotten one after another, with a bar where ``progress`` says so. The
    result, (N, D) float32 and (N,) int32 view counts, is on ``device``; with
    ``settings.max_memory`` it may be a file mapped into memory. Raises
    ValueError for a scene without frames and for embeddings that are not finite
    or change their dimension.

    >>> from vlg_lib.rooms.scenes import room_scene
    >>> scene, _ = room_scene(0, views=2, width=40, height=30)
    >>> fused = fuse_scene(scene, lambda image: image.float())
    >>> tuple(fused.embeddings.shape) == (len(scene.points), 3)
    True
    """
    settings = settings or FusionSettings()
    visibility = visibility or Visibility()
    points = scene.points.to(device)
    averager: ViewAverager | None = None
    for frame in tqdm(
        scene.frames,
        desc=f"fusing {scene.name}",
        unit="frame",
        disable=not progress,
    ):
        if frame.depth is None and visibility.point_radius is None:
            # of the cloud, which all frames share
            radius = splat_radius(points)
            visibility = replace(visibility, point_radius=radius)
        dense = embed(frame.color).to(device)
        averager = averager or ViewAverager(
            len(points),
            dense.shape[2],
            normalize=settings.normalize,
            device=device,
            max_memory=settings.max_memory,
        )
        averager.add_view(
            dense,
            visible_points(points, frame, visibility),
            frame.camera,
            settings.sampling,
        )
        # the next map is made in its place
        del dense
    if averager is None:
        raise ValueError(
            f"scene {scene.name!r} has no frames to fuse: it needs at least one"
            " posed image"
        )
    return averager.result()


def _temporary_file(size: int) -> mmap.mmap:
    """A file of zeros without a name, mapped into memory; it vanishes with the
    mapping.
    """
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            # a full disk is an error here, not a crash later
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def _rows_at_a_time(dim: int) -> int:
    return min(ROWS_AT_A_TIME, max(1, BYTES_AT_A_TIME // (4 * dim)))


def _turn(dense: Float[Tensor, "h w D"], copy: Float[Tensor, "M D"]) -> None:
    """Copy a map that is channel-first in memory, a few rows after another.

    Each goes through a small matrix: it is read in long pieces, and turned by
    what torch does well, a transposition of a whole matrix. This is three times
    as fast as copying the map at once.
    """
    height, width, dim = dense.shape
    at_a_time = max(1, CELLS_AT_A_TIME // width)
    for top in range(0, height, at_a_time):
        part = dense[top : top + at_a_time].permute(2, 0, 1).contiguous()
        cells = part.view(dim, -1).T
        copy[top * width : top * width + len(cells)] = cells


def _weighted_rows(
    rows: Float[Tensor, "M D"],
    indices: Int[Tensor, "V cells"],
    weights: Float[Tensor, "V cells"],
    out: Float[Tensor, "_ D"] | None = None,
) -> Float[Tensor, "V D"]:
    """For each line of ``indices``, the weighted sum of these rows, gathered
    and added in one pass; a cell that stands alone has weight 1, and is
    gathered into ``out`` where there is one.

    Rows in half precision are added up, and returned, in float32, a cell of
    each line after another: the map as a whole would be twice as large.
    """
    wide = sum_dtype(rows)
    if indices.shape[1] == 1:
        out = None if out is None else out[: len(indices)]
        return torch.index_select(rows, 0, indices[:, 0], out=out).to(wide)
    if wide == rows.dtype:
        return embedding_bag(
            indices, rows, mode="sum", per_sample_weights=weights.to(rows.dtype)
        )
    total = rows.new_zeros(len(indices), rows.shape[1], dtype=wide)
    for cell, weight in zip(indices.T, weights.T, strict=True):
        total += rows[cell].to(wide) * weight.to(wide)[:, None]
    return total
