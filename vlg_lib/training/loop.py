"""The one training loop: every stage that learns goes through :func:`fit` (used
from chapter 06 on).

A step depends on nothing but the model, the optimizer, the seed and the step's
number: its batch and every random draw inside the model come from generators
seeded by (seed, step). So a run that is stopped anywhere and started again
continues bit for bit on a CPU, and a checkpoint needs no random state.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from vlg_lib.artifacts import (
    StoreError,
    load_tensors,
    plain_name,
    save_tensors,
)
from vlg_lib.training import distributed

Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], Tensor | tuple[Tensor, Tensor | float]]
"""A scalar: a mean over a batch. With it, where means of parts are to be
joined, how much the mean stands for."""

Schedule = Callable[[float], float]
"""A learning-rate schedule: from progress (step / steps, in [0, 1)) to a factor
on the optimizer's own rate."""


_OTHER_PRECISION = (
    "train in bfloat16 or without mixed precision (accelerate launch"
    " --mixed_precision bf16, or no)"
)


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


@dataclass(frozen=True)
class FitSettings:
    """What every training takes beside its recipe: where its random draws
    start, and where its state is kept.
    """

    seed: int = 0
    """Where the random draws start; from 0."""
    checkpoint: Path | None = None
    """The file that keeps the state: a training that finds one goes on from
    it. None: nothing is kept."""
    checkpoint_every: int = 100
    """Steps between two stored states; from 1. The last step is stored
    always."""
    progress: str | None = None
    """The title of a progress bar; None shows none."""


