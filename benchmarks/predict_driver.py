"""What ``predict.py`` asks of a build: label a cloud, and say where the time
goes. It finds the names of today's library and of the older one.
"""

import cProfile
import pstats
from pathlib import Path
from typing import Any

from baseline import Answer, serve

PARTS = {
    "read the cloud": ("point_clouds.py", "read_cloud"),
    "bring it to metres": ("point_clouds.py", "metric_points"),
    "voxelise": ("point_network.py", "voxel_inputs"),
    "cut into tiles": ("tiling.py", "tiles"),
    "network": ("point_network.py", "forward"),
    "of it sparse convolution": ("functional.py", "sparse_convolution"),
    "of it kernel maps": ("tensor.py", "kernel_map"),
    "compare classes": ("tiling.py", "_best"),
    "write points": ("point_clouds.py", "write_labelled"),
    "write page": ("predict.py", "_write_page"),
}
"""The functions that are told apart, by file and name."""


def label(request: Answer) -> Answer:
    """Label the cloud as ``vlg predict`` does, in this process."""
    cloud, out = Path(request["cloud"]), Path(request["out"])
    network, copies = request["network"], request["augmentations"]
    options: dict[str, Any] = {"device": "cpu", "progress": False}
    try:
        from vlg_lib.own_scan.predict import PredictionSettings, predict
    except ImportError:
        from vlg_lib.predict import predict  # until 0.1

        predict(cloud, network, None, out, passes=copies, **options)
    else:
        settings = PredictionSettings(augmentations=copies)
        predict(cloud, network, None, out, settings, **options)
    return {}


def profile(request: Answer) -> Answer:
    """The share of each of PARTS in the seconds of :func:`label`."""
    profiler = cProfile.Profile()
    profiler.runcall(label, request)
    stats = pstats.Stats(profiler)
    seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for (file, _, name), (_, _, _, cumulative, _) in stats.stats.items():
        for part, (home, function) in PARTS.items():
            if (Path(file).name, name) == (home, function):
                seconds[part] += cumulative
    total = stats.total_tt
    return {
        "parts": {
            part: round(value / total, 3) for part, value in seconds.items()
        }
    }


if __name__ == "__main__":
    serve({"label": label, "profile": profile})
