"""Speed and memory of dense 2D embeddings: the small model, and open_clip's
ViT-B/16 with each read-out.

    python benchmarks/dense.py --runs 5 --threads 2
    python benchmarks/dense.py --runs 20 --device cuda --dtype bfloat16

Each line is one JSON object with ``name, milliseconds, frames_per_second,
peak_MB, weights_MB, runs, threads``: the median of runs in which all sides take
turns, after one that is not counted, the most memory that one frame takes above
the weights of the image towers, and these weights. Weights are random (speed
does not depend on them), so nothing is downloaded; frames are noise.

* ``small-attributes``: 160 x 120, as the book's profiles take it; its target is
  20 frames a second on two cores.
* ``encode_image``: the baseline of ViT-B/16, one vector an image from
  open_clip's own code, made for 320 x 240. What a read-out takes beyond it
  (``times_encode_image``) is the price of a vector for each of the 15 x 20
  patches instead.
* ``ViT-B-16 READOUT``: 320 x 240 in one pass; ``proxyclip`` adds DINO's
  ViT-B/16. ``naclip, windows`` resizes to a shorter side of 336 and slides
  windows of 224, as the papers do.

On a busy machine use ``--threads 1 --cpu-time``.
"""

import argparse
import ctypes
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from torch import Tensor

from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.open_clip import OpenClipModel, OpenClipOptions
from vlg_lib.vision_language.readouts import READOUTS

WIDTH, HEIGHT = 320, 240


def frame(width: int, height: int) -> Tensor:
    return torch.randint(
        256,
        (height, width, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )


def megabytes(*modules: Any) -> float:
    """What the weights of modules take; None is a module without any."""
    weights = [
        weight
        for module in modules
        if module is not None
        for weight in module.parameters()
    ]
    return (
        sum(weight.numel() * weight.element_size() for weight in weights)
        / 2**20
    )


def sides(
    device: str, dtype: torch.dtype
) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """What is timed, by name: each embeds one frame; and the megabytes of its
    weights.
    """
    small = create_model(device=device)
    small_frame = frame(160, 120)
    wide = frame(WIDTH, HEIGHT)
    whole = (
        open_clip.create_model("ViT-B-16", force_image_size=(HEIGHT, WIDTH))
        .to(device, dtype)
        .eval()
    )
    pixels = torch.randn(1, 3, HEIGHT, WIDTH, device=device, dtype=dtype)
    square = open_clip.create_model("ViT-B-16")
    proxy = timm.create_model(
        "vit_base_patch16_224.dino", dynamic_img_size=True, num_classes=0
    )

    def encode_image() -> Tensor:
        with torch.no_grad():
            return whole.encode_image(pixels)

    def dense(
        readout: str, short_side: int, window: int | None = None
    ) -> tuple[Callable[[], Tensor], float]:
        lent = proxy if readout == "proxyclip" else None
        model = OpenClipModel(
            square,
            list,
            "ViT-B-16",
            readout,
            options=OpenClipOptions(short_side, window, dtype=dtype),
            proxy=lent,
            device=device,
        )
        return lambda: model.dense_embeddings(wide), megabytes(
            model._model.visual, lent
        )

    timed = {
        "small-attributes": (
            lambda: small.dense_embeddings(small_frame),
            megabytes(small._visual),
        ),
        "encode_image": (encode_image, megabytes(whole.visual)),
    }
    timed |= {
        f"ViT-B-16 {readout}": dense(readout, short_side=HEIGHT)
        for readout in READOUTS
    }
    return timed | {
        "ViT-B-16 naclip, windows": dense("naclip", short_side=336, window=224)
    }


def timed_call(
    call: Callable[[], Tensor], clock: Callable[[], float], device: str
) -> float:
    start = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def memory(key: str) -> float:
    """MB that this process holds (VmRSS) or has held at most (VmHWM), from
    Linux.
    """
    return (
        int(
            Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]
        )
        / 1024
    )


def peak_megabytes(call: Callable[[], Tensor], device: str) -> float:
    """What one call holds at most, beyond what was held before it (on the CPU:
    as Linux counts it).
    """
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # What earlier calls freed goes back, or it would hide what is needed.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    # The peak starts again at what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU time, for a machine that is busy",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # open_clip warns that weights are random.
    made = sides(arguments.device, getattr(torch, arguments.dtype))
    timed = {name: call for name, (call, _) in made.items()}
    facts = {
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "device": arguments.device,
    }
    processor = platform.processor() or platform.machine()
    print(
        json.dumps(
            facts
            | {
                "dtype": arguments.dtype,
                "processor": processor,
                "cpu_time": arguments.cpu_time,
            }
        )
    )
    peaks = {
        name: peak_megabytes(call, arguments.device)
        for name, call in timed.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(arguments.runs):
        for name, call in timed.items():
            seconds[name].append(timed_call(call, clock, arguments.device))
    medians = {
        name: statistics.median(values) for name, values in seconds.items()
    }
    for name, median in medians.items():
        line: dict[str, object] = {
            "name": name,
            "milliseconds": round(1e3 * median, 1),
        }
        memories = {
            "peak_MB": round(peaks[name]),
            "weights_MB": round(made[name][1]),
        }
        line |= {"frames_per_second": round(1 / median, 2)} | memories
        if name.startswith("ViT"):
            line["times_encode_image"] = round(
                median / medians["encode_image"], 2
            )
        print(
            json.dumps(
                line | {"runs": arguments.runs, "threads": arguments.threads}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
