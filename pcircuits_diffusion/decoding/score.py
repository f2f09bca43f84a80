"""Which positions a step commits: those with the highest scores.

Names as in LLaDA and dllm; in Dream they are `origin` (random), `maskgit_plus` (low_confidence), `topk_margin` (margin)
and `entropy`. Axes: B rows, L positions, V tokens.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from pcircuits.types import Bool, Float, Int, Tensor


class Candidates:
    """Proposed tokens (B, L), and probabilities (B, L, V) that are worked out once a score asks for them.

    A token in `suppressed` counts as impossible here, and a position that proposes one comes last whatever its score:
    LLaDA's `confidence_eos_eot_inf`, which has no effect there once the token is drawn.
    """

    def __init__(
        self, tokens: Int[Tensor, "B L"], probabilities: Callable[[], Tensor], suppressed: Sequence[int] = ()
    ) -> None:
        self.tokens, self._probabilities = tokens, probabilities
        self.suppressed = torch.tensor(suppressed, dtype=torch.long, device=tokens.device)

    @cached_property
    def probabilities(self) -> Float[Tensor, "B L V"]:
        found = self._probabilities()
        if not len(self.suppressed):
            return found
        kept = found.index_fill(-1, self.suppressed, 0.0)
        return kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)

    @cached_property
    def confidence(self) -> Float[Tensor, "B L"]:
        return self.probabilities.gather(-1, self.tokens.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def entropy(self) -> Float[Tensor, "B L"]:
        return torch.special.entr(self.probabilities).sum(-1)

    @property
    def last(self) -> Bool[Tensor, "B L"]:
        return torch.isin(self.tokens, self.suppressed)


Score = Callable[[Candidates, torch.Generator | None], Tensor]


def low_confidence(candidates: Candidates, generator: torch.Generator | None) -> Float[Tensor, "B L"]:
    """`p(x_i)` of the proposed token: what has low confidence stays masked."""
    return candidates.confidence


def random(candidates: Candidates, generator: torch.Generator | None) -> Float[Tensor, "B L"]:
    """Uniform on [0, 1)."""
    return torch.rand(candidates.tokens.shape, device=candidates.tokens.device, generator=generator)


def margin(candidates: Candidates, generator: torch.Generator | None) -> Float[Tensor, "B L"]:
    """`p1 - p2` of the two most likely tokens."""
    best = candidates.probabilities.topk(2, -1).values
    return best[..., 0] - best[..., 1]


def entropy(candidates: Candidates, generator: torch.Generator | None) -> Float[Tensor, "B L"]:
    """`sum_v p log p`, the negative entropy."""
    return -candidates.entropy


def top_prob(candidates: Candidates, generator: torch.Generator | None) -> Float[Tensor, "B L"]:
    """`max_v p(v)`, whichever token is proposed."""
    return candidates.probabilities.amax(-1)


def left_to_right(candidates: Candidates, generator: torch.Generator | None) -> Float[Tensor, "B L"]:
    """The first open position first."""
    return (
        -torch.arange(candidates.tokens.shape[-1], device=candidates.tokens.device)
        .expand_as(candidates.tokens)
        .double()
    )


SCORES: dict[str, Score] = {
    "low_confidence": low_confidence,
    "random": random,
    "margin": margin,
    "entropy": entropy,
    "top_prob": top_prob,
    "left_to_right": left_to_right,
}


def perturb(
    scores: Float[Tensor, "B L"], temperature: float, generator: torch.Generator | None
) -> Float[Tensor, "B L"]:
    """`score / temperature` plus Gumbel noise: the best n are then n draws from `softmax(score / temperature)` without
    replacement (Dream's `alg_temp`). At 0 the scores are left alone.
    """
    if temperature == 0:
        return scores
    uniform = torch.rand(scores.shape, dtype=torch.float64, device=scores.device, generator=generator)
    return scores.double() / temperature - (-uniform.log()).log()


def rank(scores: Float[Tensor, "B L"], allowed: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Positions with the allowed ones first, in order of falling score; of equal scores the first position wins."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    closed = ~allowed.gather(-1, order)
    return order.gather(-1, closed.long().argsort(dim=-1, stable=True))
