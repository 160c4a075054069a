"""The work of benchmarks/fusion_real.py on one build, with its names or the old
ones: see :mod:`baseline`.
"""

import time
from typing import Any

import torch
from baseline import serve
from safetensors.torch import load_file
from torch import Tensor

from vlg_lib.fusion import ViewAverager
from vlg_lib.scene import Camera, Frame

try:
    from vlg_lib.geometry.visibility import visible_points
except ImportError:  # the names of 56fcabe
    from vlg_lib.projection import visible_points

STATE: dict[str, Any] = {"maps": {}, "averagers": {}}


def load(request: dict[str, Any]) -> dict[str, Any]:
    """The cloud and its frames, from a file."""
    stored = load_file(request["path"])
    camera = Camera(**request["camera"])
    color = torch.zeros(camera.height, camera.width, 3, dtype=torch.uint8)
    STATE["cloud"] = stored["cloud"]
    STATE["frames"] = [
        Frame(str(i), camera, pose, color, depth)
        for i, (pose, depth) in enumerate(
            zip(stored["poses"], stored["depths"], strict=True)
        )
    ]
    return {}


def fuse(request: dict[str, Any]) -> dict[str, Any]:
    """Find what each frame sees and add it to the sums: CPU seconds a frame,
    and a number by which the builds are compared.
    """
    cloud, frames = STATE["cloud"], STATE["frames"]
    dense = dense_map(request["size"], request["dim"], request["layout"])
    key = tuple(request["size"]), request["dim"]
    if key not in STATE["averagers"]:
        STATE["averagers"] = {key: ViewAverager(len(cloud), request["dim"])}
    averager = STATE["averagers"][key]
    averager.sums.zero_(), averager.view_counts.zero_()
    seen, start = 0, time.process_time()
    for frame in frames:
        pairs = visible_points(cloud, frame)
        averager.add_view(dense, pairs, frame.camera, request["sampling"])
        seen += len(pairs)
    seconds = time.process_time() - start
    return {
        "cpu_s": seconds / len(frames),
        "seen": seen / len(frames),
        "sum": float(averager.sums.sum(dim=0).double().sum()),
    }


def dense_map(size: list[int], dim: int, layout: str) -> Tensor:
    """A map (h, w, D) of normal numbers, channel-first or channel-last in
    memory; one is kept.
    """
    key = *size, dim, layout
    if key not in STATE["maps"]:
        STATE["maps"].clear()
        generator = torch.Generator().manual_seed(1)
        shape = (dim, *size) if layout == "first" else (*size, dim)
        made = torch.randn(shape, generator=generator)
        STATE["maps"][key] = (
            made.permute(1, 2, 0) if layout == "first" else made
        )
    return STATE["maps"][key]


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"load": load, "fuse": fuse})
