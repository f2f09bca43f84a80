"""What is asked of a semiring: the meaning of product and sum, on the way up and down. One instance serves one pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from pcircuits.distributions import InputFamily
from pcircuits.evidence import InputEvidence
from pcircuits.semirings.weights import Chosen, SumWeights
from pcircuits.types import Float, Inexact, Tensor
from pcircuits.workspace import Memory


class Values(NamedTuple):
    """Values of a level's units, `v exp(s)` in linear semirings and `v + s` in log ones. `s` is float64.

    Of `Scaled`, where no sample is marked: `peak` is a lower bound of the largest `v` of every region and sample,
    `least` of every `v`.
    """

    v: Inexact[Tensor, "*A F B K"]
    s: Float[Tensor, "*T F B"]
    peak: float = 0.0
    least: float = 0.0


@runtime_checkable
class Semiring(Protocol):
    exact: bool  # whether input flows must be worked out in log space
    memory: Memory  # what results are written into

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values: ...
    def product(self, kind: str, children: Sequence[Values]) -> Values: ...
    def dense_sum(self, weights: SumWeights, product: Values) -> Values: ...
    def mixing_terms(self, children: Sequence[Values]) -> Values: ...
    def mix(self, weights: SumWeights, terms: Values) -> Values: ...
    def root(self, values: Values) -> Float[Tensor, " B"]: ...
    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]: ...
    def mixing_flows(
        self, weights: SumWeights, terms: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]: ...
    def choose(
        self, weights: SumWeights, at: Chosen, terms: Tensor, generator: torch.Generator | None, index: Tensor | None
    ) -> Tensor: ...
