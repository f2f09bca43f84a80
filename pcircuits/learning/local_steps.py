"""Steps that each of several processes takes by itself, before all of them agree again (Local SGD: Stich 2019)."""

from collections.abc import Iterable, Sequence

import torch
from torch import distributed

from pcircuits.learning.distributed import place
from pcircuits.types import Tensor


class LocalRound:
    """A process's batches since all agreed.

    batches: how many. weight: that of their rows. left: how much is left of the parameters that all had, the product of
    `1 - step`.
    """

    def __init__(self, parameters: Iterable[Tensor], every: int) -> None:
        self.every, self.batches, self.weight, self.left = every, 0, 0.0, 1.0
        self._parameters = list(parameters)
        self._start: list[Tensor] = []

    @property
    def is_shared(self) -> bool:
        """Whether there is nothing to do by oneself: every batch is everybody's, or there is one process."""
        return self.every == 1 or place().size == 1

    @property
    def is_over(self) -> bool:
        return self.batches == self.every

    @torch.no_grad()
    def add(self, weight: float, step: float = 0.0) -> None:
        """A batch, before its step is taken."""
        if self.batches == 0:
            self._start = [p.clone() for p in self._parameters]
        self.batches, self.weight, self.left = self.batches + 1, self.weight + weight, self.left * (1 - step)

    @torch.no_grad()
    def rewind(self) -> None:
        """Gives the parameters the values that all processes had before the round, and ends it."""
        for p, start in zip(self._parameters, self._start, strict=True):
            p.copy_(start)
        self.end()

    def end(self) -> None:
        self.batches, self.weight, self.left, self._start = 0, 0.0, 1.0, []


@torch.no_grad()
def average(tensors: Sequence[Tensor], weight: float) -> None:
    """The mean over all processes in place of each one's own, weighted; bit by bit the same everywhere."""
    device = tensors[0].device
    total = torch.tensor(weight, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    for tensor in tensors:
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        mean = real.to(device, torch.float64) * weight
        distributed.all_reduce(mean := mean.contiguous())
        real.copy_(mean / total)
