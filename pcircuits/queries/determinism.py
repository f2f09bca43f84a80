"""Whether a circuit is deterministic: no input makes two children of a sum positive at once."""

from collections.abc import Mapping
from typing import Any

import torch

from pcircuits.evaluator import level_weights, take
from pcircuits.plan import Gather, InputLevel, MixingLevel, Plan
from pcircuits.queries.separation import allowed_values, separated_mixing
from pcircuits.types import Bool, Tensor


def is_deterministic(plan: Plan, prepared: Mapping[str, Any]) -> bool:
    """A certificate: True is proven; False means that none was found.

    `overlap[f,k,l]` says whether units k and l of a region may be positive together, from the inputs up: a product's
    units overlap where all their children do, a sum's where any of their children do. A sum is deterministic where no
    two of its children overlap. Partitions of one region are told apart by a variable on whose values they disagree.
    """
    overlaps: list[Tensor] = []
    allowed: list[Tensor] | None = None
    for level in plan.levels:
        if isinstance(level, InputLevel):
            overlaps.append(level.family.overlap(prepared[level.group], level.rows))
            continue
        children = [_gather(g, overlaps) for g in level.children]
        if isinstance(level, MixingLevel):
            allowed = allowed_values(plan, prepared) if allowed is None else allowed
            mixed = separated_mixing(level, allowed, prepared)
            if mixed is None:
                return False
            overlaps.append(mixed)
            continue
        overlap = _product(level.product, children)
        if level.weights is not None:
            positive = (level_weights(level, prepared).linear > 0).to(torch.float32)
            if not _single_child(positive, overlap):
                return False
            overlap = positive @ overlap.to(torch.float32) @ positive.mT > 0
        overlaps.append(overlap)
    return True


def _single_child(positive: Tensor, overlap: Bool[Tensor, "F J J"]) -> bool:
    others = overlap & ~torch.eye(overlap.shape[-1], dtype=torch.bool, device=overlap.device)
    pairs = torch.einsum("foj,fjl,fol->fo", positive, others.to(torch.float32), positive)
    return not bool((pairs > 0).any())


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
