"""Categorical inputs."""

from dataclasses import dataclass

import torch

from pcircuits.distributions.discrete import Discrete, Table
from pcircuits.distributions.family import LEAST_PROBABILITY, Rows, Smoothing
from pcircuits.errors import ParameterError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import probabilities
from pcircuits.kernels.em_step.cpu import em_step
from pcircuits.types import Bool, Float, Tensor
from pcircuits.workspace import Memory

_LARGE_VOCABULARY = 1 << 14


@dataclass(frozen=True)
class Categorical(Discrete):
    """Values 0..V-1 with free probabilities. Parameter: `logits` (G, K, V), normalised over V.

    In memory they lie value by value, as gathers, products and expected counts do; more than 16,384 values lie unit
    by unit, as samples read them.
    """

    num_categories: int
    name = "categorical"

    def __post_init__(self) -> None:
        if not isinstance(self.num_categories, int) or self.num_categories < 1:
            raise ParameterError(f"`num_categories` must be a positive integer, got {self.num_categories!r}")

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        weights = torch.rand(groups, units, self.num_categories, generator=generator).mul_(0.9).add_(0.1)
        weights.div_(weights.sum(-1, keepdim=True)).log_()  # in place: a vocabulary's table is large
        return {"logits": _value_by_value(weights)}

    def prepare(self, parameters: dict[str, Tensor], support: Bool[Tensor, "G K V"] | None) -> Table:
        logits = parameters["logits"]
        if support is not None or not logits.mT.is_contiguous():
            return super().prepare(parameters, support)
        if torch.is_grad_enabled():
            return Table(logits.mT.softmax(1), self, parameters, None)
        return Table(probabilities(logits.detach().mT, 1), self, {"logits": logits.detach()}, None)

    def maximise_in_place(
        self,
        parameters: dict[str, Tensor],
        prepared: Table,
        statistics: dict[str, Tensor],
        smooth: Smoothing,
        support: Bool[Tensor, "G K V"] | None,
    ) -> Table | None:
        log = parameters["logits"].detach().mT
        if log.device.type != "cpu" or support is not None or not log.is_contiguous():
            return None
        em_step(
            statistics["counts"].to(log.dtype).mT.contiguous(), prepared.linear, log, None, dim=1, **smooth._asdict()
        )
        return prepared

    def scores(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        """Gradients: what is expected of the units by themselves is taken from no table of counts, but adds to none."""
        reached = flows.new_zeros(len(prepared.linear), flows.shape[-1]).index_add_(0, rows, flows.sum(1))
        start = torch.mul(prepared.linear.to(flows.dtype), -reached.unsqueeze(1))
        return {"scores": self._counts(prepared, rows, evidence, flows, exact, start)}

    def gradient(
        self, parameters: dict[str, Tensor], prepared: Table, statistics: dict[str, Tensor], support: Tensor | None
    ) -> dict[str, Tensor]:
        if (counts := statistics.get("counts")) is None:
            return {"logits": statistics["scores"]}
        found = torch.addcmul(counts, counts.sum(-1, keepdim=True), prepared.linear.mT, value=-1)
        return {"logits": found + statistics["scores"] if "scores" in statistics else found}

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        return parameters["logits"].log_softmax(-1)

    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        return {"logits": _value_by_value(table.clamp_min(LEAST_PROBABILITY).log_())}


def _value_by_value(logits: Float[Tensor, "G K V"]) -> Float[Tensor, "G K V"]:
    return logits if logits.shape[-1] > _LARGE_VOCABULARY else logits.mT.contiguous().mT
