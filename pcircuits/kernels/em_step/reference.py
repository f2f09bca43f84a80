"""The definition of an EM step. Derivation: the README beside this file."""

import torch

from pcircuits.types import Bool, Float, Tensor

# What learning may shrink a supported probability to: an exact zero would leave gradient learners no way back.
LEAST_PROBABILITY = 1e-37
LEAST_COUNT = 1e-37  # a unit with a smaller expected count was never reached

_ROUNDING = {torch.float32: 4e-6, torch.float64: 1e-13}  # of a row of logarithms, their sum taken over its exponentials


def em_step(
    counts: Float[Tensor, "F I J"],
    old: Float[Tensor, "F I J"],
    support: Bool[Tensor, "#F #I J"] | None,
    *,
    dim: int,
    pseudocount: float,
    relative: bool,
    step: float,
) -> Float[Tensor, "F I J"]:
    """New probabilities over axis `dim`; a unit that was never reached keeps its old ones."""
    allowed = torch.ones_like(counts) if support is None else support.to(counts.dtype)
    total = counts.sum(dim, keepdim=True)
    extra = pseudocount * (total if relative else 1.0)
    estimate = (counts + extra * allowed / allowed.sum(dim, keepdim=True)) / (total + extra).clamp_min(LEAST_COUNT)
    return torch.where(total > LEAST_COUNT, (1 - step) * old + step * estimate, old)


def probabilities(logits: Float[Tensor, "F I J"], dim: int) -> Float[Tensor, "F I J"]:
    """`softmax(logits)`. Logarithms that are normalised to rounding are just raised: what an EM step stored comes back
    bit by bit.
    """
    raised = logits.exp()
    if (raised.sum(dim) - 1).abs().amax() < _ROUNDING[logits.dtype]:
        return raised
    del raised
    return logits.log_softmax(dim).exp_()