@dataclass(frozen=True)
class Optimization:
    """How a training moves the weights."""

    optimizer: Optimizer
    """An optimizer of the model's parameters, at its full learning rate."""
    steps: int
    """How many steps are taken; from 0."""
    schedule: Schedule = constant
    """What the learning rate is multiplied with in the course of it."""
    max_grad_norm: float | None = None
    """The largest norm of the gradient; None for any."""
    half_precision: bool = False
    """Whether the model runs in float16. Then the loss is scaled up before it
    is differentiated, lest small gradients become zero, and a step whose
    gradients overflow is left out."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    losses: list[float]
    """The loss of each step so far."""
    seconds: float
    """What these steps took, wherever the training was continued."""
    skipped: int = 0
    """How many of them moved nothing, since gradients overflowed in float16."""
    start_up: int = 0
    """How many of these came before the first step that moved the weights: the
    scale of the loss starts high, and settles."""


def step_seed(seed: int, step: int) -> int:
    """The seed of one step: distinct for every (seed, step) with step <
    1,000,003; a resumed run meets it again.
    """
    return (seed * 1_000_003 + step) % (1 << 63)


def fit(
    model: nn.Module,
    batches: Callable[[int, torch.Generator], Any],
    loss: Loss[Batch],
    optimization: Optimization,
    fit_settings: FitSettings | None = None,
    *,
    collate: Callable[[Any], Batch] | None = None,
) -> list[float]:
    """Train ``model`` in place and return the loss of each step.

    ``batches(step, generator)`` makes the batch of a step, with a CPU generator
    that is seeded for that step; ``loss(model, batch)`` returns a scalar. With
    ``fit_settings.checkpoint`` the state is stored there, and a run that finds
    a stored state continues from it (a finished one only loads).

    With ``collate`` the batch of a step is a list, and ``collate`` makes what
    ``loss`` takes of some of its items. Then the processes of a run share the
    items of a step, and each takes its share in parts, one after another, where
    less memory is wanted (:mod:`vlg_lib.training.distributed`). The parts'
    losses count by the weights that come with them, so the step is that of one
    process with the whole batch, up to rounding; but a batch norm sees one part
    of every process at a time. Without ``collate`` all processes do the same.

    Raises ValueError for a loss that is not finite and where too many steps
    overflow in float16 (:func:`check_skipped`; fewer are a warning, but for
    those of the start-up), and StoreError for a checkpoint of another model,
    seed or length.

    >>> model = nn.Linear(1, 1)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> losses = fit(
    ...     model,
    ...     lambda step, generator: torch.randn(8, 1, generator=generator),
    ...     lambda model, batch: (model(batch) - 2 * batch).square().mean(),
    ...     Optimization(sgd, steps=50),
    ... )
    >>> len(losses), losses[-1] < losses[0]
    (50, True)
    """
    settings = fit_settings or FitSettings()
    run = {"seed": settings.seed, "steps": optimization.steps}
    stepper = _Stepper(model, loss, optimization)
    before = Progress([], 0.0)
    if settings.checkpoint is not None and settings.checkpoint.exists():
        before = _resume(settings.checkpoint, stepper, run)
    losses = list(before.losses)
    model.train()
    started = time.perf_counter() - before.seconds
    bar = tqdm(
        total=optimization.steps,
        initial=len(losses),
        desc=settings.progress,
        disable=settings.progress is None,
        leave=False,
    )
    with bar, torch.random.fork_rng(devices=_cuda_devices(model)):
        for step in range(len(losses), optimization.steps):
            seed = step_seed(settings.seed, step)
            torch.manual_seed(seed)
            drawn = batches(step, torch.Generator().manual_seed(seed))
            losses.append(stepper.take(step, _parts(drawn, collate)))
            check_skipped(stepper.skipped, step + 1, optimization.steps)
            bar.update()
            if _is_stored(settings, step + 1, optimization.steps):
                assert settings.checkpoint is not None
                seconds = time.perf_counter() - started
                _store(settings.checkpoint, stepper, run, losses, seconds)
    _tell_skipped(stepper.skipped, stepper.start_up, optimization.steps)
    distributed.barrier()
    model.eval()
    return losses


def check_skipped(skipped: int, done: int, steps: int) -> None:
    """ValueError where so many of the steps done were left out that a training
    of ``steps`` steps is none: more than a quarter of them, after some 20 in
    which the scale of the loss may settle; in the end more than half.

    >>> check_skipped(6, done=150, steps=150)
    """
    allowed = 20 + done / 4
    if done == steps:
        allowed = max(10, min(allowed, done / 2))
    if skipped > allowed:
        raise ValueError(
            f"{skipped} of {done} steps were left out, since gradients"
            f" overflowed in float16: {_OTHER_PRECISION}"
        )


def _tell_skipped(skipped: int, start_up: int, steps: int) -> None:
    """Warn of steps that were left out, beyond those in which the scale of the
    loss settles.

    It starts at 2^16, so 16 halvings bring it to 1, and is doubled after every
    2,000 good steps, which may cost one.
    """
    natural = min(start_up, 16) + steps // 2000
    if skipped > natural and distributed.rank() == 0:
        warnings.warn(
            f"{skipped} of {steps} steps were left out, since gradients"
            " overflowed in float16",
            stacklevel=3,
        )


def _cuda_devices(model: nn.Module) -> list[int]:
    """The numbers of the GPUs that hold parameters."""
    return sorted(
        {
            parameter.device.index or 0
            for parameter in model.parameters()
            if parameter.is_cuda
        }
    )


def _is_stored(settings: FitSettings, done: int, steps: int) -> bool:
    """Whether this process stores the state after so many steps."""
    return (
        settings.checkpoint is not None
        and distributed.rank() == 0
        and (done % settings.checkpoint_every == 0 or done == steps)
    )


@dataclass(frozen=True)
class _Part(Generic[Batch]):
    """What a process does at a time in a step: a batch, whether it counts or
    its items are only borrowed, and whether it is the last.
    """

    batch: Batch
    counts: bool
    last: bool


def _parts(
    drawn: Any, collate: Callable[[Any], Batch] | None
) -> Iterator[_Part[Batch]]:
    """The parts of a step for this process.

    All processes have equally many, since they wait for each other in each of
    them.
    """
    if collate is None:
        yield _Part(drawn, True, True)
        return
    processes = distributed.world_size()
    parts = min(distributed.accumulation(), math.ceil(len(drawn) / processes))
    for part in range(parts):
        share = drawn[
            part * processes + distributed.rank() :: parts * processes
        ]
        yield _Part(collate(share or drawn[:1]), bool(share), part + 1 == parts)


class _Stepper(Generic[Batch]):
    """Takes the steps of a training: rate, gradients, their limit, update."""

    def __init__(
        self, model: nn.Module, loss: Loss[Batch], optimization: Optimization
    ) -> None:
        self.model, self.loss, self.how = model, loss, optimization
        self.wrapped = distributed.wrap(model)
        self.rates = [
            float(group["lr"]) for group in optimization.optimizer.param_groups
        ]
        # disabled, it does nothing
        self.scaler = torch.amp.GradScaler(
            next(model.parameters()).device.type,
            enabled=optimization.half_precision,
        )
        self.skipped = self.start_up = 0

    def take(self, step: int, parts: Iterable[_Part[Batch]]) -> float:
        """Take a step and return its loss; ValueError where it is not
        finite.
        """
        optimizer = self.how.optimizer
        factor = self.how.schedule(step / self.how.steps)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        value = _differentiate(self.wrapped, self.loss, parts, self.scaler)
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {step}: lower the learning rate"
                " or look for bad input"
            )
        if self.how.max_grad_norm is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(
                self.model.parameters(), self.how.max_grad_norm
            )
        self.scaler.step(optimizer)
        scale = self.scaler.get_scale()
        self.scaler.update()
        # it goes down where gradients had overflowed, and the step was none
        if self.scaler.get_scale() < scale:
            self.skipped += 1
            if self.skipped == step + 1:
                self.start_up = self.skipped
            self._check_scale(step)
        return value

    def _check_scale(self, step: int) -> None:
        """ValueError where the scale of the loss is so small that gradients
        vanish in float16 instead of overflowing.
        """
        scale = self.scaler.get_scale()
        if scale < torch.finfo(torch.float16).smallest_normal:
            raise ValueError(
                f"{self.skipped} of {step + 1} steps were left out, since"
                " gradients overflowed in float16, and the scale of the loss"
                f" fell to {scale:g}: {_OTHER_PRECISION}"
            )


def _differentiate(
    model: nn.Module,
    loss: Loss[Batch],
    parts: Iterable[_Part[Batch]],
    scaler: torch.amp.GradScaler,
) -> float:
    """The loss of a step, the mean over all processes' parts by their weights;
    its gradients are left in the model.
    """
    scale = weights = summed = torch.zeros(())
    for part in parts:
        distributed.count_rows(model, part.counts)
        with (
            nullcontext()
            if part.last
            else getattr(model, "no_sync", nullcontext)()
        ):
            result = loss(model, part.batch)
            value, weight = (
                result if isinstance(result, tuple) else (result, 1.0)
            )
            weight = torch.as_tensor(weight).to(value) * part.counts
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
    stepper: _Stepper[Any],
    run: dict[str, int],
    losses: list[float],
    seconds: float,
) -> None:
    """Write the state. The optimizer's tensors are flattened to names; its
    settings are JSON: no pickle.
    """
    state = stepper.how.optimizer.state_dict()
    tensors = {
        f"model.{plain_name(name)}": tensor
        for name, tensor in stepper.model.state_dict().items()
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
        "skipped": stepper.skipped,
        "start_up": stepper.start_up,
        "scaler": stepper.scaler.state_dict(),
        "groups": state["param_groups"],
    }
    save_tensors(path, tensors, manifest)


def _resume(
    path: Path, stepper: _Stepper[Any], run: dict[str, int]
) -> Progress:
    """Read what :func:`_store` wrote into the model, the optimizer and the
    scale of the loss; the progress so far.
    """
    tensors, manifest = load_tensors(path)
    if manifest.get("run") != run:
        raise StoreError(
            f"{path}: checkpoint of another run ({manifest.get('run')},"
            f" expected {run}); delete or move it"
        )
    _set_weights(path, stepper.model, tensors)
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    groups = [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()}
        for group in manifest["groups"]
    ]
    stepper.how.optimizer.load_state_dict(
        {"state": state, "param_groups": groups}
    )
    # empty where the training began in float32, or in an earlier version
    if manifest.get("scaler"):
        stepper.scaler.load_state_dict(manifest["scaler"])
    progress = _progress(tensors, manifest)
    stepper.skipped, stepper.start_up = progress.skipped, progress.start_up
    return progress


def load_model(path: Path, model: nn.Module) -> Progress:
    """Load the model of a checkpoint that :func:`fit` stored, in place, in
    evaluation mode; the progress of its training.

    StoreError where the checkpoint is another model's.
    """
    tensors, manifest = load_tensors(path)
    _set_weights(path, model, tensors)
    model.eval()
    return _progress(tensors, manifest)


def _set_weights(
    path: Path, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    own = {plain_name(name): name for name in model.state_dict()}
    stored = {}
    for name, tensor in tensors.items():
        if name.startswith("model."):
            plain = plain_name(name.removeprefix("model."))
            stored[own.get(plain, plain)] = tensor
    try:
        model.load_state_dict(stored)
    except RuntimeError as error:
        raise StoreError(
            f"{path}: checkpoint of another model; delete or move it ({error})"
        ) from error


def _progress(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> Progress:
    return Progress(
        tensors["losses"].tolist(),
        float(manifest["seconds"]),
        # not counted by earlier versions
        int(manifest.get("skipped", 0)),
        int(manifest.get("start_up", 0)),
    )
