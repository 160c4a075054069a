"""Peak memory of stage 1 by the number of frames: one scene on disk, fused
through the whole of stage 1.

    python benchmarks/fusion_frames.py --frames 10 40 160 --points 200000

A made room with as many views as the largest number is written as a scene
folder, and the points of its depth images are repeated until there are
``--points``. Each line is one JSON object about one number of frames: a process
of its own reads the scene, takes its first frames, and fuses the small model's
embeddings (``vlg_lib.fusion.fuse_scene``), each image loaded when its turn
comes. ``ours``: the most memory the process ever held (VmHWM, the interpreter
with torch included); ``baseline``: that of the fewest frames; a ratio of 1 says
that memory does not depend on the number of frames. ``all_maps_MB``: what the
maps of all frames, and all images, would take together.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from fusion_memory import peak_megabytes

from vlg_lib.data.layout import read_scene, write_scene
from vlg_lib.fusion import fuse_scene
from vlg_lib.rooms.scenes import room_scene
from vlg_lib.scene import Scene
from vlg_lib.vision_language import create_model

WIDTH, HEIGHT = 320, 240


def write_room(folder: Path, views: int, points: int) -> None:
    """The room as a scene folder."""
    scene, _ = room_scene(0, views=views, width=WIDTH, height=HEIGHT)
    repeated = torch.arange(points) % len(scene.points)
    cloud, colors = scene.points[repeated], scene.colors[repeated]
    whole = Scene(
        scene.name,
        cloud,
        colors,
        scene.frames,
        scene.class_set,
        scene.scene_labels,
    )
    write_scene(folder, whole, provenance={})


def fuse(folder: Path, frames: int) -> None:
    """One case, in this process: prints its peak, its seconds, and the size of
    all maps and images together.
    """
    scene, model = read_scene(folder), create_model("small-attributes")
    part = Scene(
        scene.name,
        scene.points,
        scene.colors,
        scene.frames[:frames],
        scene.class_set,
        scene.scene_labels,
    )
    size = model.dense_embeddings(
        scene.frames[0].color
    ).numel() * 4 + WIDTH * HEIGHT * (3 + 4)
    start = time.perf_counter()
    fused = fuse_scene(part, model.dense_embeddings)
    numbers = {
        "MB": peak_megabytes(),
        "seconds": time.perf_counter() - start,
        "seen": int(fused.seen.sum()),
    }
    print(json.dumps(numbers | {"all_maps_MB": round(size * frames / 1e6)}))


def case(folder: Path, frames: int) -> dict[str, float]:
    """One case in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--alone",
        str(folder),
        "--frames",
        str(frames),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure one number of frames after another."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.alone:
        fuse(given.alone, given.frames[0])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "room"
        write_room(folder, max(given.frames), given.points)
        fewest = None
        for frames in given.frames:
            found = case(folder, frames)
            fewest = fewest or found
            print(
                json.dumps(
                    {
                        "name": "fusion, more frames",
                        "ours": round(found["MB"]),
                        "baseline": round(fewest["MB"]),
                        "ratio": round(fewest["MB"] / found["MB"], 3),
                        "unit": "MB",
                        "runs": 1,
                        "threads": 1,
                        "frames": frames,
                        "points": given.points,
                        "seen": found["seen"],
                        "all_maps_MB": found["all_maps_MB"],
                        "seconds": round(found["seconds"], 1),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
