"""Linear values with a log scale: the fast log-sum."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pcircuits.distributions import InputFamily, draw
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import (
    SumProduct,
    block_sparse_sum,
    block_sparse_sum_flow,
    chain,
    chain_flow,
    choice,
    finite,
    linear_sum,
    linear_sum_flow,
    low_rank_sum,
    low_rank_sum_flow,
    power_below,
    product,
    ratio,
    sum_product,
    sum_product_flow,
)
from pcircuits.kernels.block_sparse_sum.reference import dense
from pcircuits.kernels.chain import cpu as cpu_chain
from pcircuits.kernels.dense_sum import cpu
from pcircuits.kernels.kronecker_sum import cpu as cpu_kronecker
from pcircuits.layout import Rows, kronecker, samples_last
from pcircuits.semirings.semiring import Values
from pcircuits.semirings.weights import Chosen, SumWeights
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits.workspace import Fresh, Memory


class _Limits(NamedTuple):
    tiny: float  # above the smallest normal number: a product that underflows is smaller
    lost: float  # above what a sum of 100,000 such products amounts to
    least_peak: float  # a rescale by less may raise what was lost above `lost / least_peak`, far below `floor`
    floor: float  # a sum at least this large is right to rounding, whatever underflowed below it


_LIMITS = {torch.float32: _Limits(1e-37, 1e-32, 1e-9, 1e-18), torch.float64: _Limits(1e-307, 1e-302, 1e-20, 1e-270)}


class Steps(NamedTuple):
    """Of a chain segment; sums of single rows have no axis of rows. `least` as in `Values`, of all sums."""

    products: Float[Tensor, "T F B K"]
    sums: list[Float[Tensor, "*F B K"]]
    scales: Float[Tensor, "T F B"]
    least: float

    def at(self, t: int) -> tuple[Values, Values]:
        """Product and sum of a step."""
        product, scale = self.products[t], self.scales[t]
        return Values(product, scale), Values(self.sums[t].view_as(product), scale, least=self.least)


_FAR = 2.0**10  # from one: largest values that are nearer are left as they are
_FACTORS = 4  # products of so many children are rescaled once
_FEW_LOST = 1e-9  # of a sum, what may be lost below it


class Scaled:
    """Linear values and their log scale. Inputs and products are divided by powers of two, so that their maximum per
    region and sample is at least 1 and not large; sums, whose weights add up to one, are left as they come.

    Sums below `floor` may have lost terms to underflow: their samples are marked in `suspect`. With `upper` such
    values are raised to a bound of what they can be, so that the pass yields an upper bound of the root: circuits are
    monotone in their non-negative values. `samples_last` says how values lie in memory.
    """

    exact = False

    def __init__(
        self, dtype: torch.dtype, *, upper: bool = False, samples_last: bool = False, memory: Memory | None = None
    ) -> None:
        self.dtype, self.upper, self.samples_last = dtype, upper, samples_last
        self.limits = _LIMITS[dtype]
        self.memory = memory or Memory()
        self.suspect: Bool[Tensor, " B"] | None = None

    @property
    def takes_chains(self) -> bool:
        """Bounds are worked out step by step."""
        return not self.upper

    @property
    def writes(self) -> bool:
        """Whether there is memory for results."""
        return isinstance(self.memory, Fresh)

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        if evidence.latent is None and not self.upper:
            found = family.normal_values(prepared, rows, evidence, self.memory, samples_last=self.samples_last)
            if found is not None:
                self._mark(found[1] < math.log(self.limits.least_peak))
                return self._lying(Values(*found, peak=1.0))
        raw, scale = family.scaled_values(prepared, rows, evidence, self.memory)
        if (potentials := evidence.latent_of(family.num_variables)) is not None:
            peak = finite(potentials.detach().amax(-1))
            latent, scale = potentials - peak.unsqueeze(-1), scale + peak.double()
            if self.fuses(raw):
                each = torch.arange(len(rows), device=rows.device).unsqueeze(1)
                return self.hadamard(Values(raw, scale), each, latent.to(raw.dtype))
            raw = raw * latent.exp().to(raw.dtype)
        raw = self._at_least(raw, self.limits.lost)
        return self._lying(self._rescaled(raw, scale, out=self.memory.over(raw)))

    def _lying(self, values: Values) -> Values:
        if not self.samples_last or samples_last(values.v):
            return values
        rows, batch, units = values.v.shape
        out = self.memory.keep(rows, units, batch, like=values.v)
        if out is None:
            return values._replace(v=values.v.mT.contiguous().mT)
        out.copy_(values.v.mT)
        self.memory.release(values.v)
        return values._replace(v=out.mT)

    def fuses(self, like: Tensor) -> bool:
        """Whether levels are one operation each; bounds are worked out step by step."""
        return not self.upper and choice.on_triton((like,))

    def hadamard(
        self,
        table: Values,
        children: Int[Tensor, "F A"],
        potentials: Float[Tensor, "F B K"] | None = None,
    ) -> Values:
        """Products of rows of a table, and of `exp(potentials)`, none above 1."""
        found = product(table.v, table.s, children, potentials)
        self._mark(found.peaks < self.limits.least_peak)
        return Values(found.values, found.scales)

    def sum_product(
        self, weights: SumWeights, table: Values, children: Int[Tensor, "F A"], rows: Int[Tensor, " F"] | None
    ) -> SumProduct:
        """Sums over products of rows of a table."""
        found = sum_product(weights.linear, table.v, table.s, children, rows)
        if children.shape[1] > 1:
            self._mark(found.peaks < self.limits.least_peak)
        self._mark(found.lows < self.limits.floor)
        return found

    def sum_product_flows(
        self,
        weights: SumWeights,
        table: Values,
        children: Int[Tensor, "F A"],
        rows: Int[Tensor, " F"] | None,
        level: SumProduct,
        flows: Float[Tensor, "F B O"],
        count: bool,
    ) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "G O J"] | None]:
        """Flows of the products and, if asked for, expected counts of all weights of the group."""
        return sum_product_flow(weights.linear, table.v, children, level, flows, rows, count=count)

    def product(self, kind: str, children: Sequence[Values]) -> Values:
        first, *rest = children
        if not rest:
            return first
        if kind == "kronecker":
            return self._kronecker(first, rest[0])
        v, scale, raised, peak = first.v, first.s, None, 1.0
        for n, child in enumerate(rest, start=1):
            out = self._new(v.shape, v) if n == 1 else self.memory.over(v)
            v, scale = self._at_least(torch.mul(v, child.v, out=out), self.limits.tiny), scale + child.s
            if n % _FACTORS == 0 or n == len(rest):
                v, power, peak = self._divided(v, mark=len(rest) <= _FACTORS, out=self.memory.over(v))
                if power is not None:
                    raised = power if raised is None else raised + power
        if len(rest) > _FACTORS and raised is not None:
            self._mark(raised < math.log(self.limits.least_peak))  # all rescales together raise what was lost
        return Values(v, scale if raised is None else scale + raised, peak=peak)

    def dense_sum(self, weights: SumWeights, product: Values) -> Values:
        gates = weights.gates
        if gates is not None and (low_rank := gates.low_rank) is not None:
            raw = low_rank_sum(weights.linear, low_rank.left, low_rank.right, product.v)
            return Values(self._checked(raw), product.s + low_rank.scale)
        if gates is not None:
            return Values(self._checked(linear_sum(weights.linear, product.v, gates.linear)), product.s + gates.scale)
        if weights.pattern is not None:
            return Values(self._checked(block_sparse_sum(weights.blocks, weights.pattern, product.v)), product.s)
        rows, batch, _ = product.v.shape
        out = self._new((rows, batch, weights.linear.shape[1]), product.v)
        if out is None:
            raw = linear_sum(weights.linear, product.v)
        else:
            raw = cpu.linear_sum(weights.linear, product.v, out=out)
        return self._sums(weights, product.peak, raw, product.s)

    def sum_of_rows(self, weights: SumWeights, values: Values, rows: Int[Tensor, " F"]) -> Values | None:
        """`dense_sum` of some rows of values, none of which is kept. None: they have to be taken first."""
        if self.upper or weights.gates is not None or weights.pattern is not None:
            return None
        out = self._new((len(rows), values.v.shape[1], weights.linear.shape[1]), values.v)
        scratch = self.memory.scratch("rows", cpu.scratch_size(len(rows), values.v), like=values.v)
        if out is None or scratch is None:
            return None
        raw = cpu.linear_sum_of_rows(weights.linear, values.v, rows, scratch=scratch, out=out)
        return self._sums(weights, values.peak, raw, values.s[rows])

    def goes_by_parts(self, weights: SumWeights, raw: Values) -> bool:
        """Whether `sum_flows_by_parts` serves a sum and is worth it."""
        if weights.gates is not None or weights.pattern is not None or raw.v.numel() <= cpu.CHUNK_ELEMENTS:
            return False
        return self.memory.over(raw.v) is not None

    def sum_flows_by_parts(
        self,
        weights: SumWeights,
        values: Rows,
        raw: Values,
        flows: Rows,
        onto: Int[Tensor, " F"] | None,
        *,
        count: bool,
        keep: bool,
    ) -> tuple[tuple[Tensor], Tensor | None]:
        """As `sum_flows`, added up at rows `onto` of the values' table if given. Sums that need not be kept are written
        over.
        """
        table, (rows, batch, sums), units = values.table, raw.v.shape, values.table.shape[-1]
        out = (
            self._new(table.shape if onto is not None else (rows, batch, units), table)
            if keep or sums != units
            else raw.v
        )
        scratch = self.memory.scratch("rows", cpu.scratch_size(rows, table, units + sums), like=table)
        assert scratch is not None and out is not None
        counts = self._new(weights.linear.shape, weights.linear) if count else None
        cpu.linear_sum_flow_by_parts(
            weights.linear,
            values,
            raw.v,
            flows,
            guarded=not self._all_positive(raw),
            scratch=scratch,
            out=Rows(out if onto is None else out.zero_(), onto),
            counts=counts,
        )
        return (out,), counts

    def kronecker_sum(self, weights: SumWeights, left: Values, right: Values) -> Values | None:
        """As `product` and `dense_sum`, without a product that is kept. None: those have to do it."""
        if self.upper or weights.gates is not None or weights.pattern is not None:
            return None
        rows, batch, _ = left.v.shape
        out = self._new((rows, batch, weights.linear.shape[1]), left.v)
        scratch = self.memory.scratch("kronecker", cpu_kronecker.scratch_size(left.v, right.v), like=left.v)
        if out is None or scratch is None:
            return None
        left, right, peak = self._factors(left, right)
        cpu_kronecker.kronecker_sum(weights.linear, left.v, right.v, scratch=scratch, out=out)
        return self._sums(weights, peak, out, left.s + right.s)

    def kronecker_sum_flows(
        self, weights: SumWeights, left: Values, right: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """Flows of both factors of what `kronecker_sum` summed, and expected counts if asked for."""
        size = 2 * cpu_kronecker.scratch_size(left.v, right.v)
        scratch = self.memory.scratch("kronecker", size, like=left.v)
        found = self._new(left.v.shape, left.v), self._new(right.v.shape, right.v)
        assert scratch is not None and found[0] is not None and found[1] is not None
        counts = self._new(weights.linear.shape, weights.linear) if count else None
        left, right, _ = self._factors(left, right)
        cpu_kronecker.kronecker_sum_flow(
            weights.linear,
            left.v,
            right.v,
            self._share(flows, raw),
            scratch=scratch,
            left_flows=found[0],
            right_flows=found[1],
            counts=counts,
        )
        return (found[0], found[1]), counts

    def _sums(self, weights: SumWeights, peak: float, raw: Tensor, scale: Tensor) -> Values:
        least = self._least(weights, peak, raw)
        return Values(raw if least else self._checked(raw), scale, least=least)

    def _all_positive(self, raw: Values) -> bool:
        return bool(raw.least) and self._clean

    def _share(self, flows: Tensor, raw: Values) -> Tensor:
        if self._all_positive(raw):
            return torch.div(flows, raw.v, out=self.memory.scratch_like(flows, "share"))
        return ratio(flows, raw.v, out=self.memory.scratch("share", *flows.shape, like=flows))

    def chain(
        self, weights: Sequence[SumWeights], sides: Values, rows: Int[Tensor, "T F"], first: Values, *, tied: bool
    ) -> Steps | None:
        """A chain segment whose sides are rows of a level. None: there is no memory for it."""
        linear, shape = [w.linear for w in weights], (*rows.shape, *first.v.shape[1:])
        products = self._new(shape, first.v)
        if products is None:
            return None
        sums = self._new(shape, first.v) if cpu_chain.needs_memory(linear[0], first.v) else None
        least, every = self._bounds_of_chain(linear[0], sides.peak, products) if tied else (0.0, 1)
        peaks = first.v.new_ones(*shape[:-1], 1)
        each = cpu_chain.chain(linear, sides.v, rows, first.v, products=products, sums=sums, peaks=peaks, every=every)
        self._mark((peaks[: 1 if least else None] < self.limits.least_peak).flatten(0, 1).squeeze(-1))
        if not least:
            self._mark(((torch.stack(each) if sums is None else sums).amin(-1) < self.limits.floor).flatten(0, -2))
        scales = first.s + (sides.s[rows] + peaks.squeeze(-1).double().log()).cumsum(0)
        return Steps(products, each, scales, least)

    def _bounds_of_chain(self, weights: Tensor, peak: float, products: Tensor) -> tuple[float, int]:
        """A lower bound of all sums of a tied chain and after how many steps values have to be rescaled for it to hold,
        where sides have at least this maximum and no start is marked; zero and one where there is no such bound.
        """
        if weights.numel() >= products.numel():
            return 0.0, 1
        least, largest = (float(x) for x in weights.aminmax())
        step = least * min(peak, 1.0)
        most = [n for n in range(1, _FACTORS + 1) if least * step**n * _FEW_LOST >= self.limits.lost]
        return (least * step ** (most[-1] - 1), most[-1]) if most and largest <= 1 else (0.0, 1)

    def recorded_chain(
        self, weights: SumWeights, sides: Values, first: Values
    ) -> tuple[Float[Tensor, "T 1 B K"], Float[Tensor, "T 1 B"]]:
        """Sums of every step of a tied chain of single rows, for autograd and for other devices, and their scales."""
        found = chain(weights.linear[0], sides.v[:, 0], sides.s[:, 0], first.v[0], first.s[0])
        self._mark(found.peaks < self.limits.least_peak)
        self._mark(found.values.detach().amin(-1) < self.limits.floor)
        return found.values.unsqueeze(1), found.scales.unsqueeze(1)

    def fused_chain_flows(
        self,
        weights: SumWeights,
        sides: Float[Tensor, "T 1 B K"],
        first: Float[Tensor, "1 B K"],
        sums: Float[Tensor, "T 1 B K"],
        last: Float[Tensor, "1 B K"],
        *,
        count: bool,
    ) -> tuple[list[Float[Tensor, "1 B K"]], Float[Tensor, "1 K K"] | None]:
        """As `chain_flows`, of a recorded chain."""
        flows, counts = chain_flow(weights.linear[0], sides[:, 0], first[0], sums[:, 0], last[0], count=count)
        return list(flows.unsqueeze(1)), None if counts is None else counts.unsqueeze(0)

    def chain_flows(
        self,
        weights: Sequence[SumWeights],
        steps: Steps,
        last: Float[Tensor, "F B K"],
        *,
        tied: bool,
        count: bool,
        keep: bool,
    ) -> tuple[list[Float[Tensor, "F B K"]], Float[Tensor, "*T F K K"] | None]:
        """Flows of every step's product and, if asked for, expected counts: of all steps together if they are tied.
        Unless they are to be kept, the sums are used up.
        """
        products, sums, _, least = steps
        shares = self._new(products.shape, products)
        assert shares is not None
        linear = [w.linear for w in weights]
        each = cpu_chain.chain_flows(
            linear,
            products,
            list(sums) if keep else sums,
            last,
            positive=bool(least) and self._clean,
            shares=shares,
            flows=self._new(products.shape, products) if cpu_chain.needs_memory(linear[0], last) else None,
        )
        flows = [x.view_as(last) for x in each]
        if not count:
            return flows, None
        out = self._new(linear[0].shape if tied else (len(linear), *linear[0].shape), linear[0])
        assert out is not None
        if tied:
            return flows, cpu_chain.tied_counts(linear[0], products, shares, out=out)
        return flows, cpu_chain.untied_counts(linear, products, shares, out=out)

    def mixing_terms(self, children: Sequence[Values]) -> Values:
        scale = torch.stack([c.s for c in children])
        top = scale.amax(0)
        factors = (scale - top).exp().unsqueeze(-1)
        out = self._new((len(children), *children[0].v.shape), children[0].v)
        if out is None:
            return Values(torch.stack([c.v * f.to(c.v.dtype) for c, f in zip(children, factors, strict=True)]), top)
        for child, factor, term in zip(children, factors, out, strict=True):
            torch.mul(child.v, factor.to(child.v.dtype), out=term)
        return Values(out, top)

    def mix(self, weights: SumWeights, terms: Values) -> Values:
        shares = weights.linear.unsqueeze(1).unbind(-1)
        raw = torch.mul(terms.v[0], shares[0], out=self._new(terms.v.shape[1:], terms.v))
        for term, share in zip(terms.v[1:], shares[1:], strict=True):
            raw = torch.addcmul(raw, term, share, out=self.memory.over(raw))
        return Values(self._checked(raw), terms.s)

    def root(self, values: Values) -> Float[Tensor, " B"]:
        v, s = values.v[0, :, 0], values.s[0]
        possible = v > 0
        return torch.where(possible, torch.where(possible, v, 1.0).double().log() + s, -torch.inf)

    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        if weights.pattern is not None and weights.gates is None:
            flow, found = block_sparse_sum_flow(weights.blocks, weights.pattern, product.v, raw.v, flows, count=count)
            return flow, None if found is None else dense(found, weights.pattern)
        gates = weights.gates
        if gates is not None and (low_rank := gates.low_rank) is not None:
            factors = (low_rank.left, low_rank.right)
            return low_rank_sum_flow(weights.linear, *factors, product.v, raw.v, flows, count=count)
        out = self._new(product.v.shape, product.v)
        if gates is not None or out is None:
            linear = None if gates is None else gates.linear
            return linear_sum_flow(weights.linear, product.v, raw.v, flows, linear, count=count)
        counts = self._new(weights.linear.shape, weights.linear) if count else None
        return cpu.linear_sum_flow(weights.linear, product.v, self._share(flows, raw), out=out, counts=counts)

    def mixing_flows(
        self, weights: SumWeights, terms: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        portion = ratio(flows, raw.v, out=self.memory.scratch("share", *flows.shape, like=flows))
        weighted = weights.linear.movedim(-1, 0).unsqueeze(2)
        share = torch.mul(terms.v, portion, out=self._new(terms.v.shape, terms.v))
        share = torch.mul(share, weighted, out=self.memory.over(share))
        return share, share.sum(2).movedim(0, -1) if count else None

    def choose(
        self,
        weights: SumWeights,
        at: Chosen,
        terms: Float[Tensor, "M J"],
        generator: torch.Generator | None,
        index: Int[Tensor, " N"] | None,
    ) -> Int[Tensor, " N"]:
        """A child of each of the units `at`, or of those at `index` among them, which may repeat."""
        return draw(weights.chosen(at, log=False) * terms, generator, index)

    @functools.cached_property
    def _clean(self) -> bool:
        """Whether no sample is marked; asked for on the way down."""
        return self.suspect is None or not bool(self.suspect.any())

    def _kronecker(self, left: Values, right: Values) -> Values:
        """If need be the factors are rescaled, not their many products, whose maximum is the product of theirs."""
        left, right, peak = self._factors(left, right)
        shape = (*left.v.shape[:2], left.v.shape[2] * right.v.shape[2])
        v = kronecker(left.v, right.v, out=self._new(shape, left.v))
        return Values(self._at_least(v, self.limits.tiny), left.s + right.s, peak=peak)

    def _factors(self, left: Values, right: Values) -> tuple[Values, Values, float]:
        """Of a Kronecker product, rescaled if need be; and a lower bound of its largest value."""
        left, right = self._normal(left, "left"), self._normal(right, "right")
        return left, right, min(1.0, left.peak * right.peak)

    def _normal(self, values: Values, name: str) -> Values:
        """With maximum at least 1, in scratch of this name if it had to be rescaled."""
        if values.peak >= 1.0:
            return values
        return self._rescaled(*values[:2], out=self.memory.scratch(name, *values.v.shape, like=values.v))

    def _rescaled(self, raw: Tensor, scale: Tensor, *, out: Tensor | None = None) -> Values:
        """With maximum in [1, 2), or as it is where all are near one; what is all zero stays so. A rescale from below
        `least_peak` is marked.
        """
        v, log_power, peak = self._divided(raw, out=out)
        return Values(v, scale if log_power is None else scale + log_power, peak=peak)

    def _divided(
        self, raw: Tensor, *, mark: bool = True, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, float]:
        """By powers of two, and those powers' logarithm, None where all maxima are near one already; and the least of
        the maxima.
        """
        peak = raw.detach().amax(-1)
        if out is not None and not self.upper and peak.numel():
            least, largest = map(float, peak.aminmax())
            if least * _FAR >= 1 and largest <= _FAR:
                return raw, None, least
        if mark:
            self._mark(peak < self.limits.least_peak)
        reciprocal, log_power = power_below(peak)
        return torch.mul(raw, reciprocal.unsqueeze(-1), out=out), log_power, 1.0

    def _new(self, shape: Sequence[int], like: Tensor) -> Tensor | None:
        return self.memory.keep(*shape, like=like)

    def _at_least(self, v: Tensor, bound: float) -> Tensor:
        return v.clamp_min(bound) if self.upper else v

    def _checked(self, raw: Tensor) -> Tensor:
        self._mark(raw.detach().amin(-1) < self.limits.floor)
        return self._at_least(raw, self.limits.floor)

    def _least(self, weights: SumWeights, peak: float, raw: Tensor) -> float:
        """A lower bound of all sums, where it shows without looking at them that none is below `floor`; else 0."""
        if self.upper or not peak or weights.linear.numel() >= raw.numel() or raw.device.type != "cpu":
            return 0.0
        least = float(weights.linear.detach().amin()) * peak
        return least if least >= self.limits.floor else 0.0

    def _mark(self, bad: Bool[Tensor, "F B"]) -> None:
        if self.suspect is not None and bad.device.type == "cpu" and not bad.any():
            return  # sooner seen than written down
        bad = bad.any(0)
        self.suspect = bad if self.suspect is None else self.suspect | bad
