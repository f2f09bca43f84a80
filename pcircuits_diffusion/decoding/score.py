"""Which positions a step commits: those with the highest scores.

A score sees probabilities (B, L, V), untempered, and the tokens proposed (B, L). Names as in LLaDA; in Dream they are
`origin` (random), `maskgit_plus` (low_confidence), `topk_margin` (margin) and `entropy`.
"""

from collections.abc import Callable

import torch

from pcircuits.types import Bool, Float, Int, Tensor

Score = Callable[[Float[Tensor, "B L V"], Int[Tensor, "B L"], torch.Generator | None], Float[Tensor, "B L"]]


def random(probabilities: Tensor, proposed: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform on [0, 1)."""
    return torch.rand(proposed.shape, device=proposed.device, generator=generator)


def low_confidence(probabilities: Tensor, proposed: Tensor, generator: torch.Generator | None) -> Tensor:
    """`p(x_i)` of the proposed token: what has low confidence stays masked."""
    return probabilities.gather(-1, proposed.unsqueeze(-1)).squeeze(-1)


def margin(probabilities: Tensor, proposed: Tensor, generator: torch.Generator | None) -> Tensor:
    """`p1 - p2` of the two most likely tokens."""
    best = probabilities.topk(2, -1).values
    return best[..., 0] - best[..., 1]


def entropy(probabilities: Tensor, proposed: Tensor, generator: torch.Generator | None) -> Tensor:
    """`sum_v p log p`, the negative entropy."""
    return -torch.special.entr(probabilities).sum(-1)


SCORES: dict[str, Score] = {
    "low_confidence": low_confidence,
    "random": random,
    "margin": margin,
    "entropy": entropy,
}


def best(scores: Float[Tensor, "B L"], allowed: Bool[Tensor, "B L"], counts: Int[Tensor, " B"]) -> Bool[Tensor, "B L"]:
    """The `counts[b]` allowed positions of row b with the highest scores; of equal scores the first position wins."""
    order = scores.masked_fill(~allowed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return (order.argsort(-1) < counts.unsqueeze(-1)) & allowed
