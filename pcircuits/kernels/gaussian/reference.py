"""The definition of Gaussian inputs: scaled likelihoods and expected moments."""

import math

import torch

from pcircuits.kernels.guarded import finite
from pcircuits.types import Bool, Float, Int, Tensor


def gaussian_values(
    mean: Float[Tensor, "G K"],
    std: Float[Tensor, "G K"],
    rows: Int[Tensor, " F"],
    values: Float[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
    """Densities of each unit, 1 where nothing is observed, divided by the largest of the sample's, and its logarithm,
    which has no gradient. Values far off have log densities of many digits: give `values` in float64.
    """
    score = (values.unsqueeze(-1) - mean[rows].unsqueeze(1)) / std[rows].unsqueeze(1)
    log_density = -std.log()[rows].unsqueeze(1) - 0.5 * math.log(2 * math.pi) - 0.5 * score.square()
    log_density = torch.where(observed.unsqueeze(-1), log_density, 0.0)
    peaks = finite(log_density.detach().amax(-1))
    return (log_density - peaks.unsqueeze(-1)).exp().to(mean.dtype), peaks


def gaussian_counts(
    mean: Float[Tensor, "G K"],
    std: Float[Tensor, "G K"],
    rows: Int[Tensor, " F"],
    values: Float[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
    flows: Float[Tensor, "F B K"],
) -> Float[Tensor, "G K 3"]:
    """Flows times 1, z and z^2, added up over rows and batch, with `z = (x - mean) / std`: expected 0 and 1 where
    nothing is observed. `moments_of` makes them moments of x.
    """
    score = ((values.unsqueeze(-1) - mean[rows].unsqueeze(1)) / std[rows].unsqueeze(1)).to(flows.dtype)
    first = torch.where(observed.unsqueeze(-1), score, 0.0)
    second = torch.where(observed.unsqueeze(-1), score.square(), 1.0)
    per_row = torch.stack([flows.sum(1), (flows * first).sum(1), (flows * second).sum(1)], -1)
    return flows.new_zeros(*mean.shape, 3).index_add(0, rows, per_row)


def moments_of(
    counts: Float[Tensor, "G K 3"], mean: Float[Tensor, "G K"], std: Float[Tensor, "G K"]
) -> Float[Tensor, "G K 3"]:
    """Flows times 1, x and x^2 from those times 1, z and z^2; nothing is subtracted, so no digits are lost."""
    zeroth, first, second = counts.unbind(-1)
    square = mean.square() * zeroth + 2 * mean * std * first + std.square() * second
    return torch.stack([zeroth, mean * zeroth + std * first, square], -1)
