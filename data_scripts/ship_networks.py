"""Put the trained 3D networks of a run where the library finds them: weights, a
card each, and their curves.

``python data_scripts/ship_networks.py --profile book --seed 0`` trains what is
not trained yet (hours on a CPU), writes
``vlg_lib/networks/weights/NAME.safetensors`` (half precision) and ``NAME.md``,
and prints the learning curve of each network as a JSON line (``python
tools/record.py command networks-book data_scripts/ship_networks.py ...`` keeps
them).
"""

import argparse
import json
import textwrap
from dataclasses import asdict
from typing import Any

import torch

from vlg_lib.artifacts import atomic_write
from vlg_lib.networks.point_network import save_network
from vlg_lib.networks.zoo import FOLDER
from vlg_lib.pipeline.network_facts import network_facts
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.run import open_run
from vlg_lib.pipeline.table import ROWS_3D, Row
from vlg_lib.pipeline.teaching import teaching


def curve(losses: list[float], points: int = 100) -> list[dict[str, float]]:
    """The mean loss over up to ``points`` even stretches of the training, and
    the step at which each ends.
    """
    size = max(1, -(-len(losses) // points))
    stretches = [
        losses[start : start + size] for start in range(0, len(losses), size)
    ]
    return [
        {
            "step": min((i + 1) * size, len(losses)),
            "loss": round(sum(part) / len(part), 5),
        }
        for i, part in enumerate(stretches)
    ]


def card(
    kind: str,
    about: dict[str, Any],
    settings: dict[str, Any],
    row: Row,
) -> str:
    """The model card, Markdown."""
    training, recipe = about["training"], about["training"]["recipe"]
    whole = (
        "whole rooms"
        if recipe["crop"] is None
        else f"crops of {recipe['crop']} m"
    )
    between = f"{row['miou_low']:.1f} to {row['miou_high']:.1f}"
    scores = " | ".join(
        "-" if value is None else f"{value:.1f}"
        for value in row["iou"].values()
    )
    trained = (
        f"{recipe['steps']} steps of {recipe['batch_rooms']} {whole} from"
        f" {training['rooms']} generated rooms (shift {training['shift']}, seed"
        f" {training['seed']}), {training['seconds']} seconds; AdamW"
        f" {recipe['learning_rate']:g}, schedule {recipe['schedule']}, gradient"
        f" norm {recipe['max_grad_norm']:g}. The weights are those of the last"
        " step: no step was chosen by a score."
    )
    command = (
        f"python data_scripts/ship_networks.py --profile {training['profile']}"
        f" --seed {training['seed']}"
    )
    return f"""# Model card: {kind}

| | |
|---|---|
| Network | {settings["architecture"]}, voxels of {settings["voxel_size"]:g} m, {settings["norm"]} normalisation |
| Input | points (metres, z up) and colours: no image, no tags |
| Output | {settings["output"]}, {settings["channels"]} a point |
| Taught by | {teaching(kind).says} |
| Classes | {", ".join(about["class_set"]["names"])} |
| Licence | MIT, as the code; no data but the book's own generated rooms went in |

{textwrap.fill(trained, 118)}

Mean IoU in per cent: **{row["miou"]:.1f}** on the unseen test rooms of that run (95 % interval over rooms {between}),
{row["miou_train"]:.1f} on its training rooms. Accuracy on the test rooms {row["accuracy"]:.1f}; IoU by class:

| {" | ".join(row["iou"])} |
|{"---|" * len(row["iou"])}
| {scores} |

What was chosen with test rooms in view is told in `results/README.md`.
It knows generated rooms only: on a real scan it is an example of the file format, not a tool. Made by

```
{command} --networks {kind}
```
"""  # noqa: E501


def main() -> None:
    """Train, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", default="book")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run = open_run(given.profile, given.seed)
    rows = {
        ROWS_3D[row["row"]]: row
        for row in run.table.rows(given.networks)
        if row["row"] in ROWS_3D
    }
    for kind in given.networks:
        network, about = run.networks.trained(kind), network_facts(run, kind)
        save_network(FOLDER / f"{kind}.safetensors", network.cpu(), **about)
        with atomic_write(FOLDER / f"{kind}.md") as file:
            file.write(
                card(kind, about, asdict(network.settings), rows[kind]).encode()
            )
        print(
            json.dumps(
                {
                    "network": kind,
                    "curve": curve(run.networks.losses(kind)),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
