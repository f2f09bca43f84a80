"""The definition of a chain segment: equal steps with tied weights, each a product, a rescale and a sum."""

from typing import NamedTuple

import torch

from pcircuits.kernels.guarded import ratio
from pcircuits.types import Float, Tensor


class Chain(NamedTuple):
    """Of each step: `values exp(scales)`, and the largest entry of its product before it was rescaled."""

    values: Float[Tensor, "T B H"]
    scales: Float[Tensor, "T B"]
    peaks: Float[Tensor, "T B"]


def chain(
    weights: Float[Tensor, "H H"],
    inputs: Float[Tensor, "T B H"],
    input_scales: Float[Tensor, "T B"],
    start: Float[Tensor, "B H"],
    start_scale: Float[Tensor, " B"],
) -> Chain:
    """`values[t] = weights (x / max x)` with `x = inputs[t] values[t - 1]`, and `values[-1] = start`.

    Scales are float64 and have no gradient.
    """
    values, scales, peaks = [start], [start_scale.detach().double()], []
    for given, scale in zip(inputs, input_scales.detach().double(), strict=True):
        x = given * values[-1]
        peaks.append(x.detach().amax(-1))
        safe = torch.where(peaks[-1] > 0, peaks[-1], 1.0)
        values.append((x / safe.unsqueeze(-1)) @ weights.mT)
        scales.append(scales[-1] + scale + safe.double().log())
    return Chain(torch.stack(values[1:]), torch.stack(scales[1:]), torch.stack(peaks))


def chain_flow(
    weights: Float[Tensor, "H H"],
    inputs: Float[Tensor, "T B H"],
    start: Float[Tensor, "B H"],
    values: Float[Tensor, "T B H"],
    flows: Float[Tensor, "B H"],
    *,
    count: bool,
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "H H"] | None]:
    """From flows of the last values: flows of every step's product, which are those of its input and of the values
    before it, and, if asked for, expected counts of the weights.
    """
    before, found = torch.cat([start.unsqueeze(0), values[:-1]]), []
    counts = torch.zeros_like(weights) if count else None
    for given, last, out in zip(inputs.flip(0), before.flip(0), values.flip(0), strict=True):
        x, share = given * last, ratio(flows, out)
        peak = x.detach().amax(-1, keepdim=True)
        x = x / torch.where(peak > 0, peak, 1.0)
        counts = None if counts is None else counts + weights * (share.mT @ x)
        flows = x * (share @ weights)
        found.append(flows)
    return torch.stack(found[::-1]), counts
