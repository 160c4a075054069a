"""What is measured of a scan: whether its frames, its points and its colours
agree.

Two frames of a scan show the same surfaces: a depth pixel of one, moved into
the other, must agree with the depth there. The points must lie where the frames
measure surfaces, and have the colours of the images. Tolerances follow the
depth, so that no unit is favoured.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vlg_lib.data.frames import FrameFolder
from vlg_lib.geometry.cameras import camera_to_world_points, project
from vlg_lib.own_scan.correlation import color_correlation
from vlg_lib.own_scan.mistakes import Geometry
from vlg_lib.scene import Scene

PAIRS = 16
"""Pairs of frames that are measured."""
PIXELS = 1000
"""Pixels of a frame that are measured."""
POINTS = 2500
"""Points that are measured."""


class Evidence:
    """The measurements of one scene, on some 30 frames and some points chosen
    once; each takes a geometry to judge.

    An agreement is agree / (agree + in front): of the points that fall onto
    measured pixels, some agree with the depth there and some lie clearly in
    front of it, where the frame looks through them; those behind it may be
    hidden. Without depth images, the points' colours are correlated with the
    images' instead.
    """

    def __init__(self, scene: Scene, frames: FrameFolder) -> None:
        self.geometry = Geometry(frames.poses, frames.camera)
        self.pairs = frame_pairs(frames.poses, PAIRS)
        self.frames = {
            i: frames[i]
            for i in sorted({i for pair in self.pairs for i in pair}) or [0]
        }
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(scene.points), generator=generator)[:POINTS]
        self.points, self.colors = (
            scene.points[chosen].double(),
            scene.colors[chosen].double(),
        )
        depths = {
            i: torch.zeros(1, 1) if frame.depth is None else frame.depth
            for i, frame in self.frames.items()
        }
        self.pixels = {}
        for i, depth in depths.items():
            v, u = depth.nonzero()[
                torch.randperm(int((depth > 0).sum()), generator=generator)[
                    :PIXELS
                ]
            ].unbind(1)
            self.pixels[i] = torch.stack([u, v, depth[v, u]]).double()
        measured = torch.cat([pixels[2] for pixels in self.pixels.values()])
        self.median = float(measured.median()) if len(measured) else 0.0

    def between_frames(self, geometry: Geometry) -> float:
        """How well the depth of a frame agrees with that of another one, over
        all pairs, both ways.
        """
        both = [*self.pairs, *((j, i) for i, j in self.pairs)]
        return _agreement(
            [
                self._compare(self._surfaces(geometry, i), geometry, j)[0]
                for i, j in both
            ]
        )

    def fitted_factor(self, geometry: Geometry) -> float | None:
        """The factor on the depth with which the frames agree best: the one of
        the smallest misfit, found on a grid that becomes finer. None for
        another geometry than the scene's own, and where none fits.
        """
        if geometry is not self.geometry:
            return None
        best, step = 1.0, 1.12
        count = 61
        for _ in range(3):
            factors = [best * step**k for k in range(-count, count + 1)]
            best = min(factors, key=self._misfit)
            step, count = step**0.2, 6
        return best if math.isfinite(self._misfit(best)) else None

    def _misfit(self, factor: float) -> float:
        """The median of how far, as a share of it, the depth of a frame lies
        from that of another; infinite where they hardly overlap.
        """
        geometry = replace(self.geometry, factor=factor)
        shares, points = [], 0
        for i, j in self.pairs:
            surfaces = self._surfaces(geometry, i)
            points += len(surfaces)
            _, z, there = self._seen_depth(surfaces, geometry, j)
            shares.append((there - z).abs() / there)
        found = torch.cat(shares)
        if len(found) < 0.2 * points:
            return math.inf
        return float(found.median())

    def _seen_depth(
        self, points: Tensor, geometry: Geometry, frame: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which points fall onto measured pixels of a frame, how deep they lie,
        and the depth there.
        """
        camera, measured = geometry.camera, self.frames[frame].depth
        positions, z = project(points, camera, geometry.poses[frame])
        u, v = (positions + 0.5).floor().unbind(1)
        inside = (z > 0) & (u >= 0) & (v >= 0)
        inside &= (u < camera.width) & (v < camera.height)
        (indices,) = inside.nonzero(as_tuple=True)
        if measured is None:
            return indices[:0], z[:0], z[:0]
        at = v[indices].long(), u[indices].long()
        there = measured[at].double() * geometry.factor
        known = there > 0
        return indices[known], z[indices][known], there[known]

    def _surfaces(self, geometry: Geometry, frame: int) -> Float[Tensor, "M 3"]:
        """The chosen pixels of a frame as world points."""
        (u, v, depth), camera = self.pixels[frame], geometry.camera
        z = depth * geometry.factor
        in_camera = torch.stack(
            [
                (u - camera.cx) / camera.fx * z,
                (v - camera.cy) / camera.fy * z,
                z,
            ],
            dim=1,
        )
        return camera_to_world_points(in_camera, geometry.poses[frame])

    def of_points(self, geometry: Geometry) -> float:
        """How well the points agree with the frames: geometric mean of depth
        and colours, where both are there.
        """
        depth, colors = self.depth_and_colors(geometry)
        colors = (
            depth
            if float(self.colors.std(dim=0).max()) < 1
            else max(colors, 0.0)
        )
        return float(depth * colors) ** 0.5 if self.median else colors

    def depth_and_colors(self, geometry: Geometry) -> tuple[float, float]:
        """The points' agreement with the depth; where it agrees, the
        correlation of their colours with the images'.
        """
        points, counts, own, shown = (
            camera_to_world_points(self.points, geometry.turn),
            [],
            [],
            [],
        )
        for i, frame in self.frames.items():
            count, indices, (u, v) = self._compare(points, geometry, i)
            own.append(self.colors[indices])
            shown.append(
                frame.color[v, u].flip(1) if geometry.bgr else frame.color[v, u]
            )
            counts.append(count)
        known = sum(map(len, own)) >= 100
        return _agreement(counts), (
            color_correlation(torch.cat(own), torch.cat(shown))
            if known
            else 0.0
        )

    def _compare(
        self, points: Tensor, geometry: Geometry, frame: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Counts (points, on measured pixels, agree, in front); which points
        agree, and their pixels (2, V).
        """
        camera, measured = geometry.camera, self.frames[frame].depth
        positions, z = project(points, camera, geometry.poses[frame])
        u, v = (positions + 0.5).floor().unbind(1)
        inside = (
            (z > 0)
            & (u >= 0)
            & (v >= 0)
            & (u < camera.width)
            & (v < camera.height)
        )
        (indices,) = inside.nonzero(as_tuple=True)
        u, v, z = u[indices].long(), v[indices].long(), z[indices]
        there = (
            z if measured is None else measured[v, u].double() * geometry.factor
        )
        slack = 0.01 * self.median * geometry.factor + 0.02 * there
        agree = (there > 0) & ((there - z).abs() <= slack)
        counts = [
            len(points),
            (there > 0).sum(),
            agree.sum(),
            ((there > 0) & (z < there - slack)).sum(),
        ]
        return (
            torch.tensor(counts, dtype=torch.float64),
            indices[agree],
            torch.stack([u, v])[:, agree],
        )


def _agreement(counts: Sequence[Tensor]) -> float:
    points, inside, agree, front = torch.stack(list(counts)).sum(dim=0).tolist()
    return (
        agree / (agree + front)
        if inside >= 0.02 * points and agree > 0.05 * inside
        else 0.0
    )


def frame_pairs(
    poses: Float[Tensor, "F 4 4"], count: int, degrees: float = 10.0
) -> list[tuple[int, int]]:
    """Pairs (i, j > i) spread over a sequence: j is the next frame turned by
    ``degrees``, else the last frame.

    Frames that hardly move agree whatever the mistake; no mistake that is tried
    changes the angle between two.
    """
    pairs = []
    for i in (
        torch.linspace(0, len(poses) - 2, min(count, len(poses) - 1))
        .round()
        .long()
        .tolist()
    ):
        cosine = (
            torch.einsum("ab,fab->f", poses[i, :3, :3], poses[i + 1 :, :3, :3])
            - 1
        ) / 2
        (turned,) = (cosine < torch.tensor(degrees).deg2rad().cos()).nonzero(
            as_tuple=True
        )
        pairs.append(
            (i, i + 1 + int(turned[0]) if len(turned) else len(poses) - 1)
        )
    return pairs
