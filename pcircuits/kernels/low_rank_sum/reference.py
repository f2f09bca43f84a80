"""The definition of a sum whose weights are multiplied, sample by sample, by a matrix of low rank."""

import torch

from pcircuits.kernels.guarded import ratio
from pcircuits.types import Float, Tensor


def low_rank_sum(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F R B O"],
    right: Float[Tensor, "F R B J"],
    values: Float[Tensor, "F B J"],
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_j gate[f,b,o,j] weights[f,o,j] values[f,b,j]`, `gate[f,b,o,j] = sum_r left[f,r,b,o]
    right[f,r,b,j]`.
    """
    rank, batch = left.shape[1:3]
    sums = torch.bmm((right * values.unsqueeze(1)).flatten(1, 2), weights.mT)
    return (left * sums.unflatten(1, (rank, batch))).sum(1)


def low_rank_sum_flow(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F R B O"],
    right: Float[Tensor, "F R B J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """Flows of the inputs and, if asked for, expected counts of the weights summed over the batch."""
    share = ratio(flows, outputs)
    input_flows = values * low_rank_sum(weights.mT, right, left, share)
    if not count:
        return input_flows, None
    above, below = (left * share.unsqueeze(1)).flatten(1, 2), (right * values.unsqueeze(1)).flatten(1, 2)
    return input_flows, weights * torch.bmm(above.mT, below)
