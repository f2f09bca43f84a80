"""Families that EM maximises through the means of a few statistics."""

from abc import abstractmethod
from typing import Any

import torch

from pcircuits.distributions.family import LEAST_COUNT, Rows, Smoothing
from pcircuits.distributions.univariate import Univariate
from pcircuits.evidence import InputEvidence
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Memory


class ExponentialFamily(Univariate):
    """A family whose likelihood depends on the data through the mean of `statistic` alone: either its own (an
    exponential family), or that of a latent variable that completes it to one, whose expectation then depends on the
    present parameters. In both cases maximisation never lowers the likelihood.
    """

    @abstractmethod
    def statistic(self, unit: Any, x: Float[Tensor, "..."]) -> Float[Tensor, "... S"]:
        """Sufficient statistics of values, or their expectation given the values under the unit."""

    @abstractmethod
    def mean_statistic(self, unit: Any) -> Float[Tensor, "... S"]:
        """The expectation of `statistic` under the unit."""

    @abstractmethod
    def prior_statistic(self, unit: Any) -> Float[Tensor, "*GK S"]:
        """`statistic` of a pseudo-sample: what smoothing pulls towards."""

    @abstractmethod
    def from_statistic(self, mean: Float[Tensor, "G K S"], old: Any) -> dict[str, Tensor]:
        """Unconstrained parameters of greatest likelihood where the statistics, under the old unit, have this mean."""

    def statistics(
        self,
        prepared: Any,
        rows: Rows,
        evidence: InputEvidence,
        flows: Float[Tensor, "F B K"],
        exact: bool,
        memory: Memory,
    ) -> dict[str, Float[Tensor, "G K S"]]:
        unit, flows = type(prepared)(*(t[rows].unsqueeze(1).double() for t in prepared)), flows.double()
        found = self.expectations(prepared, rows, evidence, self.statistic, self.mean_statistic(unit))
        sums = torch.einsum("fbk,fbks->fks", flows, found) if found.shape[2] > 1 else flows.mT @ found.squeeze(2)
        per_row = torch.cat([flows.sum(1).unsqueeze(-1), sums], -1)
        return {"counts": flows.new_zeros(*prepared[0].shape, per_row.shape[-1]).index_add(0, rows, per_row)}

    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        pseudocount, relative, step = smooth
        counts = statistics["counts"].double()
        total, sums = counts[..., :1], counts[..., 1:]
        unit = type(prepared)(*(t.double() for t in prepared))
        old = self.mean_statistic(unit)
        extra = pseudocount * (total if relative else torch.ones_like(total))
        estimate = (sums + extra * self.prior_statistic(unit)) / (total + extra).clamp_min(LEAST_COUNT)
        mean = torch.where(total > LEAST_COUNT, (1 - step) * old + step * estimate, old)
        return {name: value.to(prepared[0].dtype) for name, value in self.from_statistic(mean, unit).items()}
