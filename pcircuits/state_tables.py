"""The lowest levels, worked out once a joint state of their variables instead of once a sample.

Where few-valued variables below a region have fewer joint states than the batch has samples, its units' values are
tables, in which complete evidence looks them up; on the way down the flows of all samples of a state add up.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pcircuits.distributions.discrete import Table
from pcircuits.evidence import Evidence
from pcircuits.joint_states import Tabled, tabled
from pcircuits.layout import samples_last
from pcircuits.levels import Record, add_counts, gather, level_weights, split
from pcircuits.plan import InnerLevel, InputLevel, JointStates, Level, Plan
from pcircuits.semirings import Scaled, Values
from pcircuits.types import Bool, Float, Int, Shaped, Tensor

_GAIN = 2  # samples a state


class Prepared(dict[str, Any]):
    """Normalised parameters by group, and the tables that were worked out for them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tables: dict[Tabled, StateTables] = {}


class _ByState(Scaled):
    """Levels have states of their own, so that a mark is one of all."""

    def normal(self, values: Values) -> Values:
        return self._rescaled(values.v, values.s)

    def _mark(self, bad: Bool[Tensor, "F S"]) -> None:
        super()._mark(bad.reshape(-1, 1))


class StateTables:
    """Values of some levels of a plan at all joint states of their variables, worked out once for its parameters."""

    def __init__(self, plan: Plan, prepared: Mapping[str, Any], levels: Tabled, dtype: torch.dtype) -> None:
        self.levels, self.read = levels
        semiring = _ByState(dtype)
        self.records: dict[int, Record] = {}
        for n in self.levels:
            self.records[n] = self._evaluated(plan.levels[n], prepared, semiring)
        self.normal = {n: semiring.normal(self.records[n].values) for n in self.read}
        self.exact = semiring.suspect is None or not bool(semiring.suspect.any())

    def _evaluated(self, level: Level, prepared: Mapping[str, Any], semiring: _ByState) -> Record:
        if isinstance(level, InputLevel):
            table = prepared[level.group].linear[level.rows]
            return Record(None, semiring.normal(Values(table, table.new_zeros(table.shape[:2]).double())))
        assert isinstance(level, InnerLevel)
        children = [gather(g, self.records, semiring.memory, f"child{a}") for a, g in enumerate(level.children)]
        counts = [child.v.shape[1] for child in children]
        product = semiring.product(level.product, [_at_all(c, a, counts) for a, c in enumerate(children)])
        if level.weights is None:
            return Record(product, product)
        return Record(product, semiring.dense_sum(level_weights(level, prepared), product))


