"""Which values of each variable a unit allows: what tells partitions of one region apart."""

from collections.abc import Mapping
from typing import Any

import torch

from pcircuits.distributions.discrete import Discrete
from pcircuits.levels import level_weights, take
from pcircuits.plan import Gather, InputLevel, MixingLevel, Plan
from pcircuits.types import Bool, Tensor

_MOST_ELEMENTS = 1 << 26


def allowed_values(plan: Plan, prepared: Mapping[str, Any]) -> list[Bool[Tensor, "F K D V"]]:
    """Of every level's units, the values of each variable on which they may be positive, those of continuous variables
    and of variables outside their scope being all. Empty where that takes more than 64 MB, or no input
    excludes a value.
    """
    inputs = [level for level in plan.levels if isinstance(level, InputLevel) and isinstance(level.family, Discrete)]
    if not any(bool((prepared[level.group].linear == 0).any()) for level in inputs):
        return []
    variables = max(max(level.variables) for level in plan.levels if isinstance(level, InputLevel)) + 1
    values = max(level.family.num_categories or 1 for level in plan.levels if isinstance(level, InputLevel))
    if sum(level.num_rows * level.num_units for level in plan.levels) * variables * values > _MOST_ELEMENTS:
        return []
    allowed: list[Tensor] = []
    for level in plan.levels:
        if isinstance(level, InputLevel):
            allowed.append(_of_inputs(level, prepared[level.group], variables, values))
            continue
        children = [_gather(g, allowed) for g in level.children]
        if isinstance(level, MixingLevel):
            mixed = torch.stack(children, 2) & (level_weights(level, prepared).linear != 0)[..., None, None]
            allowed.append(mixed.any(2))
            continue
        product = _product(level.product, children)
        if level.weights is not None:
            positive = (level_weights(level, prepared).linear != 0).to(torch.float32)
            product = (positive @ product.flatten(2).to(torch.float32) > 0).unflatten(2, (variables, values))
        allowed.append(product)
    return allowed


def separated_mixing(
    level: MixingLevel, allowed: list[Tensor], prepared: Mapping[str, Any]
) -> Bool[Tensor, "F K K"] | None:
    """Which of the mixed units may be positive together; None where two partitions of one unit may."""
    if not allowed:
        return None
    children = [_gather(g, allowed) for g in level.children]
    positive = level_weights(level, prepared).linear != 0
    together = torch.zeros_like(positive[:, :, :1].expand(-1, -1, positive.shape[1]))
    for a, first in enumerate(children):
        for b, second in enumerate(children):
            meets = (first.unsqueeze(2) & second.unsqueeze(1)).any(-1).all(-1)
            meets = meets & positive[:, :, None, a] & positive[:, None, :, b]
            if a != b and bool(meets.diagonal(dim1=1, dim2=2).any()):
                return None
            together = together | meets
    return together


def _of_inputs(level: InputLevel, prepared: Any, variables: int, values: int) -> Bool[Tensor, "F K D V"]:
    device = level.rows.device
    found = torch.ones(level.num_rows, level.num_units, variables, values, dtype=torch.bool, device=device)
    if isinstance(level.family, Discrete):
        possible = (prepared.linear > 0).mT[level.rows]
        own = torch.zeros(level.num_rows, level.num_units, values, dtype=torch.bool, device=device)
        own[..., : possible.shape[-1]] = possible
        found[torch.arange(level.num_rows, device=device), :, list(level.variables)] = own
    return found


def _product(kind: str, children: list[Tensor]) -> Bool[Tensor, "F J D V"]:
    first, *rest = children
    if kind == "kronecker":
        return (first.unsqueeze(2) & rest[0].unsqueeze(1)).flatten(1, 2)
    for child in rest:
        first = first & child
    return first


def _gather(g: Gather, allowed: list[Tensor]) -> Tensor:
    joined = torch.cat([take(allowed[part.level], part.index) for part in g.parts])
    return joined if g.order is None else joined.index_select(0, g.order)
