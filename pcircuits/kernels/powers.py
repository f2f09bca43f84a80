"""Powers of two: scales that are exact, and whose logarithm costs nothing."""

import math

import torch

from pcircuits.types import Float, Tensor

_LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}  # mantissa bits, bias


def power_below(
    x: Float[Tensor, "..."],
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """The reciprocal of the largest power of two that is at most `x`, and that power's logarithm in float64.

    It is read off the exponent. `x` is at most 2^100 and not negative; what is below the least normal number counts as
    that number.
    """
    integer, mantissa, bias = _LAYOUT[x.dtype]
    exponent = x.clamp_min(torch.finfo(x.dtype).tiny).view(integer).bitwise_right_shift_(mantissa)
    reciprocal = (2 * bias - exponent).bitwise_left_shift_(mantissa).view(x.dtype)
    return reciprocal, exponent.double().sub_(bias).mul_(math.log(2.0))