class Lookup:
    """Tables and each sample's states in them; `semiring` is that of the levels above. Made by `look_up`."""

    def __init__(
        self,
        tables: StateTables,
        plan: Plan,
        prepared: Mapping[str, Any],
        x: Shaped[Tensor, "B D"],
        semiring: Scaled,
    ) -> None:
        self.tables, self.read, self.plan, self.prepared, self.semiring = tables, tables.read, plan, prepared, semiring
        of_variable = x.T.contiguous().int()
        self.places = {n: self._places(n, of_variable) for n in self.read}

    def __contains__(self, n: int) -> bool:
        """Whether level n is in the tables."""
        return n in self.tables.records

    def _places(self, n: int, x: Int[Tensor, "D B"]) -> Int[Tensor, "F B"]:
        states = self._states(n)
        found = x[states.variables[:, 0]]
        for variable, size in zip(states.variables.T[1:], states.sizes[1:], strict=True):
            found = found.mul_(size).add_(x[variable])
        return found.long()

    def record(self, n: int) -> Record:
        """Values of a level that others read, (F, B, K); of one that they do not read, nothing."""
        if n not in self.read:
            v, s, *_ = self.tables.records[n].values
            return Record(None, Values(v[:0], s[:0]))
        v, s, peak, _ = self.tables.normal[n]
        places, memory, (rows, states, units) = self.places[n], self.semiring.memory, v.shape
        if self.semiring.samples_last:
            out = memory.keep(rows, units, places.shape[1], like=v)
            each = places.unsqueeze(1).expand(-1, units, -1)
            values = torch.gather(v.mT.contiguous(), 2, each, out=out).mT
        else:
            out = memory.keep(places.numel(), units, like=v)
            values = torch.index_select(v.flatten(0, 1), 0, _cells(places, states), out=out).unflatten(0, places.shape)
        return Record(None, Values(values, s.gather(1, places), peak=peak))

    def counts(self, flows: Mapping[int, Float[Tensor, "F B K"]]) -> dict[str, Tensor]:
        """Expected counts of every group, of inputs (G, K, V), from the flows of the levels that others read."""
        waiting = {n: self._by_state(n, of_level) for n, of_level in flows.items()}
        inputs: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}
        for n in reversed(self.tables.levels):
            level, given = self.plan.levels[n], waiting.pop(n)
            if isinstance(level, InputLevel):
                table = self.prepared[level.group].linear
                empty = table.new_zeros(table.shape) if level.group not in inputs else inputs[level.group]
                inputs[level.group] = empty.index_add_(0, level.rows, given)
                continue
            assert isinstance(level, InnerLevel)
            if level.weights is not None:
                record, weights = self.tables.records[n], level_weights(level, self.prepared)
                product = record.product
                assert product is not None
                given, found = self.semiring.sum_flows(weights, product, record.values, given, True)
                assert found is not None
                add_counts(sums, level, found, self.prepared)
            self._give(level, given, waiting)
        return sums | {group: found.mT for group, found in inputs.items()}

    def _states(self, n: int) -> JointStates:
        states = self.plan.states[n]
        assert states is not None
        return states

    def _by_state(self, n: int, flows: Float[Tensor, "F B K"]) -> Float[Tensor, "F S K"]:
        places, states = self.places[n], self._states(n).count
        rows, _, units = flows.shape
        if samples_last(flows):
            each = places.unsqueeze(1).expand(-1, units, -1)
            return flows.new_zeros(rows, units, states).scatter_add_(2, each, flows.mT).mT.contiguous()
        found = flows.new_zeros(rows * states, units).index_add_(0, _cells(places, states), flows.flatten(0, 1))
        return found.unflatten(0, (rows, states))

    def _give(self, level: InnerLevel, flows: Float[Tensor, "F S K"], waiting: dict[int, Tensor]) -> None:
        """To each child those of its own states: summed over the others'."""
        counts = [self._states(g.parts[0].level).count for g in level.children]
        each = split(level, flows, self.plan)
        for a, g in enumerate(level.children):
            others = [1 + b for b in range(len(counts)) if b != a]
            of_child = each[min(a, len(each) - 1)].unflatten(1, counts)
            of_child = of_child.sum(others) if others else of_child.flatten(1, -2)
            for part in g.parts:
                child = self.plan.levels[part.level]
                if part.level not in waiting:
                    waiting[part.level] = flows.new_zeros(child.num_rows, *of_child.shape[1:])
                rows = torch.arange(child.num_rows, device=flows.device)
                index = rows if part.index is None else rows[part.index]
                waiting[part.level].index_add_(0, index, of_child if part.rows is None else of_child[part.rows])


def look_up(plan: Plan, prepared: Mapping[str, Any], evidence: Evidence, above: Scaled) -> Lookup | None:
    """For a pass in the semiring `above`; None where tables would not pay, evidence is not complete, or a value in them
    may have underflowed. They are kept with the parameters, if those are `Prepared`.
    """
    if not evidence.is_complete or evidence.latent is not None or evidence.has_gates:
        return None
    levels = tabled(plan, evidence.batch_size // _GAIN)
    if all(isinstance(plan.levels[n], InputLevel) for n in levels.levels):
        return None
    given = [prepared[level.group] for n in levels.levels if isinstance(level := plan.levels[n], InputLevel)]
    if not all(isinstance(x, Table) for x in given) or above.fuses(given[0].linear):
        return None
    kept = prepared.tables if isinstance(prepared, Prepared) else {}
    tables = kept.get(levels)
    if tables is None:
        tables = kept[levels] = StateTables(plan, prepared, levels, above.dtype)
    return Lookup(tables, plan, prepared, evidence.values, above) if tables.exact else None


def _at_all(child: Values, position: int, counts: Sequence[int]) -> Values:
    """A child's values at the joint states of all children."""
    before, after = math.prod(counts[:position]), math.prod(counts[position + 1 :])

    def spread(x: Tensor) -> Tensor:
        return x.unsqueeze(2).unsqueeze(1).expand(-1, before, -1, after, *x.shape[2:]).flatten(1, 3)

    return Values(spread(child.v), spread(child.s), child.peak, child.least)


def _cells(places: Int[Tensor, "F B"], states: int) -> Int[Tensor, " N"]:
    rows = torch.arange(len(places), device=places.device).unsqueeze(1)
    return (rows * states + places).flatten()
