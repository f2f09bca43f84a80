"""Anemone: EM on averaged mini-batch flows, with a proximal term that weighs each unit by how often it is reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pcircuits.evidence import Evidence
from pcircuits.learning.distributed import all_reduce
from pcircuits.learning.em import require
from pcircuits.learning.learner import Batch, Objective, Score, StatisticsLearner, pack, score_of, unpack
from pcircuits.learning.local_steps import LocalRound
from pcircuits.statistics import Statistics
from pcircuits.types import Tensor


@dataclass(repr=True)
class Anemone(StatisticsLearner):
    """Mini-batch EM whose steps are proximal in the KL divergence between whole circuits (PyJuice's `anemone`).

    With the flows F_t of batch t, its total root flow C_t, the top-down probability TD(n) of unit n and its
    parameters theta:

        B_t   = m B_(t-1) + (1 - m) F_t / C_t          Fhat = B_t / (1 - m^t)
        G     = eta Fhat + (1 - eta) TD(n) theta       a_n = pseudocount * sum_c G
        theta <- (G + a_n/k_n) / (sum_c G + a_n)       over the k_n children of n

    A rarely reached unit thus moves as far as a frequent one. Two departures: each batch is divided by its own C_t
    *before* it enters the average, so that a short last batch weighs no more than its rows say, and the pseudocount
    is a fraction of the unit's own total, so that it cannot swamp units of small TD(n).

    In several processes with `every` above 1 each one takes that many steps by itself, as in MiniBatchEM. Then their
    averages B become one, weighted by their rows, which makes one step of `1 - (1 - eta)^every` from the parameters
    that all had before.
    """

    eta: float = 0.4
    momentum: float = 0.9
    pseudocount: float = 1e-6
    recompute: bool = False
    every: int = 1
    name: ClassVar[str] = "anemone"

    def __post_init__(self) -> None:
        require(0 < self.eta <= 1, self, "`eta` must be in (0, 1]")
        require(0 <= self.momentum < 1, self, "`momentum` must be in [0, 1)")
        require(self.pseudocount >= 0, self, "`pseudocount` must be at least 0")
        require(isinstance(self.every, int) and self.every >= 1, self, "`every` must be a positive integer")

    def begin(self, model: nn.Module, objective: Objective | None) -> None:
        super().begin(model, objective)
        self._average: Statistics | None = None
        self._updates = 0
        self._round = LocalRound(model.parameters(), self.every)

    def update(self, batch: Batch) -> Score:
        found = self.statistics(batch)
        if self._round.is_shared:
            found = all_reduce(found)
        else:
            self._round.add(found.weight, self.eta)
        window = found * ((1 - self.momentum) / found.weight)
        self._average = window if self._average is None else self._average * self.momentum + window
        self._updates += 1
        if self._round.is_over:
            self._agree()
        else:
            self._step(self.eta)
        return score_of(found)

    def end_epoch(self) -> None:
        if self._round.batches:
            self._agree()

    def _agree(self) -> None:
        assert self._average is not None
        total, eta = all_reduce(self._average * self._round.weight), 1 - self._round.left
        self._average = total * (self._average.weight / total.weight)
        self._round.rewind()
        self._step(eta)

    def _step(self, eta: float) -> None:
        assert self._average is not None
        flows = self._average * (eta / (1 - self.momentum**self._updates))
        self.circuit.maximise(flows + self._top_down() * (1 - eta), pseudocount=self.pseudocount, relative=True)

    def _top_down(self) -> Statistics:
        """`TD(n) theta`: what a sample of the circuit itself contributes to every count."""
        return self.circuit.statistics(Evidence.nothing(1, self.circuit.num_variables, self.circuit.device))

    def state(self) -> dict[str, Tensor]:
        average = {} if self._average is None else pack(self._average)
        return {**average, "updates": torch.tensor(self._updates)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        rest = dict(tensors)
        self._updates = int(rest.pop("updates"))
        self._average = unpack(rest, self.circuit.device) if rest else None
