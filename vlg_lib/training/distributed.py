"""One run in several processes, on one machine or on many: scenes are shared
out, gradients averaged, moments joined.

``accelerate launch`` starts W processes with one command. All of them make the
same calls in the same order, and the functions here say who does which part. In
one process they change nothing: no process group is made.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as processes
from tqdm.auto import tqdm

from vlg_lib.precision import sum_dtype

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: scenes differ in size, and the first
to finish must not give up."""

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""The choices of ``accelerate launch --mixed_precision``."""


def start(device: str | None = None) -> None:
    """Join the processes that a launcher started (environment variable
    WORLD_SIZE); does nothing where there is one.

    With NCCL on GPUs, of which each process gets its own as ``cuda``; with gloo
    where ``device`` is "cpu".
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and world_size() == 1:
        # here, not above: a run in one process does without it
        from accelerate import PartialState

        PartialState(
            cpu=device == "cpu" or not torch.cuda.is_available(),
            timeout=PATIENCE,
        )


def world_size() -> int:
    """The number W of processes."""
    return (
        processes.get_world_size()
        if processes.is_available() and processes.is_initialized()
        else 1
    )


def rank() -> int:
    """The number of this process, 0 ... W - 1. Number 0 is the main one, which
    prints and writes what is one a run.
    """
    return processes.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Go on when all processes have come here: what one of them wrote before,
    all can read after it.
    """
    if world_size() > 1:
        processes.barrier()


def finish() -> None:
    """Leave the other processes, which leave as well."""
    if world_size() > 1:
        processes.destroy_process_group()


def each(
    items: Sequence[Any], work: Callable[[Any], Any], title: str | None = None
) -> list[Any]:
    """The result of ``work`` for each item, in their order, in every process.
    Process r works on items r, r + W, ...

    Results travel between processes: let them be small, and large things go
    through files. ``title``: of a bar. A bad item (ValueError) does not keep
    the others from being done; any other trouble (OSError, RuntimeError) ends
    the work of its process. After that all processes raise: the error itself
    where it is one, else a ValueError that lists them by the items' names.
    """
    done, failed, caught = [], [], None
    for item in tqdm(
        items[rank() :: world_size()], desc=title, disable=title is None
    ):
        try:
            done.append(work(item))
        except (ValueError, OSError, RuntimeError) as error:
            failed.append(f"{getattr(item, 'name', item)}: {error}")
            caught = caught or error
            if not isinstance(error, ValueError):
                break
    shares: list[Any] = [(done, failed)] * world_size()
    if world_size() > 1:
        processes.all_gather_object(shares, (done, failed))
    failed = [message for _, messages in shares for message in messages]
    if caught is not None and len(failed) == 1:
        raise caught
    if failed:
        raise ValueError(
            "\n".join([f"{len(failed)} of {len(items)} failed:", *failed])
        ) from caught
    return [
        shares[index % world_size()][0][index // world_size()]
        for index in range(len(items))
    ]


def all_reduce(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in each of them. Gradients go to
    all that have a share in it.
    """
    return value if world_size() == 1 else _AllReduce.apply(value)


class _AllReduce(torch.autograd.Function):
    """What one process's value does to the sum, it does to the sum in all of
    them: gradients are summed up, too.
    """

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        processes.all_reduce(value := value.clone())
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _AllReduce.apply(gradient)


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """The type to run networks in: what ``accelerate launch --mixed_precision``
    said, else float16 on CUDA; or None.

    A T4 has no bfloat16. ValueError for a choice that is not one of PRECISIONS.
    """
    chosen = os.environ.get(
        "ACCELERATE_MIXED_PRECISION", "fp16" if device.type == "cuda" else "no"
    )
    if chosen not in PRECISIONS:
        raise ValueError(
            f"unknown mixed precision {chosen!r}; known:"
            f" {', '.join(PRECISIONS)}"
        )
    return PRECISIONS[chosen]


def accumulation() -> int:
    """How many parts a process makes of its share of a step, one after another:
    accelerate's variable says so, or 1.
    """
    return max(
        1, int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    )


def wrap(model: nn.Module) -> nn.Module:
    """The model for a training in all processes, which share its weights:
    gradients are averaged, batch norms joined.

    In one process it is the model itself. The weights start as those of process
    0.
    """
    if world_size() == 1:
        return model
    for module in model.modules():
        # also the one inside a sparse batch norm, of either engine
        if type(module) is nn.BatchNorm1d:
            # weights and statistics stay where optimizer and files find them
            module.__class__ = SyncedBatchNorm1d
    count_rows(model, True)
    return nn.parallel.DistributedDataParallel(model)


def count_rows(model: nn.Module, counted: bool) -> None:
    """Tell the batch norms of a model from :func:`wrap` whether the rows that
    this process shows them next are its own, and count.

    A process without a share of a batch runs along on borrowed rows, since the
    others wait for it in every batch norm. In one process this does nothing.
    """
    for module in model.modules():
        if isinstance(module, SyncedBatchNorm1d):
            module.counted = counted


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation of (N, C) rows by mean and variance over the rows of
    all processes, on any device.

    PyTorch's SyncBatchNorm does the same on CUDA alone. ``counted``: whether
    this process's rows are; :func:`count_rows` says so. Of a single row in all
    processes there is no variance: the running statistics do for it, and are
    left as they are, as in one process
    (:func:`vlg_lib.sparse.layers.batch_norm`).
    """

    counted: bool

    def forward(self, input: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Normalise each channel. In training all processes must call it
        together, with at least a row each.
        """
        if not self.training:
            return super().forward(input)
        wide = input.to(sum_dtype(input))
        variance, mean = (
            moment.double()
            for moment in torch.var_mean(wide, dim=0, correction=0)
        )
        # Sums of x, of x^2 and of rows, in float64 before anything is squared:
        # the variance is a small difference of them.
        moments = torch.cat([mean, variance + mean.square(), mean.new_ones(1)])
        *sums, rows = all_reduce(moments * (len(input) * self.counted)).split(
            [*[len(mean)] * 2, 1]
        )
        mean = sums[0] / rows
        variance = sums[1] / rows - mean.square()
        several = rows > 1
        running_mean = self.get_buffer("running_mean")
        running_var = self.get_buffer("running_var")
        mean = torch.where(several, mean, running_mean.double())
        variance = torch.where(several, variance, running_var.double())
        with torch.no_grad():
            tracked = self.get_buffer("num_batches_tracked")
            tracked += several[0]
            rate = (
                1 / max(1.0, float(tracked))
                if self.momentum is None
                else self.momentum
            )
            running_mean.lerp_(mean.to(running_mean.dtype), rate)
            unbiased = variance * rows / (rows - 1).clamp(min=1)
            running_var.lerp_(unbiased.to(running_var.dtype), rate)
        scale = self.weight * (variance + self.eps).rsqrt().to(wide.dtype)
        centred = wide - mean.to(wide.dtype)
        return (centred * scale + self.bias).to(input.dtype)
