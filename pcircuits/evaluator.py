"""The one evaluator: upward and downward passes over a plan, in any semiring. Every query is made of these."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from pcircuits.chains import Chain
from pcircuits.checkpoints import Stretch, find_stretches
from pcircuits.evidence import Evidence
from pcircuits.kernels import choice
from pcircuits.layout import Rows, add_rows, take_rows
from pcircuits.levels import Record, add_counts, gather, level_weights, product_of, rows_of_one, side_by_side, split
from pcircuits.plan import Incoming, InnerLevel, InputLevel, Level, MixingLevel, Plan, find_takers
from pcircuits.semirings import Log, Scaled, Semiring, Steps, SumWeights, Values
from pcircuits.state_tables import Lookup, look_up
from pcircuits.types import Float, Int, Tensor
from pcircuits.workspace import Memory

# Relative width of the bracket around an evidence that is accepted.
_FEW_UNITS = 16
_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}


class Segment(NamedTuple):
    """What a chain segment leaves for the downward pass as a whole; its levels' records are views of it."""

    chain: Chain
    weights: Sequence[SumWeights]
    steps: Steps


class FusedSegment(NamedTuple):
    """As `Segment`, where products are worked out again from the steps' other children and the values before them."""

    chain: Chain
    weights: SumWeights
    sides: Float[Tensor, "T 1 B K"]
    first: Float[Tensor, "1 B K"]
    sums: Float[Tensor, "T 1 B K"]


class Pass(NamedTuple):
    """One upward pass. `segments`, by their last level, are the chains that were evaluated as one. Of
    `stretches` some records are forgotten but while a downward pass is there.
    """

    plan: Plan
    prepared: Mapping[str, Any]
    semiring: Semiring
    evidence: Evidence
    records: list[Record]
    segments: Mapping[int, Segment | FusedSegment]
    stretches: Sequence[Stretch] = ()
    lookup: Lookup | None = None

    @property
    def log_evidence(self) -> Float[Tensor, " B"]:
        return self.semiring.root(self.records[-1].values)


class Evaluation(NamedTuple):
    """A fast pass over all rows and, where float range did not suffice, an exact one over the `rows` that need it."""

    fast: Pass
    exact: Pass | None = None
    rows: Int[Tensor, " R"] | None = None

    def combine(self, query: Callable[[Pass], Tensor], batch_dim: int = 0) -> Tensor:
        """The query's answer for every batch row, each from the pass that answers for it."""
        return self.merge(query(self.fast), None if self.exact is None else query(self.exact), batch_dim)

    def merge(self, fast: Tensor, exact: Tensor | None, batch_dim: int = 0) -> Tensor:
        """Answers of the fast pass for all rows, replaced by those of the exact one where it answers."""
        if exact is None or self.rows is None:
            return fast
        return fast.index_copy(batch_dim, self.rows, exact.to(fast.dtype))

    @property
    def log_evidence(self) -> Float[Tensor, " B"]:
        return self.combine(lambda p: p.log_evidence)


