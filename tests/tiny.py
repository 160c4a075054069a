"""The whole pipeline at the smallest size; as a script it runs it in processes
that kill themselves on the way."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlg_lib.adapter import AdapterSettings
from vlg_lib.class_activation_maps import CamSettings
from vlg_lib.co_training import CoTrainingSettings
from vlg_lib.networks.point_network import NetworkSettings
from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.pipeline.run import Run, open_run, run_pipeline
from vlg_lib.pipeline.teaching import TEACHINGS, TRUTH
from vlg_lib.rooms.scenes import RoomsSettings
from vlg_lib.scene import Scene
from vlg_lib.training.point_batches import TrainingSettings

TINY = Profile(
    "tiny",
    rooms=RoomsSettings(train=2, test=1, views=3, width=80, height=60),
    adapter=AdapterSettings(steps=120, points_per_room=1000),
    network=NetworkSettings(norm="instance", voxel_size=0.24),
    training=TrainingSettings(
        steps=8, batch_rooms=2, crop=1.6, learning_rate=3e-3
    ),
    co_training=CoTrainingSettings(rounds=1, trees=10),
    cam=CamSettings(
        TrainingSettings(steps=4, batch_rooms=4, learning_rate=3e-3)
    ),
    checkpoint_every=6,
)

WEAK = tuple(
    kind for kind, taught in TEACHINGS.items() if taught.labeller != TRUTH
)
"""The networks that no point label may teach."""

REFINED = ("cam-retrained", "adapter-untagged", "round-2", "co-trained-round-2")
"""Some of them that, with those who label for them, go every way there is."""


def quiet(cache: Path, **more: Any) -> RunOptions:
    """A run on the CPU, without bars, with its artefacts in ``cache``."""
    return RunOptions(cache_folder=cache, device="cpu", progress=False, **more)


def open_tiny_run(cache: Path, profile: Profile = TINY) -> Run:
    """The parts of a tiny run, with its artefacts in ``cache``."""
    return open_run(profile, options=quiet(cache))


def scores(rows: list[dict]) -> list[dict]:
    """A table without its times."""
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in rows
    ]


def run_in_new_processes(
    cache: Path, deaths: Sequence[tuple[str, int]]
) -> list[dict]:
    """Run once for each entry of ``deaths``, and a last time whole, each in a
    process of its own, one after another.

    A process kills itself as it is about to finish the n-th file with the given
    name in its path. Returned for each: its exit ``status`` and the ``files``
    it left, with the times at which they were written. The processes are forks
    of one that has imported the library, which takes longer than a run."""
    # here, since a script does not have it on its path
    from programs import python

    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    result = python(
        [__file__, cache, json.dumps([*deaths, ("", 0)])],
        env=environment,
        check=True,
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def room_folder(run: Run, scene: Scene) -> Path:
    """The folder of a made room: the key of a room is its path there."""
    return run.cache.folder / run.scenes.key(scene)


def contents(
    run: Run, kinds: Sequence[str] = NETWORKS[:-1]
) -> dict[str, bytes | torch.Tensor]:
    """Every byte of the rooms, and every tensor that is made from them without
    point labels; of the 3D networks, those of ``kinds``, by default all of a
    run but the last, the fully supervised one."""
    found: dict[str, bytes | torch.Tensor] = {}
    for split in ("train", "test"):
        for scene in run.scenes.split(split):
            folder = room_folder(run, scene)
            found |= {
                f"{folder.name}/{p.relative_to(folder)}": p.read_bytes()
                for p in folder.rglob("*.*")
            }
            fused, labels = (
                run.stages.fused(scene),
                run.stages.pseudo_labels(scene),
            )
            found |= {
                f"{scene.name} fused": fused.embeddings,
                f"{scene.name} views": fused.view_counts,
            }
            found |= {
                f"{scene.name} labels": labels.labels,
                f"{scene.name} confidence": labels.confidence,
            }
    found |= {
        f"adapter {name}": tensor
        for name, tensor in run.stages.adapter.state_dict().items()
    }
    for kind in kinds:
        found |= {
            f"{kind} {name}": tensor
            for name, tensor in run.networks.trained(kind).state_dict().items()
        }
    return found


def same(one: bytes | torch.Tensor, other: bytes | torch.Tensor) -> bool:
    return (
        torch.equal(one, other)
        if isinstance(one, torch.Tensor)
        else one == other
    )


def _die_at(name: str, occasion: int) -> None:
    """Replace the renaming that ends every atomic write by one that kills the
    process, at the n-th such name."""
    met = []

    def killing(rename):  # type: ignore[no-untyped-def]
        def wrapped(self: Path, target: Path) -> Path:
            if name in str(target):
                met.append(target)
                if len(met) == occasion:
                    os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        return wrapped

    Path.replace, Path.rename = killing(Path.replace), killing(Path.rename)  # type: ignore[method-assign]


def _run_and_die(cache: Path, name: str, occasion: int) -> dict:
    child = os.fork()
    if child == 0:
        if name:
            _die_at(name, occasion)
        run_pipeline("rooms", TINY, 0, cache / "out", quiet(cache))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    files = {
        str(path.relative_to(cache)): path.stat().st_mtime_ns
        for path in cache.rglob("*.*")
        if path.is_file()
    }
    return {"status": status, "files": files}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for place, number in json.loads(sys.argv[2]):
        print(
            json.dumps(_run_and_die(Path(sys.argv[1]), place, number)),
            flush=True,
        )
