"""External inputs."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pcircuits.distributions.family import InputFamily, Picks, Rows, Smoothing
from pcircuits.errors import EvidenceError
from pcircuits.evidence import InputEvidence, rows_of
from pcircuits.types import Bool, Float, Tensor
from pcircuits.workspace import Memory


class Nothing(NamedTuple):
    log_one: Float[Tensor, "G K"]


@dataclass(frozen=True)
class External(InputFamily):
    """A variable of any kind, whose log likelihoods under each unit come from elsewhere, say a network: per sample and
    unit, as `Evidence(values, latent=log_likelihoods)`, (B, D, K), where the variable is observed; its entry of
    `values` is not read. Gradients reach them.

    Units have no parameters and no density of their own, so a circuit knows neither values nor moments, intervals or
    samples of the variable: these raise EvidenceError where it is not observed.
    """

    name = "external"
    fixed = frozenset({"log_one"})

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"log_one": torch.zeros(groups, units)}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Nothing:
        return Nothing(parameters["log_one"])

    def dtype_of(self, prepared: Nothing) -> torch.dtype:
        return prepared.log_one.dtype

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        if evidence.latent is None and evidence.observed.any():
            variable = variables[int(evidence.observed.any(1).nonzero()[0])]
            raise EvidenceError(f"variable {variable} is {self!r}: give its log likelihoods as `latent`")
        if evidence.bounded.any():
            variable = variables[int(evidence.bounded.any(1).nonzero()[0])]
            raise EvidenceError(f"variable {variable} is {self!r}: it has no distribution function for an `interval`")
        if evidence.log_weights is not None and evidence.log_weights[~evidence.observed].any():
            raise EvidenceError(f"variables {variables} are {self!r}: `log_weights` must be zero there")

    def log_values(
        self, prepared: Nothing, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        return prepared.log_one.double()[rows].unsqueeze(1).expand(-1, evidence.values.shape[1], -1)

    def posterior(
        self, prepared: Nothing, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> Float[Tensor, "F B 2"]:
        self._require_observed(evidence.observed)
        values = evidence.values.to(flows.dtype)
        return torch.stack([values, values.square()], -1) * flows.sum(-1, keepdim=True)

    def statistics(
        self, prepared: Nothing, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        reached = flows.new_zeros(prepared.log_one.shape).index_add(0, rows, flows.sum(1))
        return {"counts": reached.unsqueeze(-1)}

    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        return {}

    def sample(
        self,
        prepared: Nothing,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, " M"]:
        row, batch, _ = picks
        self._require_observed(evidence.observed[row, batch].unsqueeze(0))
        return evidence.values[row, batch].to(prepared.log_one.dtype)

    def overlap(self, prepared: Nothing, rows: Rows) -> Bool[Tensor, "F K K"]:
        units = prepared.log_one.shape[1]
        return torch.ones(len(rows), units, units, dtype=torch.bool, device=prepared.log_one.device)

    def _require_observed(self, observed: Bool[Tensor, "F B"]) -> None:
        if not observed.all():
            raise EvidenceError(
                f"{self!r} variables have no values that a circuit knows: they must be observed for marginals, samples "
                f"and MPE; not so in batch rows {rows_of(~observed.mT)}"
            )
