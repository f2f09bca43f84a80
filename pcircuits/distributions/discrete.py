"""Families over 0..V-1, all through one table of log probabilities."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch

from pcircuits.distributions.draw import draw
from pcircuits.distributions.family import InputFamily, Picks, Rows, Smoothing
from pcircuits.distributions.packed import pack, spread_packed
from pcircuits.distributions.soft import Soft, Weighing, places
from pcircuits.errors import EvidenceError
from pcircuits.evidence import InputEvidence, Known, rows_of
from pcircuits.kernels import (
    categorical_counts,
    categorical_values,
    choice,
    finite,
    linear_sum,
    logsumexp,
    mm,
    power_below,
    ratio,
)
from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.dense_sum import cpu as dense_sum
from pcircuits.layout import samples_last
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits.workspace import Memory

_NO_MEMORY = Memory()
_CHUNK_ELEMENTS = 1 << 22
_ALIKE = 2.0**10  # largest ratio of values that are rescaled by one power of two
_DENSE = 0.25  # share of missing values from which on all are treated as missing first
_PACKED = 0.2  # share of observed values from which on others are packed
_FEW = 8  # values that are better compared with each one than looked up
_LIKELIEST = 256  # values whose weights usually hold the maximum, so that the others need not be looked at


class Table(NamedTuple):
    """`linear[g,v,k] = p(v | unit k)`, transposed for gathers and products.

    Logarithms, which tell apart what underflows there, are worked out where they are asked for: a table of a language
    model is held once.
    """

    linear: Float[Tensor, "G V K"]
    family: "Discrete"
    parameters: dict[str, Tensor]
    support: Bool[Tensor, "G K V"] | None

    @property
    def log(self) -> Float[Tensor, "G K V"]:
        """`log[g,k,v] = log p(v | unit k)`."""
        return self.log_of(slice(None), slice(None))

    def log_of(self, groups: Any, units: Any) -> Float[Tensor, "G U V"]:
        """Those of some units of every group."""
        shape = (self.linear.shape[0], self.linear.shape[2], -1)
        support = None if self.support is None else self.support.expand(shape)[groups, units]
        return self.family.masked_log_table({k: p[groups, units] for k, p in self.parameters.items()}, support)

    def log_rows(self, groups: Int[Tensor, " M"], units: Int[Tensor, " M"]) -> Float[Tensor, "M V"]:
        """One row a pair of group and unit."""
        return self.log_of(groups.unsqueeze(0), units.unsqueeze(0))[0]

    def log_chunks(self) -> Iterator[Float[Tensor, "G U V"]]:
        """All units, some at a time."""
        groups, categories, units = self.linear.shape
        return (self.log_of(slice(None), part) for part in chunks(units, groups * categories, _CHUNK_ELEMENTS))


class Discrete(InputFamily):
    """A family whose units are rows of a probability table. Subclasses give the table and the parameters that reach
    given counts.
    """

    num_categories: int
    gradients_by_counts: ClassVar[bool] = True

    @abstractmethod
    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        """Log probabilities, normalised over V."""

    @abstractmethod
    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        """Unconstrained parameters with these probabilities."""

    def masked_log_table(
        self, parameters: dict[str, Tensor], support: Bool[Tensor, "G K V"] | None
    ) -> Float[Tensor, "G K V"]:
        """Log probabilities, normalised over the support."""
        log = self.log_table(parameters)
        if support is None:
            return log
        log = torch.where(support, log, -torch.inf)
        return log - finite(log.logsumexp(-1, keepdim=True))

    def prepare(self, parameters: dict[str, Tensor], support: Bool[Tensor, "G K V"] | None) -> Table:
        if torch.is_grad_enabled():
            linear = self.masked_log_table(parameters, support).exp().mT.contiguous()
            return Table(linear, self, parameters, support)
        fixed = {name: p.detach() for name, p in parameters.items()}
        first = next(iter(fixed.values()))
        table = Table(first.new_empty(len(first), self.num_categories, first.shape[1]), self, fixed, support)
        done = 0
        for log in table.log_chunks():
            table.linear[:, :, done : done + log.shape[1]] = log.exp_().mT
            done += log.shape[1]
        return table

    def dtype_of(self, prepared: Table) -> torch.dtype:
        return prepared.linear.dtype

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        require_categories(self, evidence, variables)

    def scaled_values(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, memory: Memory
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        hard, soft = evidence.observed, evidence.soft
        table, integers = prepared.linear, self._integers(evidence)
        scale = torch.zeros(hard.shape, dtype=torch.float64, device=hard.device)
        out = memory.keep(hard.numel(), table.shape[-1], like=table)
        if out is None:
            values = categorical_values(table, rows, integers, hard)
        else:
            values = _gather(table, rows, integers, out)
            if not hard.all():  # 1 where nothing is known
                given = hard.unsqueeze(-1).to(values.dtype)
                values = values.mul_(given).add_(1.0 - given)
        if not soft.any():
            return values, scale
        found = self._soft_values(prepared, rows, evidence)
        return torch.where(soft.unsqueeze(-1), found.values, values), torch.where(soft, found.scale, scale)

    def normal_values(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, memory: Memory, *, samples_last: bool = False
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]] | None:
        """Looked up in a table that is rescaled as a whole, where it is smaller than what is looked up."""
        table, complete = prepared.linear, bool(evidence.observed.all())
        smaller = len(table) * (self.num_categories + 1) <= evidence.values.numel()
        if not smaller or choice.on_triton((table,)) or (not complete and evidence.soft.any()):
            return None
        if not complete:  # missing is one more value
            table = torch.cat([table, self.totals(prepared).unsqueeze(1)], 1)
        few = samples_last and table.shape[1] <= _FEW
        integers = self._integers(evidence, self.num_categories, torch.int8 if few else torch.long)
        peaks = table.detach().amax(-1)
        least = peaks.amin(1, keepdim=True)
        alike = bool((peaks <= _ALIKE * least).all())  # then one power of two serves all values of a variable
        reciprocal, scale = power_below(least if alike else peaks)
        table = table * reciprocal.unsqueeze(-1)
        if alike:
            scale = scale[rows].expand(integers.shape)
        else:
            scale = _gather(scale.unsqueeze(-1), rows, integers).squeeze(-1)
        if few:
            return _product_with_one_hot(table, rows, integers, memory), scale
        out = memory.keep(integers.numel(), table.shape[-1], like=table)
        return _gather(table, rows, integers, out), scale

    def _shares_of_missing(self, prepared: Table, rows: Rows, flows: Float[Tensor, "F B K"]) -> Float[Tensor, "F B K"]:
        """Flows over the values of units of which nothing is known."""
        return flows

    def totals(self, prepared: Table) -> Float[Tensor, "G K"]:
        """What each unit's values add up to."""
        return torch.ones_like(prepared.linear[:, 0])

    def _soft_values(self, prepared: Table, rows: Rows, evidence: InputEvidence) -> Known:
        """Linear values where there are weights: those worked out before, for no fewer positions, if there are."""
        if (known := evidence.recall(prepared.linear)) is not None:
            return known
        weighing = Weighing.of(Soft.of(evidence, self.num_categories), prepared.linear, rows)
        where, values = weighing.soft.where, weighing.values()
        full = values.new_zeros(*evidence.values.shape, values.shape[-1]).index_put(where, values)
        scale = weighing.peak.new_zeros(evidence.values.shape).index_put(where, weighing.peak)
        return evidence.remember(prepared.linear, full, scale)

    def log_values(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        integers, hard = self._integers(evidence), evidence.observed.unsqueeze(-1)
        groups = self._by_group(prepared, rows, evidence) if evidence.soft.any() else []
        found = []
        for log in (part.double() for part in prepared.log_chunks()):
            free = log.amax(-1) if maximise else logsumexp(log)
            values = torch.where(hard, _gather(log.mT, rows, integers), free[rows].unsqueeze(1))
            for group, soft, likeliest in groups:
                reduced = _log_maximum(log[group], soft, likeliest) if maximise else _log_sum(log[group], soft)
                values = values.index_put(soft.where, reduced)
            found.append(values)
        return torch.cat(found, -1)

    def posterior(
        self,
        prepared: Table,
        rows: Rows,
        evidence: InputEvidence,
        flows: Tensor,
        exact: bool,
        *,
        normalise: bool = False,
        memory: Memory = _NO_MEMORY,
        out: Float[Tensor, "F B V"] | None = None,
    ) -> Float[Tensor, "F B V"]:
        """As the family's, of flows that are made to add up to one if asked for; in `out`, if given, where much is
        missing.
        """
        hard, total = evidence.observed, flows.sum(-1)
        if not exact and evidence.log_weights is None and hard.sum() <= (1 - _DENSE) * hard.numel():
            open_, known = ((~hard) / total, hard.to(total)) if normalise else ((~hard).to(total), total * hard)
            shares, integers = self._shares_of_missing(prepared, rows, flows), self._integers(evidence)
            if self._gains_by_packing(prepared, hard, shares, memory):
                found = flows.new_empty(*hard.shape, self.num_categories) if out is None else out
                table = _of_rows(prepared.linear, rows)
                for part in spread_packed(shares, open_, table, pack(~hard), memory, found):
                    _add_known(found[part], integers[part], known[part])
                return found
            shares = torch.mul(shares, open_.unsqueeze(-1), out=memory.scratch("shares", *flows.shape, like=flows))
            return _add_known(_spread(shares, prepared.linear, rows, out), integers, known)
        if normalise:
            flows, total = flows / total.unsqueeze(-1), torch.ones_like(total)
        certain = torch.where(hard, total, 0.0).unsqueeze(-1)
        found = flows.new_zeros(*hard.shape, self.num_categories)
        found = found.scatter_(-1, self._integers(evidence).unsqueeze(-1), certain)
        if hard.all():
            return found
        free = self._free(evidence)
        if exact:
            parts = [part.sum(1) for part in self._shares(prepared, rows, free, flows)]
            return found.index_put_(free.where, sum(parts[1:], parts[0]))
        weighing, shares = self._weighing_and_shares(prepared, rows, evidence, free, flows)
        spread = free.spread(shares, prepared.linear, rows) if weighing is None else weighing.posterior(shares)
        return found.index_put_(free.where, free.dense(spread, self.num_categories, 0.0))

    def _gains_by_packing(
        self, prepared: Table, hard: Bool[Tensor, "F B"], flows: Float[Tensor, "F B K"], memory: Memory
    ) -> bool:
        """Whether to multiply matrices of what is missing alone is worth it."""
        if memory.over(flows) is None or len(prepared.linear) == 1 or self.num_categories <= _FEW:
            return False
        return not samples_last(flows) and float(hard.sum(1).min()) >= _PACKED * hard.shape[1]

    def free_posterior(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Float[Tensor, "F B K"]
    ) -> Float[Tensor, "M V"]:
        """The conditionals of all unobserved variables and of no others, a flow of one being spread over each."""
        free = self._free(evidence)
        weighing, shares = self._weighing_and_shares(prepared, rows, evidence, free, flows)
        shares = shares / flows[free.where].sum(-1, keepdim=True)
        spread = free.spread(shares, prepared.linear, rows) if weighing is None else weighing.posterior(shares)
        return free.dense(spread, self.num_categories, 0.0)

    def statistics(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        groups, categories, units = prepared.linear.shape
        out = memory.keep(groups * categories, units, like=flows)
        start = None if out is None else out.zero_().view(groups, categories, units)
        return {"counts": self._counts(prepared, rows, evidence, flows, exact, start)}

    def _counts(
        self,
        prepared: Table,
        rows: Rows,
        evidence: InputEvidence,
        flows: Tensor,
        exact: bool,
        start: Float[Tensor, "G V K"] | None,
    ) -> Float[Tensor, "G K V"]:
        """Expected counts of the values, added to `start` if that is given."""
        groups, categories, _ = prepared.linear.shape
        hard = evidence.observed
        complete = bool(hard.all())
        integers = self._integers(evidence)
        if start is None:
            counts = categorical_counts(flows, rows, integers, hard, groups, categories).mT
        else:
            counts = _add_up(flows, rows, integers, None if complete else hard, start).mT
        if complete:
            return counts
        free = self._free_counts(prepared, rows, evidence, flows * ~hard.unsqueeze(-1), exact)
        return counts + free if start is None else counts.add_(free)

    def _free_counts(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> Float[Tensor, "G K V"]:
        """Expected counts of the values that the evidence leaves open."""
        groups, _, units = prepared.linear.shape
        if evidence.log_weights is None:
            # tied rows share a table: their flows are added up, not tables of counts
            reached = flows.new_zeros(groups, units).index_add(0, rows, flows.sum(1))
            return reached.unsqueeze(-1) * prepared.linear.mT.to(flows.dtype)
        free = self._free(evidence)
        of_group = rows[free.where[0]]
        if exact:
            parts = [
                flows.new_zeros(groups, *part.shape[1:]).index_add(0, of_group, part)
                for part in self._shares(prepared, rows, free, flows)
            ]
            return torch.cat(parts, 1)
        weighing, shares = self._weighing_and_shares(prepared, rows, evidence, free, flows)
        assert weighing is not None
        return weighing.counts(shares) * prepared.linear.mT

    def _free(self, evidence: InputEvidence) -> Soft:
        """The weights of what is not observed; one each where nothing is known."""
        if evidence.log_weights is not None:
            return Soft.of(evidence, self.num_categories)
        where = places(~evidence.observed)
        nothing = torch.zeros((), device=evidence.values.device)
        return Soft(where, nothing.expand(len(where[0]), self.num_categories), None)

    def _weighing_and_shares(
        self, prepared: Table, rows: Rows, evidence: InputEvidence, free: Soft, flows: Tensor
    ) -> tuple[Weighing | None, Float[Tensor, "M K"]]:
        """Weights, None where all are one, and flows over the values that they gave."""
        if evidence.log_weights is None:
            return None, flows[free.where]
        known, weighing = self._soft_values(prepared, rows, evidence), Weighing.of(free, prepared.linear, rows)
        rescale = (weighing.peak - known.scale[free.where]).exp().to(flows.dtype).unsqueeze(-1)
        return weighing, ratio(flows[free.where], known.values[free.where].to(flows.dtype)) * rescale

    def gradient(
        self, parameters: dict[str, Tensor], prepared: Any, statistics: dict[str, Tensor], support: Tensor | None
    ) -> dict[str, Tensor]:
        with torch.enable_grad():
            own = {name: p.detach().requires_grad_() for name, p in parameters.items()}
            log = finite(self.masked_log_table(own, support))
            found = torch.autograd.grad((log * statistics["counts"]).sum(), list(own.values()))
        return dict(zip(own, found, strict=True))

    def maximise(
        self, prepared: Table, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        old = prepared.linear.mT
        return self.from_table(smooth.probabilities(statistics["counts"].to(old.dtype), old, support))

    def sample(
        self,
        prepared: Table,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Int[Tensor, " M"]:
        row, batch, unit = picks
        groups, _, units = prepared.linear.shape
        if len(row) > groups * units and evidence.log_weights is None and temperature == 1.0:
            found = draw(prepared.linear.mT.flatten(0, 1), generator, rows[row] * units + unit)
            if not evidence.observed.any():
                return found
            return torch.where(evidence.observed[row, batch], self._integers(evidence)[row, batch], found)
        drawn = self._integers(evidence)[row, batch]
        free = (~evidence.observed[row, batch]).nonzero().squeeze(-1)
        for part in free.split(max(1, _CHUNK_ELEMENTS // (8 * self.num_categories))):
            cells = (row[part], batch[part])
            log, ids = prepared.log_rows(rows[cells[0]], unit[part]), None
            if evidence.log_weights is not None:
                if evidence.weighted_values is not None:
                    ids = evidence.weighted_values[cells]
                    log = log.gather(-1, ids)
                log = log + evidence.log_weights[cells][:, : log.shape[-1]].to(log.dtype)
            found = _draw(log, temperature, generator)
            drawn[part] = found if ids is None else ids.gather(-1, found.unsqueeze(-1)).squeeze(-1)
        return drawn

    def overlap(self, prepared: Table, rows: Rows) -> Bool[Tensor, "F K K"]:
        if prepared.linear.min() > 0:
            units = prepared.linear.shape[-1]
            return torch.ones(1, 1, 1, dtype=torch.bool, device=rows.device).expand(len(rows), units, units)
        possible = (prepared.linear > 0).to(torch.float32)
        return (possible.mT @ possible > 0)[rows]

    def expected_log(self, prepared: Table, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        log, integers = prepared.log.double(), self._integers(evidence)
        free = (log.exp() * finite(log)).sum(-1)
        values = torch.where(
            evidence.observed.unsqueeze(-1), finite(_gather(log.mT, rows, integers)), free[rows].unsqueeze(1)
        )
        if not evidence.soft.any():
            return values
        for group, soft, _ in self._by_group(prepared, rows, evidence):
            means = torch.cat([_mean_log(terms) for terms in _log_terms(log[group], soft)])
            values = values.index_put(soft.where, means)
        return values

    def _integers(
        self, evidence: InputEvidence, missing: int = 0, dtype: torch.dtype = torch.long
    ) -> Int[Tensor, "F B"]:
        """Values, and `missing` where there is none."""
        values = evidence.values.to(dtype)
        if evidence.observed.all():
            return values
        found = values * evidence.observed
        return found.add_(evidence.observed.logical_not().to(dtype), alpha=missing) if missing else found

    def _by_group(
        self, prepared: Table, rows: Rows, evidence: InputEvidence
    ) -> list[tuple[int, Soft, tuple[Tensor, Tensor]]]:
        """The weights, in float64, of the positions that share a parameter row, and the likeliest of them."""
        soft, found = Soft.of(evidence, self.num_categories), []
        of_group = rows[soft.where[0]]
        for group in range(len(prepared.linear)):
            mine = (of_group == group).nonzero().squeeze(-1)
            ids = None if soft.ids is None else soft.ids[mine]
            part = Soft((soft.where[0][mine], soft.where[1][mine]), soft.log_weights[mine].double(), ids)
            likeliest = part.log_weights.topk(min(_LIKELIEST + 1, part.log_weights.shape[-1]), -1)
            found.append((group, part, likeliest))
        return [entry for entry in found if len(entry[1].log_weights)]

    def _shares(self, prepared: Table, rows: Rows, free: Soft, flows: Tensor) -> Iterator[Float[Tensor, "M U V"]]:
        """`share[m,k,v]`, how a unit's flow divides over the values that the evidence leaves open; some units at a
        time.
        """
        log_weights = free.dense(free.log_weights, self.num_categories, -torch.inf).double()
        flows, of_group = flows[free.where], rows[free.where[0]]
        for units in chunks(flows.shape[-1], len(flows) * self.num_categories, _CHUNK_ELEMENTS):
            terms = prepared.log_of(slice(None), units).double()[of_group] + log_weights.unsqueeze(1)
            share = (terms - finite(logsumexp(terms)).unsqueeze(-1)).exp()
            yield share.to(flows.dtype) * flows[:, units].unsqueeze(-1)


def require_categories(family: InputFamily, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
    """Raise EvidenceError, naming the variable, where values or weights are not of the family's categories."""
    values, categories = evidence.values, family.num_categories or 0
    if evidence.log_weights is None and not values.is_floating_point() and values.numel():
        least, largest = values.aminmax()
        if least >= 0 and largest < categories:
            return
    outside = (values < 0) | (values >= categories)
    if values.is_floating_point():
        outside |= values != values.round()
    if (bad := outside & evidence.observed).any():
        row = int(bad.any(1).nonzero()[0])
        raise EvidenceError(
            f"variable {variables[row]} is {family!r}: values must be integers in 0..{categories - 1}, "
            f"got {values[row][bad[row]][0].item():g} in batch rows {rows_of(bad.any(0))}"
        )
    if (ids := evidence.weighted_values) is not None:
        if (bad := ((ids < 0) | (ids >= categories)).any(-1) & evidence.soft).any():
            raise EvidenceError(
                f"`weighted_values` must be in 0..{categories - 1} for {family!r}; they are not in batch rows "
                f"{rows_of(bad.any(0))}"
            )
    elif evidence.log_weights is not None and evidence.log_weights.shape[-1] < categories:
        raise EvidenceError(
            f"`log_weights` covers {evidence.log_weights.shape[-1]} values, but {family!r} needs {categories}"
        )


def _draw(log: Float[Tensor, "M W"], temperature: float, generator: torch.Generator | None) -> Int[Tensor, " M"]:
    if temperature == 0.0:
        return log.argmax(-1)
    log = log - log.amax(-1, keepdim=True)
    return draw((log if temperature == 1.0 else log / temperature).exp(), generator)


def _log_terms(log: Float[Tensor, "U V"], soft: Soft) -> Iterator[Float[Tensor, "N U W"]]:
    """`log p(v | unit) + log weight(v)`, some positions at a time."""
    for part in chunks(len(soft.log_weights), len(log) * soft.log_weights.shape[-1], _CHUNK_ELEMENTS):
        of_values = log if soft.ids is None else log[:, soft.ids[part]].transpose(0, 1)
        yield of_values + soft.log_weights[part].unsqueeze(1)


def _log_sum(log: Float[Tensor, "U V"], soft: Soft) -> Float[Tensor, "M U"]:
    return torch.cat([logsumexp(terms) for terms in _log_terms(log, soft)])


def _log_maximum(log: Float[Tensor, "U V"], soft: Soft, likeliest: tuple[Tensor, Tensor]) -> Float[Tensor, "M U"]:
    """Over the values of largest weight and, for units where a bound does not exclude them, all others."""
    top, ids = likeliest
    if soft.ids is not None or top.shape[-1] <= _LIKELIEST:
        return torch.cat([terms.amax(-1) for terms in _log_terms(log, soft)])
    some = Soft(soft.where, top[:, :-1], ids[:, :-1])
    best = torch.cat([terms.amax(-1) for terms in _log_terms(log, some)])
    for row, open_units in enumerate(best < top[:, -1:] + log.amax(-1)):
        if open_units.any():
            best[row, open_units] = (log[open_units] + soft.log_weights[row]).amax(-1)
    return best


def _mean_log(terms: Float[Tensor, "B K V"]) -> Float[Tensor, "B K"]:
    """Mean of the terms under their own softmax."""
    return ((terms - finite(logsumexp(terms)).unsqueeze(-1)).exp() * finite(terms)).sum(-1)


def _gather(
    table: Float[Tensor, "G V K"], rows: Rows, values: Int[Tensor, "F B"], out: Tensor | None = None
) -> Float[Tensor, "F B K"]:
    index = _cells(table, rows, values)
    return torch.index_select(table.flatten(0, 1), 0, index, out=out).view(*values.shape, -1)


def _product_with_one_hot(
    table: Float[Tensor, "G V K"], rows: Rows, values: Int[Tensor, "F B"], memory: Memory
) -> Float[Tensor, "F B K"]:
    """As `_gather`, samples last in memory."""
    batch, (_, categories, units) = values.shape[1], table.shape
    one_hot = memory.scratch("one_hot", len(rows), categories, batch, like=table)
    one_hot = _one_hot(values, categories, table.dtype, one_hot)
    out = memory.keep(len(rows), units, batch, like=table)
    return torch.bmm(_of_rows(table, rows).mT, one_hot, out=out).mT


def _one_hot(
    values: Int[Tensor, "F B"], categories: int, dtype: torch.dtype, out: Tensor | None = None
) -> Float[Tensor, "F V B"]:
    found = values.unsqueeze(1) == torch.arange(categories, device=values.device).view(1, -1, 1)
    return found.to(dtype) if out is None else out.copy_(found)


def _spread(
    shares: Float[Tensor, "F B K"],
    table: Float[Tensor, "G V K"],
    rows: Rows,
    out: Float[Tensor, "F B V"] | None = None,
) -> Float[Tensor, "F B V"]:
    """`sum_k shares[f,b,k] table[rows[f],v,k]`."""
    if len(table) == 1:
        room = out.flatten(0, 1) if out is not None and out.is_contiguous() else None
        return mm(shares.flatten(0, 1), table[0].mT, out=room).unflatten(0, shares.shape[:2])
    if out is not None:
        return dense_sum.linear_sum(_of_rows(table, rows), shares, out=out)
    return linear_sum(_of_rows(table, rows), shares)


def _add_known(spread: Float[Tensor, "F B V"], values: Int[Tensor, "F B"], known: Float[Tensor, "F B"]) -> Tensor:
    if spread.shape[-1] > _FEW:
        return spread.scatter_add_(-1, values.unsqueeze(-1), known.unsqueeze(-1))
    for value in range(spread.shape[-1]):
        spread[..., value].addcmul_(known, (values == value).to(known.dtype))
    return spread


def _of_rows(table: Float[Tensor, "G V K"], rows: Rows) -> Float[Tensor, "F V K"]:
    whole = len(rows) == len(table) and torch.equal(rows, torch.arange(len(table), device=rows.device))
    return table if whole else table[rows]


def _add_up(
    flows: Float[Tensor, "F B K"],
    rows: Rows,
    values: Int[Tensor, "F B"],
    seen: Bool[Tensor, "F B"] | None,
    out: Float[Tensor, "G V K"],
) -> Float[Tensor, "G V K"]:
    """Adds the flows of value v in rows of g, where `seen`, to `out[g,v]`: by a matrix product where values are few and
    rows do not share a table.
    """
    groups, categories, units = out.shape
    if categories <= min(_FEW, units) and groups == len(rows):
        one_hot = _one_hot(values, categories, flows.dtype)
        return out.baddbmm_(one_hot if seen is None else one_hot.mul_(seen.unsqueeze(1)), flows)
    flows = flows if seen is None else torch.where(seen.unsqueeze(-1), flows, 0.0)
    out.flatten(0, 1).index_add_(0, _cells(out, rows, values), flows.flatten(0, 1))
    return out


def _cells(table: Float[Tensor, "G V K"], rows: Rows, values: Int[Tensor, "F B"]) -> Int[Tensor, " N"]:
    """Places in the table's first two axes."""
    return (rows.unsqueeze(1) * table.shape[1] + values).flatten()
