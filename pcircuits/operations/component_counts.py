"""Expected counts of a mixture's plan, as counts of the groups that its components' parameters lie in."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from pcircuits.plan import Plan
from pcircuits.statistics import Counts, add_to
from pcircuits.types import Int, Shaped, Tensor


class ComponentRecipe(NamedTuple):
    """The component that a block comes from, and its group and row there."""

    component: int
    group: str
    row: int


def origin(recipe: ComponentRecipe | None) -> tuple[int, str]:
    """Component and group."""
    assert recipe is not None
    return recipe.component, recipe.group


def counts_by_component(
    counts: Counts, recipes: Mapping[str, Sequence[ComponentRecipe]], plans: Sequence[Plan]
) -> list[Counts]:
    """The counts of each component, by the groups of its plan; `recipes` say where the rows of `counts` come from."""
    each: list[Counts] = [{} for _ in plans]
    for name, of_rows in recipes.items():
        start = 0
        for (component, group), run in groupby(of_rows, key=origin):
            rows = torch.tensor([recipe.row for recipe in run])
            part = slice(start, start := start + len(rows))
            size = plans[component].groups[group].rows
            found = {key: _spread(value[part], rows, size) for key, value in counts[name].items()}
            add_to(each[component], group, found)
    return each


def _spread(x: Shaped[Tensor, "F *S"], rows: Int[Tensor, " F"], size: int) -> Shaped[Tensor, "G *S"]:
    return x.new_zeros(size, *x.shape[1:]).index_add(0, rows.to(x.device), x)
