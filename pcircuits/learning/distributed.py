"""Learning in several processes: statistics add up, gradients are averaged, the first process writes. With `every` of
a learner they meet less often (`local_steps.py`).
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import distributed, nn

from pcircuits.errors import DataError
from pcircuits.statistics import Statistics
from pcircuits.types import Int, Tensor


class Place(NamedTuple):
    """This process's number, from 0, and how many there are."""

    rank: int
    size: int


def place() -> Place:
    """(0, 1) unless `torch.distributed` is initialised."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Place(0, 1)
    return Place(distributed.get_rank(), distributed.get_world_size())


def join() -> Place:
    """Joins the processes that `torchrun` started, if it did: NCCL where there are GPUs, one a process, else gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return place()


def wait() -> None:
    """Until every process is here."""
    if place().size > 1:
        distributed.barrier()


def share(index: Int[Tensor, " B"]) -> Int[Tensor, " b"]:
    """This process's rows of a batch that all of them know.

    Raises:
        DataError: a batch of fewer rows than there are processes.
    """
    rank, size = place()
    if len(index) < size:
        raise DataError(f"a batch of {len(index)} rows cannot be shared by {size} processes; leave these rows out")
    return index[rank::size]


def synchronise(model: nn.Module) -> None:
    """Gives every process the parameters and buffers of the first."""
    if place().size > 1:
        for tensor in model.state_dict().values():
            whole = tensor.contiguous()
            distributed.broadcast(whole, 0)
            tensor.copy_(whole)


def average_gradients(parameters: Sequence[nn.Parameter], loss: float, weight: float) -> tuple[float, float]:
    """Gradients of the mean loss over all processes' rows, in place of those of each; returns that loss and the total
    weight.
    """
    if place().size == 1:
        return loss, weight
    device = parameters[0].device
    used = [p.grad is not None for p in parameters]
    totals = torch.tensor([loss * weight, weight, *used], dtype=torch.float64, device=device)
    distributed.all_reduce(totals)
    total = float(totals[1])
    for p, anywhere in zip(parameters, (totals[2:] > 0).tolist(), strict=True):
        if anywhere:
            summed = torch.zeros_like(p) if p.grad is None else p.grad * weight
            distributed.all_reduce(summed := summed.contiguous())
            p.grad = summed / total
    return float(totals[0]) / total, total


def all_reduce(statistics: Statistics) -> Statistics:
    """The sum of all processes' statistics where `torch.distributed` is initialised, else the argument itself.

    Processes that start from the same parameters and each feed their share of the data then keep the same parameters.
    EM calls it once an epoch; MiniBatchEM and Anemone once a batch, or in `every` batches, so that there each process
    needs as many.
    """
    if place().size == 1:
        return statistics
    counts = {
        group: {part: value.clone() for part, value in parts.items()} for group, parts in statistics.counts.items()
    }
    device = statistics.log_likelihood.device
    totals = torch.stack(
        [statistics.log_likelihood, torch.tensor(statistics.weight, dtype=torch.float64, device=device)]
    )
    for tensor in [*(value for parts in counts.values() for value in parts.values()), totals]:
        distributed.all_reduce(tensor)
    return Statistics(counts, totals[0], float(totals[1]))
