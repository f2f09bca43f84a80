"""Values and weights of either sign, or complex."""

from collections.abc import Sequence
from typing import Any

import torch

from pcircuits.distributions import InputFamily
from pcircuits.errors import StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite
from pcircuits.semirings.semiring import Values
from pcircuits.semirings.weights import Chosen, SumWeights
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Memory


class Signed:
    """Real or complex values with largest size one per region and sample, in double precision, and their log scale.

    Weights and values may be negative, so there are no flows, no draws and no proof against cancellation: a result is
    right to rounding of the largest term of its sums. `root` is the logarithm of its size; of `non_negative` circuits,
    whose negative results and imaginary parts are rounding, that of the real part, `-inf` where it is not positive.
    """

    exact = True
    memory = Memory()

    def __init__(self, *, non_negative: bool = False) -> None:
        self.non_negative = non_negative

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        if evidence.latent is not None:
            raise StructureError("`latent` potentials belong to circuits of non-negative weights")
        return self.normalise(self.input_values(family, prepared, rows, evidence))

    def input_values(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        """Of families whose units may be negative (`signed_values`), or of log values."""
        if (signed := getattr(family, "signed_values", None)) is not None:
            return Values(*signed(prepared, rows, evidence))
        log_values = family.log_values(prepared, rows, evidence, False)
        peak = finite(log_values.detach().amax(-1))
        return Values((log_values - peak.unsqueeze(-1)).exp(), peak)

    def product(self, kind: str, children: Sequence[Values]) -> Values:
        first, *rest = children
        if kind == "kronecker":
            pairs = (first.v.unsqueeze(-1) * rest[0].v.unsqueeze(-2)).flatten(-2)
            return self.normalise(Values(pairs, first.s + rest[0].s))
        for child in rest:
            first = self.normalise(Values(first.v * child.v, first.s + child.s))
        return first

    def dense_sum(self, weights: SumWeights, product: Values) -> Values:
        if weights.gates is not None:
            raise StructureError("`gates` belong to circuits of non-negative weights")
        linear, v = weights.linear, product.v
        dtype = torch.promote_types(linear.dtype, v.dtype)
        return self.normalise(Values(v.to(dtype) @ linear.to(dtype).mT, product.s))

    def mixing_terms(self, children: Sequence[Values]) -> Values:
        scale = torch.stack([c.s for c in children]).detach()
        top = scale.amax(0)
        terms = [c.v * (c.s - top).exp().unsqueeze(-1) for c in children]
        return Values(torch.stack(terms), top)

    def mix(self, weights: SumWeights, terms: Values) -> Values:
        shares = weights.linear.movedim(-1, 0).unsqueeze(2)
        return self.normalise(Values((shares * terms.v).sum(0), terms.s))

    def normalise(self, raw: Values) -> Values:
        peak = raw.v.detach().abs().amax(-1, keepdim=True)
        peak = torch.where(peak > 0, peak, 1.0)
        return Values(raw.v / peak, raw.s + peak.squeeze(-1).log())

    def root(self, values: Values) -> Float[Tensor, " B"]:
        v, s = values.v[0, :, 0], values.s[0]
        size = v.real if self.non_negative else v.abs()
        possible = size > 0
        return torch.where(possible, torch.where(possible, size, 1.0).log() + s, -torch.inf)

    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        raise StructureError("flows are shares of non-negative terms; this circuit has signed weights")

    mixing_flows = sum_flows

    def choose(
        self, weights: SumWeights, at: Chosen, terms: Tensor, generator: torch.Generator | None, index: Tensor | None
    ) -> Tensor:
        raise StructureError("branches are drawn by non-negative weights; this circuit has signed weights")
