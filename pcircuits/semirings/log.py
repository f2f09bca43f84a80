"""Log values, exact everywhere."""

from collections.abc import Sequence
from typing import Any

import torch

from pcircuits.distributions import InputFamily, draw
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, log_sum, log_sum_flow
from pcircuits.semirings.semiring import Values
from pcircuits.semirings.weights import Chosen, SumWeights
from pcircuits.types import Float, Int, Tensor
from pcircuits.workspace import Memory


class Log:
    """Log values in float64, sums by true log-sum-exp: slower, and right wherever a double is."""

    exact = True
    memory = Memory()
    _maximise = False
    _sum = staticmethod(log_sum)

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        if self._maximise:
            v = family.log_maxima(prepared, rows, evidence)
        else:
            v = family.log_values(prepared, rows, evidence, False)
        latent = evidence.latent_of(family.num_variables)
        v = v if latent is None else v + latent.double()
        return Values(v, v.new_zeros(v.shape[:2]))

    def product(self, kind: str, children: Sequence[Values]) -> Values:
        first, *rest = children
        if kind == "kronecker":
            return Values((first.v.unsqueeze(-1) + rest[0].v.unsqueeze(-2)).flatten(-2), first.s)
        return Values(sum((c.v for c in rest), first.v), first.s)

    def dense_sum(self, weights: SumWeights, product: Values) -> Values:
        log_gates = None if weights.gates is None else weights.gates.log
        return Values(self._sum(weights.log.double(), product.v, log_gates), product.s)

    def mixing_terms(self, children: Sequence[Values]) -> Values:
        return Values(torch.stack([c.v for c in children]), children[0].s)

    def mix(self, weights: SumWeights, terms: Values) -> Values:
        arity, rows, batch, units = terms.v.shape
        log_weights = weights.log.double().reshape(rows * units, 1, arity)
        mixed = self._sum(log_weights, terms.v.permute(1, 3, 2, 0).reshape(rows * units, batch, arity))
        return Values(mixed.view(rows, units, batch).transpose(1, 2), terms.s)

    def root(self, values: Values) -> Float[Tensor, " B"]:
        return values.v[0, :, 0]

    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        log_gates = None if weights.gates is None else weights.gates.log
        return log_sum_flow(weights.log.double(), product.v, raw.v, flows, log_gates, count=count)

    def mixing_flows(
        self, weights: SumWeights, terms: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        log_share = weights.log.double().movedim(-1, 0).unsqueeze(2) + terms.v - finite(raw.v)
        share = log_share.exp() * flows
        return share, share.sum(2).movedim(0, -1) if count else None

    def choose(
        self,
        weights: SumWeights,
        at: Chosen,
        terms: Float[Tensor, "M J"],
        generator: torch.Generator | None,
        index: Int[Tensor, " N"] | None,
    ) -> Int[Tensor, " N"]:
        scores = weights.chosen(at, log=True).double() + terms
        return self._pick(scores, generator, index)

    @staticmethod
    def _pick(
        scores: Float[Tensor, "M J"], generator: torch.Generator | None, index: Int[Tensor, " N"] | None
    ) -> Int[Tensor, " N"]:
        return draw((scores - finite(scores.amax(-1, keepdim=True))).exp(), generator, index)
