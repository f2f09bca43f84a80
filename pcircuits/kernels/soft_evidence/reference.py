"""The definition of discrete inputs under soft evidence, over all categories or over the few that are given.

Linear weights are `exp(log_weights - peak)`, with each sample's largest as its peak; peaks have no gradient.
"""

from pcircuits.kernels.guarded import finite
from pcircuits.types import Float, Int, Tensor


def soft_values(
    table: Float[Tensor, "G V K"], rows: Int[Tensor, " F"], log_weights: Float[Tensor, "F B V"]
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
    """`out[f,b,k] = sum_v weights[f,b,v] table[rows[f],v,k]`, and the peaks."""
    weights, peaks = _linear(log_weights)
    return weights @ table[rows], peaks


def soft_posterior(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B V"],
    shares: Float[Tensor, "F B K"],
) -> Float[Tensor, "F B V"]:
    """`out[f,b,v] = weights[f,b,v] sum_k shares[f,b,k] table[rows[f],v,k]`: the flow-weighted conditional of the
    variable, where a share is a unit's flow divided by its value; and the gradient of the values in the log weights.
    """
    return _linear(log_weights)[0] * (shares @ table[rows].mT)


def soft_counts(
    log_weights: Float[Tensor, "F B V"], rows: Int[Tensor, " F"], shares: Float[Tensor, "F B K"], num_groups: int
) -> Float[Tensor, "G V K"]:
    """`out[g,v,k] = sum_b weights[f,b,v] shares[f,b,k]` over the rows of a group: times the table, expected counts."""
    per_row = _linear(log_weights)[0].mT @ shares
    return per_row.new_zeros(num_groups, *per_row.shape[1:]).index_add(0, rows, per_row)


def top_values(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B C"],
    categories: Int[Tensor, "F B C"],
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
    """As `soft_values`, of weights that are zero but at `categories`."""
    weights, peaks = _linear(log_weights)
    return (weights.unsqueeze(-1) * _at(table, rows, categories)).sum(2), peaks


def top_posterior(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B C"],
    categories: Int[Tensor, "F B C"],
    shares: Float[Tensor, "F B K"],
) -> Float[Tensor, "F B C"]:
    """As `soft_posterior`, at `categories`."""
    return _linear(log_weights)[0] * (_at(table, rows, categories) * shares.unsqueeze(2)).sum(-1)


def top_counts(
    log_weights: Float[Tensor, "F B C"],
    categories: Int[Tensor, "F B C"],
    rows: Int[Tensor, " F"],
    shares: Float[Tensor, "F B K"],
    num_groups: int,
    num_categories: int,
) -> Float[Tensor, "G V K"]:
    """As `soft_counts`, of weights that are zero but at `categories`."""
    index = rows.view(-1, 1, 1) * num_categories + categories
    terms = _linear(log_weights)[0].unsqueeze(-1) * shares.unsqueeze(2)
    found = shares.new_zeros(num_groups * num_categories, shares.shape[-1])
    return found.index_add(0, index.flatten(), terms.flatten(0, 2)).view(num_groups, num_categories, -1)


def _at(table: Tensor, rows: Tensor, categories: Tensor) -> Float[Tensor, "F B C K"]:
    index = rows.view(-1, 1, 1) * table.shape[1] + categories
    return table.flatten(0, 1).index_select(0, index.flatten()).view(*categories.shape, -1)


def _linear(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    peaks = finite(log_weights.detach().amax(-1))
    return (log_weights - peaks.unsqueeze(-1)).exp(), peaks
