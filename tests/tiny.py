"""The whole pipeline at the smallest size; as a script it runs it in processes
that kill themselves on the way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vlg_lib.pipeline.networks import NETWORKS
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.pipeline.run import run
from vlg_lib.pipeline.table import Experiment

TINY = Profile(
    "tiny",
    train_rooms=2,
    test_rooms=1,
    views=3,
    width=80,
    height=60,
    adapter_steps=120,
    network_steps=8,
    network_batch_rooms=2,
    network_crop=1.6,
    cam_steps=4,
    voxel_size=0.16,
    checkpoint_every=6,
)


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
    command = [
        sys.executable,
        __file__,
        str(cache),
        json.dumps([*deaths, ("", 0)]),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    result = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def contents(experiment: Experiment) -> dict[str, bytes | torch.Tensor]:
    """Every byte of the rooms, and every tensor that is made from them without
    point labels."""
    found: dict[str, bytes | torch.Tensor] = {}
    for split in ("train", "test"):
        for scene in experiment.scenes(split):
            folder = experiment._folder_of(scene)
            found |= {
                f"{folder.name}/{p.relative_to(folder)}": p.read_bytes()
                for p in folder.rglob("*.*")
            }
            fused, labels = (
                experiment.fused(scene),
                experiment.pseudo_labels(scene),
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
        for name, tensor in experiment.adapter().state_dict().items()
    }
    for kind in NETWORKS[:-1]:  # the last is the fully supervised one
        found |= {
            f"{kind} {name}": tensor
            for name, tensor in experiment.network(kind).state_dict().items()
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
        run(
            "rooms",
            TINY,
            0,
            cache / "out",
            cache_folder=cache,
            device="cpu",
            progress=False,
        )
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
