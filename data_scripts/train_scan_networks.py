"""Train 3D networks with and without the setting that makes rooms look like
scans, and score both on unseen made rooms, which are left as they are.

``python data_scripts/train_scan_networks.py --out networks`` trains what the
folder lacks (five CPU minutes a network), writes ``KIND.safetensors`` and
``KIND-scans.safetensors`` (half precision) into it, and prints a JSON line a
network with a confusion matrix for each room, then one a kind with the paired
interval of the difference. The seed lies above 90: no table reports its rooms.
``--ship`` puts the networks with the setting, and a card each, where the
library finds them.
"""

import argparse
import json
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlg_lib.artifacts import atomic_write
from vlg_lib.metrics import (
    confusion,
    difference_interval,
    interval,
    iou_per_class,
    mean_iou,
)
from vlg_lib.networks.point_network import (
    load_network,
    point_scores,
    save_network,
)
from vlg_lib.networks.zoo import FOLDER
from vlg_lib.pipeline.network_facts import network_facts
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile, get_profile
from vlg_lib.pipeline.run import Run, open_run
from vlg_lib.training.scan_like import ScanLike

KINDS = ("3dss-vlg", "supervised")
ENDINGS = {"plain": "", "scans": "-scans"}


def profile_of(base: Profile, which: str) -> Profile:
    """The profile of a network without or with the setting."""
    scan_like = ScanLike() if which == "scans" else None
    return replace(base, training=replace(base.training, scan_like=scan_like))


def train(run: Run, kind: str, path: Path) -> None:
    """Train the network of a run and write it with what is said of it."""
    started = time.process_time()
    network = run.networks.trained(kind)
    about = network_facts(run, kind)
    about["training"]["cpu_seconds"] = round(time.process_time() - started)
    save_network(path, network.cpu(), **about)


def matrices_of(run: Run, path: Path) -> list[Tensor]:
    """One confusion matrix for each unseen room of a run, one copy of each
    cloud labelled by the network of a file.
    """
    network, _ = load_network(path)
    texts = None
    if network.settings.output == "embeddings":
        texts = run.stages.text_embeddings()
    return [
        confusion(
            point_scores(network, scene.points, scene.colors, texts).argmax(1),
            run.scenes.truth(scene),
            scene.class_set,
        )
        for scene in run.scenes.split("test")
    ]


def line(run: Run, path: Path, matrices: list[Tensor]) -> dict[str, Any]:
    """The record of a network, shares in per cent."""
    total = torch.stack(matrices).sum(0)
    names = run.scenes.class_set.names
    _, about = load_network(path)
    return {
        "network": path.stem,
        "scan_like": about["training"]["recipe"].get("scan_like"),
        "seed": run.seed,
        "rooms": len(matrices),
        "cpu_s": about["training"]["cpu_seconds"],
        "miou": round(100 * mean_iou(total), 2),
        "interval": [round(100 * end, 2) for end in interval(matrices)],
        "iou": {
            name: round(100 * share, 1)
            for name, share in zip(
                names, iou_per_class(total).tolist(), strict=True
            )
        },
        "confusion": [matrix.tolist() for matrix in matrices],
    }


def difference(
    kind: str, plain: list[Tensor], scans: list[Tensor]
) -> dict[str, Any]:
    """How much the setting changes the score of the unseen rooms, in points."""
    low, high = difference_interval([scans], [plain])
    found = [mean_iou(torch.stack(rooms).sum(0)) for rooms in (scans, plain)]
    return {
        "difference": f"{kind}, with the setting - without",
        "miou": round(100 * (found[0] - found[1]), 2),
        "interval": [round(100 * low, 2), round(100 * high, 2)],
    }


def card(kind: str, about: dict[str, Any], record: dict[str, Any]) -> str:
    """The model card of a network that learnt from rooms like scans."""
    training = about["training"]
    recipe = training["recipe"]
    low, high = record["interval"]
    amounts = ", ".join(
        f"{name} {amount:g}" for name, amount in recipe["scan_like"].items()
    )
    trained = (
        f"{recipe['steps']} steps of {recipe['batch_rooms']} whole room from"
        f" {training['rooms']} generated rooms (shift {training['shift']}, seed"
        f" {training['seed']}), {training['cpu_seconds']} CPU seconds;"
        f" {recipe['optimizer']} {recipe['learning_rate']:g}, schedule"
        f" {recipe['schedule']}. Made to look like scans, each anew in each"
        f" step ({amounts}). The weights are those of the last step: no step"
        " was chosen by a score."
    )
    shares = record["iou"]
    return f"""# Model card: {kind}-scans

| | |
|---|---|
| Network | as `{kind}`: points (metres, z up) and colours in, no image, no tags |
| Taught by | {training["taught_by"]} |
| Classes | {", ".join(about["class_set"]["names"])} |
| Licence | MIT, as the code; no data but the book's own generated rooms went in |

{textwrap.fill(trained, 118)}

Mean IoU in per cent: **{record["miou"]:.1f}** on {record["rooms"]} unseen generated rooms, which are left as they are (95 % interval over rooms
{low:.1f} to {high:.1f}); IoU by class:

| {" | ".join(shares)} |
|{"---|" * len(shares)}
| {" | ".join(f"{share:.1f}" for share in shares.values())} |

`results/scan-like.json` has the same network without the setting beside it, `results/hololens-regions-after.json` both on a real office. Made by

```
python data_scripts/train_scan_networks.py --out networks --kinds {kind} --ship
```
"""  # noqa: E501


def ship(kind: str, path: Path, record: dict[str, Any]) -> None:
    """Put a network and its card where the library finds them."""
    network, about = load_network(path)
    facts = {
        name: fact
        for name, fact in about.items()
        if name not in ("format", "settings")
    }
    save_network(FOLDER / path.name, network, **facts)
    with atomic_write(FOLDER / f"{path.stem}.md") as file:
        file.write(card(kind, about, record).encode())


def main() -> None:
    """Train what is missing, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--profile", default="book")
    parser.add_argument("--seed", type=int, default=92)
    parser.add_argument("--test", type=int, default=32, help="unseen rooms")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--which", nargs="+", choices=list(ENDINGS), default=list(ENDINGS)
    )
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = get_profile(given.profile)
    base = replace(base, rooms=replace(base.rooms, test=given.test))
    found: dict[tuple[str, str], list[Tensor]] = {}
    for which in given.which:
        run = open_run(
            profile_of(base, which), given.seed, RunOptions(progress=False)
        )
        for kind in given.kinds:
            path = given.out / f"{kind}{ENDINGS[which]}.safetensors"
            if not path.is_file():
                train(run, kind, path)
            found[kind, which] = matrices_of(run, path)
            record = line(run, path, found[kind, which])
            print(json.dumps(record), flush=True)
            if given.ship and which == "scans":
                ship(kind, path, record)
    for kind in given.kinds:
        if (kind, "plain") in found and (kind, "scans") in found:
            print(
                json.dumps(
                    difference(kind, found[kind, "plain"], found[kind, "scans"])
                )
            )


if __name__ == "__main__":
    main()
