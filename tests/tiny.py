"""The whole pipeline at the smallest size, for tests; as a script it runs it and may kill itself on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from vlg_lib.experiment import Experiment, run
from vlg_lib.profiles import Profile

TINY = Profile("tiny", train_rooms=2, test_rooms=1, views=3, width=80, height=60, adapter_steps=120)


def scores(rows: list[dict]) -> list[dict]:
    """A table without its times."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def run_in_new_process(cache: Path, *, seed: int = 0, die_at: str = "", occasion: int = 1) -> int:
    """Run in a new process, which kills itself as it is about to finish a file of a name with ``die_at`` in it."""
    command = [sys.executable, __file__, str(cache), str(seed), die_at, str(occasion)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, env=environment, check=False).returncode


def contents(experiment: Experiment) -> dict[str, bytes | torch.Tensor]:
    """Every byte of the rooms, and every tensor of the fused embeddings, the pseudo labels and the adapter."""
    found: dict[str, bytes | torch.Tensor] = {}
    for split in ("train", "test"):
        for scene in experiment.scenes(split):
            folder = experiment._folder_of(scene)
            found |= {f"{folder.name}/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*.*")}
            fused, labels = experiment.fused(scene), experiment.pseudo_labels(scene)
            found |= {f"{scene.name} fused": fused.embeddings, f"{scene.name} views": fused.view_counts}
            found |= {f"{scene.name} labels": labels.labels, f"{scene.name} confidence": labels.confidence}
    return found | {f"adapter {name}": tensor for name, tensor in experiment.adapter().state_dict().items()}


def same(one: bytes | torch.Tensor, other: bytes | torch.Tensor) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def _die_at(name: str, occasion: int) -> None:
    """Replace the renaming that ends every atomic write by one that kills the process, at the n-th such name."""
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


if __name__ == "__main__":
    cache_folder, seed, die_at, occasion = sys.argv[1:5]
    torch.set_num_threads(1)
    if die_at:
        _die_at(die_at, int(occasion))
    run("rooms", TINY, int(seed), Path(cache_folder) / "out", cache_folder=cache_folder, progress=False)
