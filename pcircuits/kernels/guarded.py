"""Arithmetic with a defined value, and a defined gradient, where a plain formula would give NaN."""

import torch

from pcircuits.types import Float, Tensor


def finite(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`x`, and 0 where it is `-inf`: a peak that can be subtracted."""
    return torch.where(x.isneginf(), 0.0, x)


LEAST_DENOMINATOR = {torch.float32: 1e-30, torch.float64: 1e-290}


def ratio(
    numerator: Float[Tensor, "..."], denominator: Float[Tensor, "..."], *, out: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """`numerator / denominator`, and 0 where the denominator is 0.

    With `out`, `numerator / max(denominator, 1e-30)` (1e-290 in float64): for numerators that vanish where the
    denominator does, and denominators whose share below 1e-30 does not count.
    """
    if out is not None:
        return torch.div(
            numerator, torch.clamp_min(denominator, LEAST_DENOMINATOR[denominator.dtype], out=out), out=out
        )
    possible = denominator > 0
    return torch.where(possible, numerator / torch.where(possible, denominator, 1.0), 0.0)


def logsumexp(terms: Float[Tensor, "... J"]) -> Float[Tensor, "..."]:
    """log-sum-exp over the last axis whose gradient is zero, not NaN, where every term is `-inf`."""
    peak = finite(terms.detach().amax(-1, keepdim=True))
    total = (terms - peak).exp().sum(-1)
    possible = total > 0
    return torch.where(possible, torch.where(possible, total, 1.0).log() + peak.squeeze(-1), -torch.inf)
