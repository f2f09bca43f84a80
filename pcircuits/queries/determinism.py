"""Whether a circuit is deterministic: no input makes two children of a sum positive at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pcircuits.levels import level_weights, take
from pcircuits.plan import Gather, InnerLevel, InputLevel, MixingLevel, Plan
from pcircuits.queries.disjoint import Disjointness
from pcircuits.queries.separation import allowed_values, separated_mixing
from pcircuits.types import Bool, Tensor


def determinism(plan: Plan, prepared: Mapping[str, Any]) -> bool | None:
    """True: proven; False: disproven, some input makes two children of a sum positive; None: unknown.

    `overlap[f,k,l]` says whether units k and l of a region are positive together on some input, from the inputs up: a
    product's units overlap where all their children do, a sum's where any of their children do. That is exact, since
    the children of a product share no variable. A sum is deterministic where no two of its children overlap; sums that
    no positive path from the root reaches do not count. Partitions of one region are told apart by a variable on whose
    values they disagree, or by a proof (`Disjointness`); where none is found, or sums above them may overlap, the
    answer is unknown.
    """
    overlaps: list[Tensor] = []
    clashes: dict[int, Tensor] = {}
    allowed: list[Tensor] | None = None
    proofs: Disjointness | None = None
    for n, level in enumerate(plan.levels):
        if isinstance(level, InputLevel):
            overlaps.append(level.family.overlap(prepared[level.group], level.rows))
            continue
        children = [_gather(g, overlaps) for g in level.children]
        if isinstance(level, MixingLevel):
            allowed = allowed_values(plan, prepared) if allowed is None else allowed
            mixed = separated_mixing(level, allowed, prepared)
            if mixed is None:
                proofs = Disjointness(plan, prepared) if proofs is None else proofs
                mixed = _proven_mixing(n, plan, proofs, overlaps[0].device)
            if mixed is None:
                return None
            overlaps.append(mixed)
            continue
        overlap = _product(level.product, children)
        if level.weights is not None:
            positive = _positive(level, prepared)
            clashes[n] = _clashes(positive, overlap)
            overlap = positive @ overlap.to(torch.float32) @ positive.mT > 0
        overlaps.append(overlap)
    if not any(bool(clash.any()) for clash in clashes.values()):
        return True
    if allowed is not None:
        return None
    reached = _reached(plan, prepared, overlaps)
    return not any(bool((clash & reached[n]).any()) for n, clash in clashes.items())


def _positive(level: InnerLevel | MixingLevel, prepared: Mapping[str, Any]) -> Tensor:
    return (level_weights(level, prepared).linear != 0).to(torch.float32)


def _proven_mixing(n: int, plan: Plan, proofs: Disjointness, device: torch.device) -> Bool[Tensor, "F K K"] | None:
    """Which units may be positive together: any, for all that is known; None unless all partitions are told apart."""
    units, blocks = plan.levels[n].num_units, [block for block, (level, _) in enumerate(plan.at) if level == n]
    if not all(proofs.separates(block, k) for block in blocks for k in range(units)):
        return None
    return torch.ones(len(blocks), units, units, dtype=torch.bool, device=device)


def _clashes(positive: Tensor, overlap: Bool[Tensor, "F J J"]) -> Bool[Tensor, "F O"]:
    """Sums two of whose children overlap."""
    others = overlap & ~torch.eye(overlap.shape[-1], dtype=torch.bool, device=overlap.device)
    return torch.einsum("foj,fjl,fol->fo", positive, others.to(torch.float32), positive) > 0


def _reached(plan: Plan, prepared: Mapping[str, Any], overlaps: list[Tensor]) -> list[Bool[Tensor, "F K"]]:
    """Units that some input makes count: positive themselves, on a positive path from the root."""
    reached = [torch.zeros(o.shape[:2], dtype=torch.bool, device=o.device) for o in overlaps]
    reached[-1][:] = True
    for n in reversed(range(len(plan.levels))):
        level = plan.levels[n]
        if isinstance(level, InputLevel):
            continue
        own = reached[n] & overlaps[n].diagonal(dim1=-2, dim2=-1)
        parts: Sequence[Tensor]
        if isinstance(level, MixingLevel):
            positive = _positive(level, prepared) > 0
            parts = [own & positive[..., a] for a in range(len(level.children))]
        else:
            possible = _product(level.product, [_gather(g, overlaps) for g in level.children])
            if level.weights is not None:
                own = (own.unsqueeze(1).to(torch.float32) @ _positive(level, prepared)).squeeze(1) > 0
            parts = _of_children(level, own & possible.diagonal(dim1=-2, dim2=-1), plan)
        for g, piece in zip(level.children, parts, strict=True):
            for part in g.parts:
                rows = torch.arange(plan.levels[part.level].num_rows, device=piece.device)
                rows = rows if part.index is None else rows[part.index]
                mine, known = take(piece, part.rows).to(torch.int), reached[part.level]
                reached[part.level] = known.to(torch.int).index_add(0, rows, mine) > 0
    return reached


def _of_children(level: InnerLevel, product: Bool[Tensor, "F J"], plan: Plan) -> Sequence[Tensor]:
    if level.product == "hadamard":
        return [product] * len(level.children)
    left, right = (plan.levels[g.parts[0].level].num_units for g in level.children)
    grid = product.unflatten(-1, (left, right))
    return grid.any(-1), grid.any(-2)


def _product(kind: str, children: list[Tensor]) -> Bool[Tensor, "F J J"]:
    first, *rest = children
    if kind == "kronecker":
        both = first[:, :, None, :, None] & rest[0][:, None, :, None, :]
        return both.flatten(3, 4).flatten(1, 2)
    for child in rest:
        first = first & child
    return first


def _gather(g: Gather, overlaps: list[Tensor]) -> Tensor:
    joined = torch.cat([take(overlaps[part.level], part.index) for part in g.parts])
    return joined if g.order is None else joined.index_select(0, g.order)
