"""Expectation maximisation, on all data at once and batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pcircuits.errors import ParameterError
from pcircuits.learning.distributed import all_reduce
from pcircuits.learning.learner import Batch, Objective, Score, StatisticsLearner, pack, score_of, unpack
from pcircuits.learning.local_steps import LocalRound
from pcircuits.statistics import Statistics
from pcircuits.types import Tensor


@dataclass(repr=True)
class EM(StatisticsLearner):
    """Full-batch EM (Dempster, Laird, Rubin 1977): counts n of all batches, then `theta = (n + a/k) / (sum n + a)`.

    `pseudocount` is a, in samples; k is the number of children. At 0 no epoch lowers the likelihood, and what was
    never seen has probability 0.
    """

    pseudocount: float = 0.1
    recompute: bool = False
    name: ClassVar[str] = "em"

    def __post_init__(self) -> None:
        require(self.pseudocount >= 0, self, "`pseudocount` must be at least 0")

    def begin(self, model: nn.Module, objective: Objective | None) -> None:
        super().begin(model, objective)
        self._total: Statistics | None = None

    def update(self, batch: Batch) -> Score:
        found = self.statistics(batch)
        self._total = found * 1.0 if self._total is None else self._total + found
        return score_of(found)

    def end_epoch(self) -> None:
        if self._total is not None:
            self.circuit.maximise(all_reduce(self._total), pseudocount=self.pseudocount)
        self._total = None

    def state(self) -> dict[str, Tensor]:
        return {} if self._total is None else pack(self._total)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._total = unpack(tensors, self.circuit.device) if tensors else None


@dataclass(repr=True)
class MiniBatchEM(StatisticsLearner):
    """An EM step a batch, taken part of the way: `theta <- (1 - s) theta + s (n + a/k) / (sum n + a)`.

    The share `s = step / (1 + t)^decay` shrinks with the batches t seen; a decay above 0.5 and up to 1 makes
    stochastic EM converge (Cappe, Moulines 2009). `pseudocount` is a fraction of each unit's own count, so that a
    batch cannot flatten units that it hardly reaches.

    In several processes with `every` above 1 each one takes that many steps by itself. Then what they share is their
    counts: from the parameters theta_0 that all had before, the counts `sum_p sum_t n_pt prod_(u > t) (1 - s_u)` of all
    processes p and batches t make one step of `1 - prod_t (1 - s_t)`. A mean of the processes' parameters would weigh
    them equally in every unit, however often each reached it, and its fixed point would not be that of EM. Processes
    need as many rounds of `every` batches; the last one of an epoch may be shorter. A checkpoint within a round has the
    first process's parameters, and the train loss is that of a process's own rows.
    """

    step: float = 0.2
    decay: float = 0.0
    pseudocount: float = 1e-3
    recompute: bool = False
    every: int = 1
    name: ClassVar[str] = "minibatch_em"

    def __post_init__(self) -> None:
        require(0 < self.step <= 1, self, "`step` must be in (0, 1]")
        require(0 <= self.decay <= 1, self, "`decay` must be in [0, 1]")
        require(self.pseudocount >= 0, self, "`pseudocount` must be at least 0")
        require(isinstance(self.every, int) and self.every >= 1, self, "`every` must be a positive integer")

    def begin(self, model: nn.Module, objective: Objective | None) -> None:
        super().begin(model, objective)
        self._updates = 0
        self._round = LocalRound(model.parameters(), self.every)
        self._counts: Statistics | None = None

    def update(self, batch: Batch) -> Score:
        found = self.statistics(batch)
        step = self.step / (1 + self._updates) ** self.decay
        self._updates += 1
        if self._round.is_shared:
            found = all_reduce(found)
            self._maximise(found, step)
            return score_of(found)
        self._round.add(found.weight, step)
        self._counts = found * 1.0 if self._counts is None else self._counts * (1 - step) + found
        if self._round.is_over:
            self._agree()
        else:
            self._maximise(found, step)
        return score_of(found)

    def end_epoch(self) -> None:
        if self._counts is not None:
            self._agree()

    def _agree(self) -> None:
        assert self._counts is not None
        step = 1 - self._round.left
        self._round.rewind()
        self._maximise(all_reduce(self._counts), step)
        self._counts = None

    def _maximise(self, found: Statistics, step: float) -> None:
        self.circuit.maximise(found, pseudocount=self.pseudocount, relative=True, step=step)

    def state(self) -> dict[str, Tensor]:
        return {"updates": torch.tensor(self._updates)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._updates = int(tensors["updates"])


def require(condition: bool, learner: object, message: str) -> None:
    if not condition:
        raise ParameterError(f"{message}, got {learner!r}")
