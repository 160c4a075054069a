"""Jobs that several processes do together, as a launcher would start them; the
tests compare what they leave in files.

As a script it takes a list of [job, processes, folder, environment] as JSON,
does one after another and prints what became of each. The processes of a job
are forks of one that has imported the library, which takes longer than a job.
"""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import accelerate  # noqa: F401  so that the processes of the jobs have it already
import torch
from tiny import TINY, quiet
from torch import Tensor, nn

from vlg_lib import cli
from vlg_lib.artifacts import load_tensors, save_tensors, write_json
from vlg_lib.pipeline import profiles
from vlg_lib.pipeline.run import open_run, run_pipeline
from vlg_lib.training import distributed
from vlg_lib.training.loop import FitSettings, Optimization, fit

# Five scenes to learn from and one to test on: neither can be halved. Batch
# norm, whose moments have to be joined.
FIVE = replace(
    TINY,
    name="five",
    rooms=replace(TINY.rooms, train=5, test=1, views=2),
    adapter=replace(TINY.adapter, steps=20, batch_rooms=3),
    network=replace(TINY.network, norm="batch"),
    training=replace(TINY.training, steps=2, batch_rooms=3),
    cam=replace(
        TINY.cam, training=replace(TINY.cam.training, steps=2, batch_rooms=2)
    ),
    checkpoint_every=1,
)