def evaluate(
    plan: Plan,
    prepared: Mapping[str, Any],
    evidence: Evidence,
    dtype: torch.dtype,
    memory: Memory | None = None,
    *,
    recompute: bool = False,
    summed: bool = False,
) -> Evaluation:
    """Log evidence, right to rounding: scaled linear first, log space for the rows whose result underflow may have
    touched.

    A second pass bounds suspect rows from above; where bound and result agree the result stands, elsewhere the row is
    redone in log space. The first pass is written into `memory`. In float64, circuits of one unit a region, which have
    no matrix products to gain by, are evaluated in log space alone. With `recompute` the passes are for `downward`
    only. `summed`: nothing but the log evidence and counts of the whole batch will be asked for.
    """
    if dtype == torch.float64 and all(level.num_units == 1 for level in plan.levels):
        return Evaluation(upward(plan, prepared, evidence, Log(), recompute=recompute))
    scaled = Scaled(dtype, samples_last=_gains_by_samples_last(plan, evidence, dtype), memory=memory)
    lookup = look_up(plan, prepared, evidence, scaled) if summed else None
    fast = upward(plan, prepared, evidence, scaled, recompute=recompute, lookup=lookup, summed=summed)
    suspect = fast.semiring.suspect  # type: ignore[attr-defined]
    if suspect is None or not suspect.any():
        return Evaluation(fast)
    rows = suspect.nonzero().squeeze(-1)
    with torch.no_grad():
        upper = upward(plan, prepared, evidence.rows(rows), Scaled(dtype, upper=True), recompute=recompute).log_evidence
        doubtful = ~(upper - fast.log_evidence[rows] < _TOLERANCE[dtype])
    if not doubtful.any():
        return Evaluation(fast)
    rows = rows[doubtful]
    return Evaluation(fast, upward(plan, prepared, evidence.rows(rows), Log(), recompute=recompute), rows)


def _gains_by_samples_last(plan: Plan, evidence: Evidence, dtype: torch.dtype) -> bool:
    """Whether rows of samples are longer than rows of units, of which few leave vector instructions idle."""
    like = torch.empty(0, dtype=dtype, device=evidence.device)
    if plan.chains or like.device.type != "cpu" or choice.on_triton((like,)):
        return False
    units = max(level.num_units for level in plan.levels)
    return 1 < units <= _FEW_UNITS and evidence.batch_size >= 4 * units


def upward(
    plan: Plan,
    prepared: Mapping[str, Any],
    evidence: Evidence,
    semiring: Semiring,
    *,
    recompute: bool = False,
    lookup: Lookup | None = None,
    summed: bool = False,
) -> Pass:
    """Values of every unit, inputs first. With `recompute` only some are kept, and `downward` works out the others.
    Levels that `lookup` has are looked up. `summed`, as in `evaluate`: chains leave no records of their steps.
    """
    stretches = find_stretches(plan) if recompute else []
    ahead = list(stretches)
    records: list[Record] = []
    segments: dict[int, Segment | FusedSegment] = {}
    chains = {chain.start: chain for chain in _chains(plan, evidence, semiring, lookup)}
    while len(records) < len(plan.levels):
        chain = chains.get(len(records))
        if chain is not None and isinstance(semiring, Scaled):
            segment = _upward_chain(chain, plan, prepared, semiring, records, summed)
            if segment is not None:
                segments[chain.stop - 1] = segment
            if len(records) == chain.stop:
                continue
        if lookup is not None and len(records) in lookup:
            records.append(lookup.record(len(records)))
        else:
            records.append(_upward_level(plan.levels[len(records)], prepared, evidence, semiring, records))
        while ahead and ahead[0].levels.stop <= len(records):
            _forget(ahead.pop(0), records, semiring.memory)
    return Pass(plan, prepared, semiring, evidence, records, segments, stretches, lookup)


def _chains(plan: Plan, evidence: Evidence, semiring: Semiring, lookup: Lookup | None) -> list[Chain]:
    """The chains that the semiring takes, but for levels that are looked up."""
    if evidence.has_gates or not isinstance(semiring, Scaled) or not semiring.takes_chains:
        return []
    found = plan.chains if semiring.writes else [chain.without_lead for chain in plan.chains]
    return [chain for chain in found if lookup is None or chain.start not in lookup]


def _forget(stretch: Stretch, records: list[Record], memory: Memory) -> None:
    for n in stretch.forgotten:
        _drop(n, records, memory)


def _drop(n: int, records: list[Record], memory: Memory, given: Sequence[Tensor] = ()) -> None:
    """Of a level's record, but for memory that now holds what the level has `given`."""
    held = set(map(_start, given))
    for values in (records[n].product, records[n].values):
        if values is not None and _start(values.v) not in held:
            memory.release(values.v)
    records[n] = _nothing(records[n].values.v.dtype, records[n].values.v.device)


