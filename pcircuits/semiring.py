"""What product and sum mean: scaled linear (the fast log-sum), log (exact everywhere), max. One instance serves one
pass.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from pcircuits.distributions import InputFamily, draw
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, linear_sum, linear_sum_flow, log_sum, log_sum_flow, max_sum, ratio
from pcircuits.types import Bool, Float, Int, Tensor


class Values(NamedTuple):
    """Values of a level's units, `v exp(s)` in linear semirings and `v + s` in log ones. `s` is float64."""

    v: Float[Tensor, "F B K"]
    s: Float[Tensor, "F B"]


class Gates(NamedTuple):
    """Log factors of a level's weights, one a block and sample (see `Evidence`); `linear exp(scale)` is their `exp`."""

    log: Float[Tensor, "F B G G"]
    linear: Float[Tensor, "F B G G"]
    scale: Float[Tensor, "F B"]

    @classmethod
    def of(cls, log: Float[Tensor, "F B G G"], dtype: torch.dtype) -> "Gates":
        peak = finite(log.detach().amax((-1, -2)))
        return cls(log.double(), (log - peak[..., None, None]).exp().to(dtype), peak.double())


class SumWeights(NamedTuple):
    """A level's weights, rows of children summing to one, as logarithms and as probabilities; and what multiplies them
    sample by sample.
    """

    log: Float[Tensor, "F O J"]
    linear: Float[Tensor, "F O J"]
    gates: Gates | None = None

    def chosen(self, at: "Chosen", log: bool) -> Float[Tensor, "M J"]:
        """The weights of some units: of their children, gates included."""
        row, sample, unit = at
        weights = (self.log if log else self.linear)[row, unit]
        if self.gates is None:
            return weights
        gates = self.gates.log if log else self.gates.linear
        of_unit = gates[row, sample, unit * gates.shape[-2] // self.log.shape[1]]
        of_unit = of_unit.repeat_interleave(weights.shape[-1] // gates.shape[-1], -1)
        return weights + of_unit if log else weights * of_unit


Chosen = tuple[Int[Tensor, " M"], Int[Tensor, " M"], Int[Tensor, " M"]]
"""Sum units on sampled paths: level row, batch row, unit."""


@runtime_checkable
class Semiring(Protocol):
    exact: bool  # whether input flows must be worked out in log space

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values: ...
    def product(self, kind: str, children: Sequence[Values]) -> Values: ...
    def dense_sum(self, weights: SumWeights, product: Values) -> Values: ...
    def mixing_terms(self, children: Sequence[Values]) -> Values: ...
    def mix(self, weights: SumWeights, terms: Values) -> Values: ...
    def bare(self, raw: Values) -> Values: ...
    def normalise(self, raw: Values) -> Values: ...
    def root(self, values: Values) -> Float[Tensor, " B"]: ...
    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]: ...
    def mixing_flows(
        self, weights: SumWeights, terms: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]: ...
    def choose(self, weights: SumWeights, at: Chosen, terms: Tensor, generator: torch.Generator | None) -> Tensor: ...


class _Limits(NamedTuple):
    tiny: float  # above the smallest normal number: a product that underflows is smaller
    lost: float  # above what a sum of 100,000 such products amounts to
    least_peak: float  # a rescale by less may raise what was lost above `lost / least_peak`, far below `floor`
    floor: float  # a sum at least this large is right to rounding, whatever underflowed below it


_LIMITS = {torch.float32: _Limits(1e-37, 1e-32, 1e-9, 1e-18), torch.float64: _Limits(1e-307, 1e-302, 1e-20, 1e-270)}


class Scaled:
    """Linear values with maximum one per region and sample, and their log scale.

    Sums below `floor` may have lost terms to underflow: their samples are marked in `suspect`. With `upper` such
    values are raised to a bound of what they can be, so that the pass yields an upper bound of the root: circuits are
    monotone in their non-negative values.
    """

    exact = False

    def __init__(self, dtype: torch.dtype, *, upper: bool = False) -> None:
        self.limits, self.upper = _LIMITS[dtype], upper
        self.suspect: Bool[Tensor, " B"] | None = None

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        raw, scale = family.scaled_values(prepared, rows, evidence)
        if evidence.latent is not None:
            peak = finite(evidence.latent.detach().amax(-1))
            raw, scale = raw * (evidence.latent - peak.unsqueeze(-1)).exp().to(raw.dtype), scale + peak.double()
        return self.normalise(self.bare(Values(self._at_least(raw, self.limits.lost), scale)))

    def product(self, kind: str, children: Sequence[Values]) -> Values:
        first, *rest = children
        if kind == "kronecker":
            v = (first.v.unsqueeze(-1) * rest[0].v.unsqueeze(-2)).flatten(-2)
            return Values(self._at_least(v, self.limits.tiny), first.s + rest[0].s)
        for n, child in enumerate(rest):
            if n > 0:
                first = self.normalise(first)
            first = Values(self._at_least(first.v * child.v, self.limits.tiny), first.s + child.s)
        if len(rest) > 1:  # what was lost is raised by all rescales together
            unscaled = torch.stack([c.s for c in children]).detach().sum(0)
            shrunk = first.v.detach().amax(-1).double().log() + first.s.detach() - unscaled
            self._mark(shrunk < math.log(self.limits.least_peak))
        return first

    def bare(self, raw: Values) -> Values:
        """A product, or an input, that is rescaled without a sum in between."""
        self._mark(raw.v.detach().amax(-1) < self.limits.least_peak)
        return raw

    def dense_sum(self, weights: SumWeights, product: Values) -> Values:
        gates = weights.gates
        if gates is None:
            return Values(self._checked(linear_sum(weights.linear, product.v)), product.s)
        return Values(self._checked(linear_sum(weights.linear, product.v, gates.linear)), product.s + gates.scale)

    def mixing_terms(self, children: Sequence[Values]) -> Values:
        scale = torch.stack([c.s for c in children]).detach()
        top = scale.amax(0)
        terms = [c.v * (c.s - top).exp().to(c.v.dtype).unsqueeze(-1) for c in children]
        return Values(torch.stack(terms, -1), top)

    def mix(self, weights: SumWeights, terms: Values) -> Values:
        return Values(self._checked((weights.linear.unsqueeze(1) * terms.v).sum(-1)), terms.s)

    def normalise(self, raw: Values) -> Values:
        peak = raw.v.detach().amax(-1, keepdim=True)
        peak = torch.where(peak > 0, peak, 1.0)
        return Values(raw.v / peak, raw.s + peak.squeeze(-1).double().log())

    def root(self, values: Values) -> Float[Tensor, " B"]:
        v, s = values.v[0, :, 0], values.s[0]
        possible = v > 0
        return torch.where(possible, torch.where(possible, v, 1.0).double().log() + s, -torch.inf)

    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        gates = None if weights.gates is None else weights.gates.linear
        return linear_sum_flow(weights.linear, product.v, raw.v, flows, gates, count=count)

    def mixing_flows(
        self, weights: SumWeights, terms: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        share = weights.linear.unsqueeze(1) * terms.v * ratio(flows, raw.v).unsqueeze(-1)
        return share, share.sum(1) if count else None

    def choose(
        self,
        weights: SumWeights,
        at: Chosen,
        terms: Float[Tensor, "M J"],
        generator: torch.Generator | None,
    ) -> Int[Tensor, " M"]:
        return draw(weights.chosen(at, log=False) * terms, generator)

    def _at_least(self, v: Tensor, bound: float) -> Tensor:
        return v.clamp_min(bound) if self.upper else v

    def _checked(self, raw: Tensor) -> Tensor:
        self._mark(raw.detach().amin(-1) < self.limits.floor)
        return self._at_least(raw, self.limits.floor)

    def _mark(self, bad: Bool[Tensor, "F B"]) -> None:
        bad = bad.any(0)
        self.suspect = bad if self.suspect is None else self.suspect | bad


class Log:
    """Log values in float64, sums by true log-sum-exp: slower, and right wherever a double is."""

    exact = True
    _maximise = False
    _sum = staticmethod(log_sum)

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        v = family.log_values(prepared, rows, evidence, self._maximise)
        if self._maximise and evidence.summed is not None:
            free = family.log_values(prepared, rows, evidence, False)
            v = torch.where(evidence.summed.unsqueeze(-1), free, v)
        v = v if evidence.latent is None else v + evidence.latent.double()
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
        return Values(torch.stack([c.v for c in children], -1), children[0].s)

    def mix(self, weights: SumWeights, terms: Values) -> Values:
        rows, batch, units, arity = terms.v.shape
        log_weights = weights.log.double().reshape(rows * units, 1, arity)
        mixed = self._sum(log_weights, terms.v.transpose(1, 2).reshape(rows * units, batch, arity))
        return Values(mixed.view(rows, units, batch).transpose(1, 2), terms.s)

    def bare(self, raw: Values) -> Values:
        return raw

    def normalise(self, raw: Values) -> Values:
        return raw

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
        log_share = weights.log.double().unsqueeze(1) + terms.v - finite(raw.v).unsqueeze(-1)
        share = log_share.exp() * flows.unsqueeze(-1)
        return share, share.sum(1) if count else None

    def choose(
        self,
        weights: SumWeights,
        at: Chosen,
        terms: Float[Tensor, "M J"],
        generator: torch.Generator | None,
    ) -> Int[Tensor, " M"]:
        scores = weights.chosen(at, log=True).double() + terms
        return self._pick(scores, generator)

    @staticmethod
    def _pick(scores: Float[Tensor, "M J"], generator: torch.Generator | None) -> Int[Tensor, " M"]:
        return draw((scores - scores.amax(-1, keepdim=True)).exp(), generator)


class Max(Log):
    """The max-product semiring: unobserved values and latent branches are maximised out."""

    _maximise = True
    _sum = staticmethod(max_sum)

    @staticmethod
    def _pick(scores: Float[Tensor, "M J"], generator: torch.Generator | None) -> Int[Tensor, " M"]:
        return scores.argmax(-1)


class Bound(Log):
    """Unobserved values maximised out, sums summed: an upper bound of the maximum over those values, since the maximum
    of a sum is at most the sum of its terms' maxima.
    """

    _maximise = True
