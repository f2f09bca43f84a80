"""What a level reads, and what it gives back to what it reads: the steps that passes over a plan have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from pcircuits.evidence import Evidence
from pcircuits.kernels import SumProduct
from pcircuits.layout import split_kronecker, take_rows
from pcircuits.plan import Gather, Index, InnerLevel, MixingLevel, Plan, Table
from pcircuits.semirings import Gates, Semiring, SumWeights, Values
from pcircuits.types import Tensor
from pcircuits.workspace import Memory


class Record(NamedTuple):
    """What a level leaves for the downward pass: its product (mixing: its terms; None: it is worked out again) and its
    values, which are the sum's where it has one. `fused`: product and sum as the one operation that they were.
    `by_parts`: flows go through its sum a part at a time.
    """

    product: Values | None
    values: Values
    fused: SumProduct | None = None
    by_parts: bool = False


def level_weights(
    level: InnerLevel | MixingLevel, prepared: Mapping[str, Any], evidence: Evidence | None = None
) -> SumWeights:
    """The weights of a level's rows and, for dense sums, the evidence's gates on them."""
    assert level.weights is not None
    weights, rows = prepared[level.weights.group], level.weights.rows
    weights = weights if rows is None else weights.rows(rows)
    if evidence is None or isinstance(level, MixingLevel) or level.num_units == 1:
        return weights
    log_gates = evidence.gates_of(level.variables)
    return weights if log_gates is None else weights._replace(gates=Gates(log_gates, weights.linear.dtype))


def product_of(
    level: InnerLevel | MixingLevel, record: Record, records: Sequence[Record], semiring: Semiring
) -> Values:
    """What a level's sum is over."""
    if record.product is not None:
        return record.product
    memory = semiring.memory
    children = [gather(g, records, memory, f"child{a}") for a, g in enumerate(level.children)]
    assert isinstance(level, InnerLevel)
    product, scale = semiring.product(level.product, children), record.values.s
    if len(children) == 1:
        return product
    factor = (product.s - scale).detach().exp().to(product.v.dtype)  # a chain has scales of its own
    return Values(product.v * factor.unsqueeze(-1), scale)


def gather(g: Gather, records: Sequence[Record] | Mapping[int, Record], memory: Memory, name: str) -> Values:
    """Child values of one argument position, in the level's row order: a view, or scratch of this name."""
    values = [records[part.level].values for part in g.parts]
    scale = [take(x.s, part.index) for x, part in zip(values, g.parts, strict=True)]
    bounds = min(x.peak for x in values), min(x.least for x in values)
    if len(g.parts) == 1:
        return Values(_take_into(values[0].v, g.parts[0].index, memory, name), scale[0], *bounds)
    pieces = [take(x.v, part.index) for x, part in zip(values, g.parts, strict=True)]
    rows = sum(len(piece) for piece in pieces)
    v = torch.cat(pieces, out=memory.scratch(name, rows, *pieces[0].shape[1:], like=pieces[0]))
    if g.order is None:
        return Values(v, torch.cat(scale), *bounds)
    v = _take_into(v, g.order, memory, name + "_ordered")
    return Values(v, torch.cat(scale).index_select(0, g.order), *bounds)


def rows_of_one(level: InnerLevel, records: Sequence[Record]) -> tuple[Values, Tensor] | None:
    """What a sum over a single child reads, where that is rows of one level in an order of its own."""
    found = level.rows_of_one
    return None if found is None else (records[found[0]].values, found[1])


def side_by_side(table: Table, records: Sequence[Record]) -> Values:
    """The rows of a level's table."""
    found = [(records[n].values, index) for n, index in table.pieces]
    pieces = [Values(take(x.v, index), take(x.s, index)) for x, index in found]
    return pieces[0] if len(pieces) == 1 else Values(torch.cat([p.v for p in pieces]), torch.cat([p.s for p in pieces]))


def _take_into(x: Tensor, index: Index, memory: Memory, name: str) -> Tensor:
    if not isinstance(index, Tensor):
        return take(x, index)
    return take_rows(x, index, out=memory.scratch(name, len(index), *x.shape[1:], like=x))


def take(x: Tensor, index: Index) -> Tensor:
    if index is None:
        return x
    return x[index] if isinstance(index, slice) else take_rows(x, index)


def split(level: InnerLevel | MixingLevel, flows: Tensor, plan: Plan) -> Sequence[Tensor]:
    """Flows of the children, one tensor an argument position, from the flows of their product (or mixing terms)."""
    if isinstance(level, MixingLevel):
        return flows.unbind(0)
    if level.product == "kronecker":
        return split_kronecker(flows, plan.levels[level.children[0].parts[0].level].num_units)
    return [flows]


def add_counts(
    counts: dict[str, Tensor], level: InnerLevel | MixingLevel, level_counts: Tensor, prepared: Mapping[str, Any]
) -> None:
    assert level.weights is not None
    group, rows = level.weights.group, level.weights.rows
    if rows is not None:
        shape = prepared[group].linear.shape
        level_counts = level_counts.new_zeros(shape).index_add(0, rows, level_counts)
    counts[group] = counts[group] + level_counts if group in counts else level_counts
