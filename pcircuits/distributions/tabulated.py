"""Tables of any non-negative values: inputs of products, and of counts."""

from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.distributions.discrete import Discrete, Table
from pcircuits.distributions.family import Rows
from pcircuits.distributions.soft import Soft, Weighing
from pcircuits.errors import StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, logsumexp, ratio
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Memory

_NO_PARAMETERS = "a table's values are computed, and no parameters of its own"


@dataclass(frozen=True)
class Tabulated(Discrete):
    """Non-negative functions of 0..V-1 that need not sum to one."""

    num_categories: int
    name = "tabulated"
    gradients_by_counts = False

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        raise StructureError(_NO_PARAMETERS)

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        return parameters["log"]

    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        raise StructureError(_NO_PARAMETERS)

    def scaled_values(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, memory: Memory
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        """As of any discrete family, but a missing variable has its total, not one."""
        values, scale = super().scaled_values(prepared, rows, evidence, memory)
        missing = ~(evidence.observed | evidence.soft)
        if not missing.any():
            return values, scale
        return torch.where(missing.unsqueeze(-1), self.totals(prepared)[rows].unsqueeze(1), values), scale

    def totals(self, prepared: Table) -> Float[Tensor, "G K"]:
        return prepared.linear.sum(1)

    def statistics(self, *args: Any) -> dict[str, Tensor]:
        raise StructureError(_NO_PARAMETERS)

    def expected_log(self, prepared: Table, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        log = prepared.log.double()
        share = (log - finite(logsumexp(log)).unsqueeze(-1)).exp()
        missing = ~(evidence.observed | evidence.soft)
        free = (share * finite(log)).sum(-1)[rows].unsqueeze(1)
        return torch.where(missing.unsqueeze(-1), free, super().expected_log(prepared, rows, evidence))

    def _shares_of_missing(self, prepared: Table, rows: Rows, flows: Float[Tensor, "F B K"]) -> Float[Tensor, "F B K"]:
        return ratio(flows, self.totals(prepared)[rows].unsqueeze(1).to(flows.dtype))

    def _weighing_and_shares(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, free: Soft, flows: Tensor
    ) -> tuple[Weighing | None, Tensor]:
        weighing, shares = super()._weighing_and_shares(prepared, rows, evidence, free, flows)
        if weighing is not None:
            return weighing, shares
        total = self.totals(prepared)[rows[free.where[0]]].to(shares.dtype)
        return None, ratio(shares, total)


def table_of(log: Float[Tensor, "G K V"]) -> Table:
    """Units of any log values, not normalised."""
    return Table(log.exp().mT.contiguous(), Tabulated(log.shape[-1]), {"log": log}, None)