@functools.cache
def _nothing(dtype: torch.dtype, device: torch.device) -> Record:
    """What is left of a level's record."""
    v = torch.empty(0, 0, 0, dtype=dtype, device=device)
    return Record(None, Values(v, torch.empty(0, 0, dtype=torch.float64, device=device)))


def _remember(stretch: Stretch, upward_pass: Pass) -> None:
    plan, prepared, semiring, evidence, records, *_, lookup = upward_pass
    for n in stretch.forgotten:
        if lookup is not None and n in lookup:
            records[n] = lookup.record(n)
        else:
            records[n] = _upward_level(plan.levels[n], prepared, evidence, semiring, records)


def _upward_chain(
    chain: Chain, plan: Plan, prepared: Mapping[str, Any], semiring: Scaled, records: list[Record], summed: bool
) -> Segment | FusedSegment | None:
    """Appends the records of a chain's levels, if it can. What is returned is for the downward pass; None: for that the
    levels stand by themselves.
    """
    levels = [level for level in plan.levels[chain.start : chain.stop] if isinstance(level, InnerLevel)]
    source, rows = records[chain.source].values, chain.rows.view(len(levels), -1)
    first = _ones(source, rows.shape[1]) if chain.leads else records[-1].values
    some = levels[:1] if chain.tied else levels
    weights = [level_weights(level, prepared) for level in some] * (len(levels) // len(some))
    if any(w.pattern is not None for w in weights):
        return None
    steps = semiring.chain(weights, source, rows, first, tied=chain.tied)
    if steps is not None:
        *inner, last = range(len(levels))
        nothing = _nothing(source.v.dtype, source.v.device)
        records += [nothing] * len(inner) if summed else [Record(*steps.at(t)) for t in inner]
        records.append(Record(*steps.at(last)))
        return Segment(chain, weights, steps)
    if chain.tied and levels[0].num_rows == 1:
        sides = Values(source.v[rows], source.s[rows])
        found = semiring.recorded_chain(weights[0], sides, first)
        records += [Record(None, Values(v, s)) for v, s in zip(*(x.unbind(0) for x in found), strict=True)]
        if semiring.fuses(first.v):
            return FusedSegment(chain, weights[0], sides.v, first.v, found[0])
    return None


def _ones(like: Values, rows: int) -> Values:
    _, batch, units = like.v.shape
    return Values(like.v.new_ones(rows, batch, units), like.s.new_zeros(rows, batch))


def _upward_level(
    level: Level, prepared: Mapping[str, Any], evidence: Evidence, semiring: Semiring, records: list[Record]
) -> Record:
    if isinstance(level, InputLevel):
        given = evidence.of_variables(level.variables)
        return Record(None, semiring.inputs(level.family, prepared[level.group], level.rows, given))
    if (
        isinstance(level, InnerLevel)
        and isinstance(semiring, Scaled)
        and level.table
        and semiring.fuses(records[0].values.v)
    ):
        return _fused_level(level, prepared, evidence, semiring, records)
    return _inner_level(level, prepared, evidence, semiring, records)


def _inner_level(
    level: InnerLevel | MixingLevel,
    prepared: Mapping[str, Any],
    evidence: Evidence,
    semiring: Semiring,
    records: Sequence[Record],
) -> Record:
    """Children, product and sum; a product that can be made a part at a time is not kept."""
    weights = None if level.weights is None else level_weights(level, prepared, evidence)
    if isinstance(level, InnerLevel) and weights is not None and isinstance(semiring, Scaled):
        of_one = rows_of_one(level, records)
        found = None if of_one is None else semiring.sum_of_rows(weights, *of_one)
        if found is not None:
            return Record(None, found, by_parts=True)
    children = [gather(g, records, semiring.memory, f"child{a}") for a, g in enumerate(level.children)]
    if isinstance(level, MixingLevel):
        assert weights is not None
        terms = semiring.mixing_terms(children)
        return Record(terms, semiring.mix(weights, terms))
    if weights is not None and level.product == "kronecker" and isinstance(semiring, Scaled):
        left, right = children
        found = semiring.kronecker_sum(weights, left, right)
        if found is not None:
            return Record(None, found)
    product = semiring.product(level.product, children)
    if weights is None:
        return Record(product, product)
    raw = semiring.dense_sum(weights, product)
    by_parts = isinstance(semiring, Scaled) and semiring.goes_by_parts(weights, raw)
    return Record(product if len(children) > 1 else None, raw, by_parts=by_parts)


def _fused_level(
    level: InnerLevel, prepared: Mapping[str, Any], evidence: Evidence, semiring: Scaled, records: Sequence[Record]
) -> Record:
    """A product as one operation, and with its sum where that is over all children alike for all samples."""
    table = level.table
    assert table is not None
    values = side_by_side(table, records)
    if level.weights is None:
        product = semiring.hadamard(values, table.children)
        return Record(product, product)
    weights = prepared[level.weights.group]
    if weights.pattern is None and not evidence.gated(level.variables):
        found = semiring.sum_product(weights, values, table.children, level.weights.rows)
        return Record(None, Values(found.values, found.scales), found)
    product = semiring.hadamard(values, table.children)
    return Record(product, semiring.dense_sum(level_weights(level, prepared, evidence), product))


def downward(
    upward_pass: Pass, root_flows: Float[Tensor, " B"], *, count: bool = False, keep: bool = True
) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """Flows of every input level's units (F, B, K) and, if asked for, expected counts of every sum's weights. Levels
    that were looked up in tables are inputs.

    The flow of a unit is the derivative of the log evidence with respect to its log value, times the root's flow. All
    operations are differentiable. Unless the pass is to be kept, its values' memory is reused on the way.
    """
    plan, semiring, lookup = upward_pass.plan, upward_pass.semiring, upward_pass.lookup
    read = () if lookup is None else lookup.read
    parents = _Parents(plan, semiring.memory, lookup)
    inputs: dict[int, Tensor] = {}
    counts: dict[str, Tensor] = {}
    last = len(plan.levels) - 1
    steps = {n for segment in upward_pass.segments.values() for n in range(segment.chain.start, segment.chain.stop - 1)}
    covered = steps | parents.passed_over
    stretch_of = {n: stretch for stretch in upward_pass.stretches for n in stretch.levels}
    here: Stretch | None = None
    above = last + 1
    for n in (n for n in range(last, -1, -1) if n not in covered):
        for done in () if keep else set(range(n + 1, above)) - steps:
            _drop(done, upward_pass.records, semiring.memory, parents.given.get(done, ()))
        above = n + 1
        if stretch_of.get(n) is not here:
            if here is not None:
                _forget(here, upward_pass.records, semiring.memory)
            here = stretch_of[n]
            _remember(here, upward_pass)
        by_parts = upward_pass.records[n].by_parts
        flows = Rows(root_flows.view(1, -1, 1)) if n == last else parents.flows_of(n, taken=not by_parts)
        if n in upward_pass.segments:
            _downward_chain(upward_pass, n, flows.table, parents, counts if count else None, keep)
            continue
        if isinstance(plan.levels[n], InputLevel) or n in read:
            inputs[n] = flows.table
            continue
        parents.give(n, _distributed(upward_pass, n, flows, counts if count else None, keep=keep))
        if by_parts and keep and plan.added_up(n) is not None:
            parents.added_up.add(n)
        parents.done_with(n)
    if here is not None:
        _forget(here, upward_pass.records, semiring.memory)
    return inputs, counts


def _distributed(
    upward_pass: Pass, n: int, given: Rows, counts: dict[str, Tensor] | None, *, keep: bool
) -> Sequence[Tensor]:
    """Flows of a level's children, one tensor an argument position, and its counts."""
    plan, prepared, semiring, evidence, records, *_ = upward_pass
    level, record, count, flows = plan.levels[n], records[n], counts is not None, given.table
    assert not isinstance(level, InputLevel)
    if record.fused is not None:
        return split(level, _downward_fused(upward_pass, n, flows, counts), plan)
    if level.weights is None:
        return split(level, flows, plan)
    weights = level_weights(level, prepared, evidence)
    pieces: Sequence[Tensor]
    done = _flows_by_parts(upward_pass, n, weights, given, count=count, keep=keep)
    if done is not None:
        pieces, found = done
    else:
        distribute = semiring.mixing_flows if isinstance(level, MixingLevel) else semiring.sum_flows
        product = product_of(level, record, records, semiring)
        of_product, found = distribute(weights, product, record.values, flows, count)
        pieces = split(level, of_product, plan)
        if isinstance(level, InnerLevel) and level.product == "kronecker":
            semiring.memory.release(of_product)  # its sums are given
    if counts is not None and found is not None:
        add_counts(counts, level, found, prepared)
    return pieces


def _flows_by_parts(
    upward_pass: Pass, n: int, weights: SumWeights, flows: Rows, *, count: bool, keep: bool
) -> tuple[Sequence[Tensor], Tensor | None] | None:
    """Flows of a level's children and its counts, if they can be made a part at a time."""
    level, records, semiring = upward_pass.plan.levels[n], upward_pass.records, upward_pass.semiring
    record, memory = records[n], semiring.memory
    if not isinstance(level, InnerLevel) or not isinstance(semiring, Scaled):
        return None
    if record.by_parts:
        values, rows = rows_of_one(level, records) or (product_of(level, record, records, semiring), None)
        given, onto = Rows(values.v, rows), upward_pass.plan.added_up(n) if keep else None
        return semiring.sum_flows_by_parts(weights, given, record.values, flows, onto, count=count, keep=keep)
    if level.product != "kronecker" or record.product is not None:
        return None
    left, right = (gather(g, records, memory, f"child{a}") for a, g in enumerate(level.children))
    return semiring.kronecker_sum_flows(weights, left, right, record.values, flows.table, count)


def _downward_chain(
    upward_pass: Pass, n: int, flows: Tensor, parents: "_Parents", counts: dict[str, Tensor] | None, keep: bool
) -> None:
    """A whole segment, from its last level n: flows to all of its children, and counts."""
    segment, semiring, count = upward_pass.segments[n], upward_pass.semiring, counts is not None
    assert isinstance(semiring, Scaled)
    chain = segment.chain
    if isinstance(segment, Segment):
        given, found = semiring.chain_flows(*segment[1:], flows, tied=chain.tied, count=count, keep=keep)
    else:
        given, found = semiring.fused_chain_flows(*segment[1:], flows, count=count)
    for m, piece in enumerate(given, start=chain.start):
        parents.give(m, [piece])
    if counts is None or found is None:
        return
    for m, level_counts in enumerate([found] if chain.tied else found, start=chain.start):
        level = upward_pass.plan.levels[m]
        assert isinstance(level, InnerLevel)
        add_counts(counts, level, level_counts, upward_pass.prepared)


def _downward_fused(upward_pass: Pass, n: int, flows: Tensor, counts: dict[str, Tensor] | None) -> Tensor:
    """Flows of the product of a level that was one operation, and counts."""
    level, semiring, fused = upward_pass.plan.levels[n], upward_pass.semiring, upward_pass.records[n].fused
    assert isinstance(level, InnerLevel) and isinstance(semiring, Scaled)
    assert level.table is not None and level.weights is not None and fused is not None
    group, rows = level.weights.group, level.weights.rows
    values = side_by_side(level.table, upward_pass.records)
    child_flows, found = semiring.sum_product_flows(
        upward_pass.prepared[group], values, level.table.children, rows, fused, flows, counts is not None
    )
    if counts is not None and found is not None:
        counts[group] = counts[group] + found if group in counts else found
    return child_flows


class _Parents:
    """Flows on their way down: what every level gives its children, until all of them have it."""

    def __init__(self, plan: Plan, memory: Memory, lookup: Lookup | None) -> None:
        self.plan, self.memory = plan, memory
        self.given: dict[int, Sequence[Tensor]] = {}
        self.passed_on: set[int] = set()  # memory of what is given as it is
        self.own: dict[int, Tensor] = {}  # of that what no other level is given
        self.untaken: dict[int, Incoming] = {}  # by the level that reads it
        self.added_up: set[int] = set()  # levels whose only child has its flows added up already
        tabled = None if lookup is None else lookup.tables
        takers = plan.takers if tabled is None else find_takers(plan, tabled.levels, tabled.read)
        self.takers, self.passed_over = dict(takers.number), takers.passed_over

    def give(self, n: int, flows: Sequence[Tensor]) -> None:
        self.given[n] = flows

    def flows_of(self, n: int, *, taken: bool = True) -> Rows:
        """One row a row of the level: that of its parent, or the sum over its parents. If rows need not be `taken`,
        they are some of what parents gave, until the level is done with.
        """
        incoming, level = self.plan.incoming[n], self.plan.levels[n]
        pieces = [self.given[source.level][source.argument] for source in incoming.sources]
        joined, giver = pieces[0], incoming.sources[0].level
        if giver in self.added_up:
            incoming = replace(incoming, target=None)
        if taken and len(pieces) == 1 and incoming.index is None and incoming.target is None:
            self.passed_on.add(_start(joined))
            if giver in self.added_up or len({_start(piece) for piece in self.given[giver]}) > 1:
                self.own[n] = joined
        shape, kept = joined.shape[1:], not _has_sum(level) and incoming.target is None
        if len(pieces) > 1:
            rows = sum(len(piece) for piece in pieces)
            room = self._room("joined", rows, *shape, like=joined, kept=taken and kept and incoming.index is None)
            joined = torch.cat(pieces, out=room)
        if incoming.target is None and not taken:
            self.untaken[n] = incoming
            return Rows(joined, incoming.index)
        if incoming.index is not None:
            room = self._room("flows", len(incoming.index), *shape, like=joined, kept=kept)
            joined = take_rows(joined, incoming.index, out=room)
        if incoming.target is not None:
            joined = self._add_up(joined, incoming.target, level.num_rows)
        self._forget(incoming)
        return Rows(joined)

    def _room(self, name: str, *shape: int, like: Tensor, kept: bool) -> Tensor | None:
        return self.memory.keep(*shape, like=like) if kept else self.memory.scratch(name, *shape, like=like)

    def done_with(self, n: int) -> None:
        """The level's flows are read no more, unless they are those of its children."""
        if (incoming := self.untaken.pop(n, None)) is not None:
            self._forget(incoming)
        if (own := self.own.pop(n, None)) is not None and _has_sum(self.plan.levels[n]):
            self.memory.release(own)

    def _add_up(self, flows: Tensor, target: Tensor, num_rows: int) -> Tensor:
        out = self.memory.keep(num_rows, *flows.shape[1:], like=flows)
        if out is None:
            return flows.new_zeros(num_rows, *flows.shape[1:]).index_add(0, target, flows)
        return add_rows(out.zero_(), target, flows)

    def _forget(self, incoming: Incoming) -> None:
        for n in {source.level for source in incoming.sources}:
            self.takers[n] -= 1
            if self.takers[n] == 0:
                for piece in self.given.pop(n) if _has_sum(self.plan.levels[n]) else ():
                    if _start(piece) not in self.passed_on:
                        self.memory.release(piece)


def _start(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _has_sum(level: Level) -> bool:
    return not isinstance(level, InputLevel) and level.weights is not None
