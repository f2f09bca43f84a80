"""The definition of a sum whose weights differ from sample to sample by a matrix of low rank."""

from pcircuits.types import Float, Tensor


def low_rank_sum(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F B O R"],
    right: Float[Tensor, "F B J R"],
    values: Float[Tensor, "F B J"],
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_j (weights[f,o,j] + sum_r left[f,b,o,r] right[f,b,j,r]) values[f,b,j]`."""
    inner = (right * values.unsqueeze(-1)).sum(2)
    return values @ weights.mT + (left * inner.unsqueeze(2)).sum(-1)
