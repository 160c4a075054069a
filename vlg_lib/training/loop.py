"""The one training loop: every stage that learns goes through :func:`fit` (used
from chapter 06 on).

A step depends on nothing but the model, the optimizer, the seed and the step's
number: its batch and every random draw inside the model come from generators
seeded by (seed, step). So a run that is stopped anywhere and started again
continues bit for bit on a CPU, and a checkpoint needs no random state.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from vlg_lib.artifacts import StoreError, load_tensors, save_tensors
from vlg_lib.training import distributed

Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], Tensor | tuple[Tensor, Tensor | float]]
"""A scalar: a mean over a batch. With it, where means of parts are to be
joined, how much the mean stands for."""

Schedule = Callable[[float], float]
"""A learning-rate schedule: from progress (step / steps, in [0, 1)) to a factor
on the optimizer's own rate."""


class FitOptions(TypedDict, total=False):
    """The options of :func:`fit` that every training takes and passes on, with
    the defaults they have there.
    """

    seed: int
    checkpoint: Path | None
    checkpoint_every: int
    progress: str | None


def constant(progress: float) -> float:
    """The same learning rate from the first step to the last."""
    return 1.0


def step_decay(progress: float) -> float:
    """The paper's schedule of the adapter: x 0.7 after every quarter (there:
    every 20 of 80 epochs; Sec. 4.1).
    """
    return float(0.7 ** int(progress * 4))


def poly_decay(progress: float) -> float:
    """The paper's schedule of the 3D network: (1 - progress) to the power of
    0.9.
    """
    return float((1.0 - progress) ** 0.9)


def one_cycle(progress: float) -> float:
    """Up from 4 % to the full rate over the first tenth, then down to 0 along
    half a cosine (Smith & Topin, 2018).
    """
    if progress < 0.1:
        return 0.04 + 0.96 * progress / 0.1
    return 0.5 * (1.0 + math.cos(math.pi * (progress - 0.1) / 0.9))


SCHEDULES: dict[str, Schedule] = {
    rule.__name__: rule
    for rule in (constant, step_decay, poly_decay, one_cycle)
}
"""The schedules by name."""


def step_seed(seed: int, step: int) -> int:
    """The seed of one step: distinct for every (seed, step) with step <
    1,000,003; a resumed run meets it again.
    """
    return (seed * 1_000_003 + step) % (1 << 63)


def fit(
    model: nn.Module,
    batches: Callable[[int, torch.Generator], Any],
    loss: Loss[Batch],
    *,
    collate: Callable[[Any], Batch] | None = None,
    steps: int,
    optimizer: Optimizer,
    schedule: Schedule = constant,
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    max_grad_norm: float | None = None,
    half_precision: bool = False,
    progress: str | None = None,
) -> list[float]:
    """Train ``model`` in place for ``steps`` steps and return the loss of each.

    ``batches(step, generator)`` makes the batch of a step, with a CPU generator
    that is seeded for that step; ``loss(model, batch)`` returns a scalar.
    ``max_grad_norm`` limits the gradient's norm. ``half_precision``: the model
    runs in float16, so the loss is scaled up before it is differentiated, lest
    small gradients become zero, and a step whose gradients overflow is left
    out. ``progress`` titles a progress bar; None shows none. With
    ``checkpoint`` the state is stored there every ``checkpoint_every`` steps
    and after the last, and a run that finds a stored state continues from it (a
    finished one only loads).

    With ``collate`` the batch of a step is a list, and ``collate`` makes what
    ``loss`` takes of some of its items. Then the processes of a run share the
    items of a step, and each takes its share in parts, one after another, where
    less memory is wanted (:mod:`vlg_lib.training.distributed`). The parts'
    losses count by the weights that come with them, so the step is that of one
    process with the whole batch, up to rounding; but a batch norm sees one part
    of every process at a time. Without ``collate`` all processes do the same.

    Raises ValueError for a loss that is not finite, and StoreError for a
    checkpoint of another model, seed or length.
    """
    wrapped = distributed.wrap(model)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    run = {"seed": seed, "steps": steps}
    losses: list[float] = []
    spent = 0.0
    if checkpoint is not None and checkpoint.exists():
        losses, spent = _resume(checkpoint, model, optimizer, run)
    model.train()
    started = time.perf_counter() - spent
    devices = sorted(
        {
            parameter.device.index or 0
            for parameter in model.parameters()
            if parameter.is_cuda
        }
    )
    kind = next(model.parameters()).device.type
    # disabled, it does nothing
    scaler = torch.amp.GradScaler(kind, enabled=half_precision)
    bar = tqdm(
        total=steps,
        initial=len(losses),
        desc=progress,
        disable=progress is None,
        leave=False,
    )
    with bar, torch.random.fork_rng(devices=devices):
        for step in range(len(losses), steps):
            torch.manual_seed(step_seed(seed, step))
            drawn = batches(
                step, torch.Generator().manual_seed(step_seed(seed, step))
            )
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step / steps)
            optimizer.zero_grad(set_to_none=True)
            parts = (
                [(drawn, True, True)]
                if collate is None
                else _parts(drawn, collate)
            )
            losses.append(value := _differentiate(wrapped, loss, parts, scaler))
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss is {value} at step {step}: lower the learning"
                    " rate or look for bad input"
                )
            if max_grad_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            bar.update()
            if (
                checkpoint
                and distributed.rank() == 0
                and ((step + 1) % checkpoint_every == 0 or step + 1 == steps)
            ):
                _store(
                    checkpoint,
                    model,
                    optimizer,
                    run,
                    losses,
                    time.perf_counter() - started,
                )
    distributed.barrier()
    model.eval()
    return losses