def learn(
    items: int = 5,
    *,
    norms: bool = True,
    checkpoint: Path | None = None,
    stop: int | None = None,
    die: bool = False,
) -> tuple[nn.Module, list[float]]:
    """A training on 3 of some items of 20, 40, 60, ... rows in each step; it
    stops, or process 1 dies, at a step."""
    generator = torch.Generator().manual_seed(5)
    rows = [
        torch.randn(20 * (index + 1), 3, generator=generator) + index
        for index in range(items)
    ]
    wanted = [
        (part @ torch.tensor([[1.0], [-2.0], [0.5]])).sin() for part in rows
    ]

    def draw(step: int, generator: torch.Generator) -> list[int]:
        if step == stop and not die:
            raise KeyboardInterrupt
        if step == stop and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.randperm(items, generator=generator)[:3].tolist()

    def collate(chosen: list[int]) -> tuple[Tensor, Tensor]:
        return torch.cat([rows[index] for index in chosen]), torch.cat(
            [wanted[index] for index in chosen]
        )

    def loss(
        model: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, float]:
        return (model(batch[0]) - batch[1]).square().mean(), len(batch[0])

    torch.manual_seed(3)
    layers = [
        nn.Linear(3, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 1),
    ]
    model = nn.Sequential(
        *(
            layer
            for layer in layers
            if norms or not isinstance(layer, nn.BatchNorm1d)
        )
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, fit(
        model,
        draw,
        loss,
        Optimization(optimizer, steps=12, max_grad_norm=1.0),
        FitSettings(seed=2, checkpoint=checkpoint, checkpoint_every=4),
        collate=collate,
    )


def kept(folder: Path, model: nn.Module, losses: list[float]) -> None:
    save_tensors(
        folder / f"of-{distributed.rank()}.safetensors",
        model.state_dict()
        | {"losses": torch.tensor(losses, dtype=torch.float64)},
    )


def job_run(folder: Path) -> None:
    """The whole pipeline."""
    run_pipeline("rooms", FIVE, 0, folder / "out", quiet(folder / "cache"))


def job_bad_scene(folder: Path) -> None:
    """The whole pipeline on the scenes of a folder, of which the second is
    bad."""
    options = quiet(
        folder / "cache",
        scenes_folder=folder / "scenes",
        fused_folder=folder / "fused",
    )
    run_pipeline("layout", FIVE, 0, folder / "out", options)


def job_forget(folder: Path) -> None:
    """A finished run without its table, whose scenes have to be scored
    again."""
    shutil.rmtree(folder / "cache" / "table")


def job_table(folder: Path) -> None:
    """What each process takes for the table of a run."""
    table = open_run(FIVE, 0, quiet(folder / "cache")).table.rows()
    write_json(folder / f"table-{distributed.rank()}.json", table)


def job_spoil(folder: Path) -> None:
    """The training rooms of the first run as scenes of a folder, with fused
    embeddings, of which one is NaN."""
    made = folder.parent / "run-1" / "cache"
    for room in made.glob("rooms-*/room-1000*"):
        shutil.copytree(room, folder / "scenes" / room.name)
        tensors, _ = load_tensors(
            next(made.glob(f"fused/{room.name}-*.safetensors"))
        )
        if room.name == "room-10001":
            tensors["embeddings"] = tensors["embeddings"] * torch.nan
        save_tensors(folder / "fused" / f"{room.name}.safetensors", tensors)


def job_learn(folder: Path) -> None:
    kept(folder, *learn())


def job_learn_from_one(folder: Path) -> None:
    kept(folder, *learn(items=1))


def job_learn_without_norms(folder: Path) -> None:
    kept(folder, *learn(norms=False))


def job_stopped(folder: Path) -> None:
    learn(checkpoint=folder / "state.safetensors", stop=6)


def job_killed(folder: Path) -> None:
    learn(checkpoint=folder / "state.safetensors", stop=6, die=True)


def job_resumed(folder: Path) -> None:
    kept(folder, *learn(checkpoint=folder / "state.safetensors"))


def job_norm(folder: Path) -> None:
    """A batch norm over rows that are shared 3 : 1, then with all of them in
    process 0, and then with a single one there."""
    inputs, weights = load_tensors(folder / "rows.safetensors")[0].values()
    main = distributed.rank() == 0
    whole = (
        [slice(0, 30), slice(0, 40), slice(0, 1)]
        if main
        else [slice(30, 40), slice(5, 9), slice(5, 9)]
    )
    for number, (share, counts) in enumerate(
        zip(whole, (True, main, main), strict=True)
    ):
        norm = nn.BatchNorm1d(3)
        wrapped = distributed.wrap(norm)
        distributed.count_rows(wrapped, counts)
        own = inputs[share].clone().requires_grad_()
        outputs = wrapped(own)
        (
            (outputs * weights[share]).sum() * counts * distributed.world_size()
        ).backward()
        assert norm.weight.grad is not None and norm.bias.grad is not None  # noqa: PT018
        gradients = {
            "inputs": own.grad / distributed.world_size(),
            "weight.grad": norm.weight.grad,
            "bias.grad": norm.bias.grad,
        }
        save_tensors(
            folder / f"norm-{number}-{distributed.rank()}.safetensors",
            {"outputs": outputs} | gradients | norm.state_dict(),
        )


def job_each(folder: Path) -> None:
    """Work on six items, of which 3 (process 1's) and then also 4 (process 0's)
    are bad; what all processes say."""

    def work(bad: list[int], error: type[Exception], item: int) -> int:
        if item in bad:
            raise error(f"item {item} is bad")
        (folder / f"{error.__name__}-{len(bad)}-{item}").touch()
        return 10 * item

    said = {
        "good": distributed.each(
            range(6), lambda item: work([], ValueError, item)
        )
    }
    for bad, error in (([3], ValueError), ([3, 4], ValueError), ([1], OSError)):
        try:
            distributed.each(range(6), lambda item: work(bad, error, item))  # noqa: B023
        except (ValueError, OSError) as raised:
            said[f"{error.__name__} {bad}"] = [
                type(raised).__name__,
                str(raised),
            ]
    write_json(folder / f"said-{distributed.rank()}.json", said)


JOBS = {
    name.removeprefix("job_"): job
    for name, job in list(globals().items())
    if name.startswith("job_")
}


def together(
    *jobs: tuple[str, int, Path] | tuple[str, int, Path, dict[str, str]],
) -> list[dict]:
    """Do jobs one after another; for each the exit ``statuses`` of its
    processes and their ``errors``, by process."""
    listed = [
        [job, processes, str(folder), *rest]
        for job, processes, folder, *rest in jobs
    ]
    # here, since a script does not have it on its path
    from programs import python

    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    result = python(
        [__file__, json.dumps(listed)],
        env=environment,
        check=True,
        timeout=1200,
    )
    return [json.loads(line) for line in result.stdout.splitlines()]


def _child(
    job: Callable[[Path], None],
    folder: Path,
    environment: dict[str, str],
    errors: Path,
) -> int:
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with errors.open("w") as file:
                os.dup2(file.fileno(), 2)
            os.environ.update(environment)
            distributed.start("cpu")
            job(folder)
            distributed.finish()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return process


def _do(
    job: str, processes: int, folder: Path, environment: dict[str, str]
) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = (
        {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if processes > 1
        else {}
    )
    with tempfile.TemporaryDirectory() as place:
        errors = [Path(place) / str(rank) for rank in range(processes)]
        children = [
            _child(
                JOBS[job],
                folder,
                environment
                | group
                | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                },
                errors[rank],
            )
            for rank in range(processes)
        ]
        statuses: dict[int, int] = {}
        end = time.monotonic() + 400
        while len(statuses) < processes and time.monotonic() < end:
            for child in set(children) - set(statuses):
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    statuses[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        for child in set(children) - set(statuses):  # it hangs
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return {
            "statuses": [statuses.get(child, "hangs") for child in children],
            "errors": [path.read_text() for path in errors],
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    # the command line, with a profile of the test's size
    if sys.argv[1] == "run":
        profiles.PROFILES["five"] = FIVE
        cli.main()
    else:
        # the first one imports for longer than a job takes
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        for name, count, where, *rest in json.loads(sys.argv[1]):
            print(
                json.dumps(
                    _do(name, count, Path(where), rest[0] if rest else {})
                ),
                flush=True,
            )
