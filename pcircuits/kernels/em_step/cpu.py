"""An EM step in place, in pieces that stay in the cache."""

import torch

from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.em_step.reference import LEAST_COUNT, LEAST_PROBABILITY
from pcircuits.types import Bool, Float, Tensor

_PIECE = 1 << 17  # entries


def em_step(
    counts: Float[Tensor, "F I J"],
    linear: Float[Tensor, "F I J"],
    log: Float[Tensor, "F I J"],
    support: Bool[Tensor, "#F I J"] | None,
    *,
    dim: int,
    pseudocount: float,
    relative: bool,
    step: float,
) -> None:
    """`linear` holds probabilities over axis `dim` (1 or 2) and becomes the new ones, `log` their logarithms."""
    shape = counts.shape
    children = counts.new_tensor([[[shape[dim]]]]) if support is None else support.sum(dim, keepdim=True)
    children = children.expand(len(counts), -1, -1)
    for rows in chunks(shape[0], shape[1] * shape[2], _PIECE):
        total = counts[rows].sum(dim, keepdim=True)
        extra = total * pseudocount if relative else torch.full_like(total, pseudocount)
        reached = total > LEAST_COUNT
        gain = torch.where(reached, step / (total + extra).clamp_min(LEAST_COUNT), 0.0)
        terms = (
            torch.where(reached, 1 - step, 1.0),
            gain,
            gain * extra / children[rows],
        )
        _apply(counts[rows], linear[rows], log[rows], terms, pseudocount > 0)
    if support is not None:
        linear.mul_(support)


def _apply(counts: Tensor, linear: Tensor, log: Tensor, terms: tuple[Tensor, Tensor, Tensor], smooth: bool) -> None:
    """`linear <- a linear + b counts + c`, never below the least probability, and its logarithm."""
    rows, middle, last = counts.shape
    keep, gain, constant = (term.expand_as(counts) for term in terms)
    for part in chunks(middle, rows * last, _PIECE):
        new = linear[:, part]
        new.mul_(keep[:, part]).addcmul_(counts[:, part], gain[:, part])
        if smooth:
            new.add_(constant[:, part])
        new.clamp_min_(LEAST_PROBABILITY)
        torch.exp(torch.log(new, out=log[:, part]), out=new)
