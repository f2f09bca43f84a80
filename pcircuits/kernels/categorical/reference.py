"""The definition of categorical inputs under hard evidence: a gather of values, a scatter of counts."""

import torch

from pcircuits.types import Bool, Float, Int, Tensor


def categorical_values(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    values: Int[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
) -> Float[Tensor, "F B K"]:
    """`out[f,b] = table[rows[f], values[f,b]]`, and 1 where nothing is observed."""
    index = rows.unsqueeze(1) * table.shape[1] + torch.where(observed, values, 0)
    found = table.flatten(0, 1).index_select(0, index.flatten()).view(*values.shape, -1)
    return found if observed.all() else torch.where(observed.unsqueeze(-1), found, 1.0)


def categorical_counts(
    flows: Float[Tensor, "F B K"],
    rows: Int[Tensor, " F"],
    values: Int[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
    num_groups: int,
    num_categories: int,
) -> Float[Tensor, "G V K"]:
    """`out[g,v] = sum of flows[f,b]` over the observed `(f, b)` with `rows[f] == g` and `values[f,b] == v`."""
    index = rows.unsqueeze(1) * num_categories + torch.where(observed, values, 0)
    kept = torch.where(observed.unsqueeze(-1), flows, 0.0).flatten(0, 1)
    out = flows.new_zeros(num_groups * num_categories, flows.shape[-1])
    return out.index_add(0, index.flatten(), kept).view(num_groups, num_categories, -1)