def _parts(
    drawn: Sequence[Any], collate: Callable[[Any], Batch]
) -> Iterator[tuple[Batch, bool, bool]]:
    """What a process does of a step: (a batch, whether it counts or is only
    borrowed, whether it is the last).

    All processes have equally many, since they wait for each other in each of
    them.
    """
    processes = distributed.world_size()
    parts = min(distributed.accumulation(), math.ceil(len(drawn) / processes))
    for part in range(parts):
        share = drawn[
            part * processes + distributed.rank() :: parts * processes
        ]
        yield collate(share or drawn[:1]), bool(share), part + 1 == parts


def _differentiate(
    model: nn.Module,
    loss: Loss[Batch],
    parts: Iterable[tuple[Batch, bool, bool]],
    scaler: torch.amp.GradScaler,
) -> float:
    """The loss of a step, the mean over all processes' parts by their weights;
    its gradients are left in the model.
    """
    scale = weights = summed = torch.zeros(())
    for batch, counts, last in parts:
        distributed.SyncedBatchNorm1d.counts = counts
        with (
            nullcontext() if last else getattr(model, "no_sync", nullcontext)()
        ):
            result = loss(model, batch)
            value, weight = (
                result if isinstance(result, tuple) else (result, 1.0)
            )
            weight = torch.as_tensor(weight).to(value) * counts
            weights = weights + distributed.all_reduce(weight)
            # what later parts weigh is not known yet: all is scaled again at
            # the end
            if not scale:
                scale = weights + (weights == 0)
            value = value * (weight / scale)
            # times W, since gradients are averaged
            scaler.scale(value * distributed.world_size()).backward()
        summed = summed + distributed.all_reduce(value.detach())
    scale = scale / (weights + (weights == 0))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad *= scale
    return float(summed * scale)


def _store(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    run: dict[str, int],
    losses: list[float],
    seconds: float,
) -> None:
    """Write the state. The optimizer's tensors are flattened to names; its
    settings are JSON: no pickle.
    """
    state = optimizer.state_dict()
    tensors = {
        f"model.{name}": tensor for name, tensor in model.state_dict().items()
    }
    for index, values in state["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value)
            for name, value in values.items()
        }
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    manifest = {
        "run": run,
        "step": len(losses),
        "seconds": seconds,
        "groups": state["param_groups"],
    }
    save_tensors(path, tensors, manifest)


def _resume(
    path: Path, model: nn.Module, optimizer: Optimizer, run: dict[str, int]
) -> tuple[list[float], float]:
    """Read what :func:`_store` wrote into the model and the optimizer; the
    losses and the seconds so far.
    """
    tensors, manifest = load_tensors(path)
    if manifest.get("run") != run:
        raise StoreError(
            f"{path}: checkpoint of another run ({manifest.get('run')},"
            f" expected {run}); delete or move it"
        )
    load_model(path, model)
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    groups = [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()}
        for group in manifest["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return [float(value) for value in tensors["losses"]], float(
        manifest["seconds"]
    )


def load_model(path: Path, model: nn.Module) -> None:
    """Load the model of a checkpoint that :func:`fit` stored, in place;
    StoreError where it is another model's.
    """
    tensors, _ = load_tensors(path)
    stored = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }
    try:
        model.load_state_dict(stored)
    except RuntimeError as error:
        raise StoreError(
            f"{path}: checkpoint of another model; delete or move it ({error})"
        ) from error
    model.eval()
