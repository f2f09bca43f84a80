"""How many positions a step commits.

Schedules say so before the backbone is called. Adaptive rules look at the proposals, and accept some in order of score.
Every row counts for itself. Axes: B rows, L open positions in order of score, best first.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.decoding.score import Candidates

DREAM_EPS = 1e-3


class Ranking(NamedTuple):
    """What an adaptive rule sees: the proposals, and the positions in order of score, the `sizes` open ones first.

    `log_joint(n)`: exact log probability of each row's first n proposals jointly, all other positions summed out.
    `stable` (B, L): positions whose predictions have settled, see `Drift`; None where the rule does not ask.
    """

    candidates: Candidates
    order: Int[Tensor, "B L"]
    sizes: Int[Tensor, " B"]
    log_joint: Callable[[Tensor], Tensor]
    stable: Bool[Tensor, "B L"] | None = None

    @property
    def confidence(self) -> Float[Tensor, "B L"]:
        """Probability of the proposed token, best position first."""
        return self.candidates.confidence.gather(-1, self.order)

    @property
    def entropy(self) -> Float[Tensor, "B L"]:
        """Entropy of the position in nats, best position first."""
        return self.candidates.entropy.gather(-1, self.order)


# --- schedules: undecided positions, number of this step, of all steps, and a generator, to a count ---

Schedule = Callable[[Tensor, int, Tensor, torch.Generator | None], Tensor]


def linear(undecided: Tensor, step: int, steps: Tensor, generator: torch.Generator | None) -> Tensor:
    """`ceil(n / steps left)`: asked before every step, LLaDA's `n // steps` each and the remainder to the first."""
    return -(-undecided // (steps - step))


def cosine(undecided: Tensor, step: int, steps: Tensor, generator: torch.Generator | None) -> Tensor:
    """`round(n (1 - r(s) / r(t)))` with `r(t) = cos(pi/2 (1 - t))` masked at time t (Chang et al. 2022; dllm)."""

    def masked(done: int) -> Tensor:
        return torch.cos(0.5 * math.pi * done / steps.double())

    return (undecided * (1 - masked(step + 1) / masked(step))).round().long()


def dream(undecided: Tensor, step: int, steps: Tensor, generator: torch.Generator | None) -> Tensor:
    """`int(n (1 - s / t))` at times from 1 down to 0.001 (Dream's `diffusion_generate`)."""
    t, s = (1 - (1 - DREAM_EPS) * done / steps.double() for done in (step, step + 1))
    return (undecided * (1 - s / t)).long()


def binomial(undecided: Tensor, step: int, steps: Tensor, generator: torch.Generator | None) -> Tensor:
    """Each position with probability `(t - s) / t`; in random order this is MDLM's ancestral sampling."""
    return torch.binomial(undecided.double(), 1 / (steps - step).double(), generator=generator).long()


def first_hitting(undecided: Tensor, step: int, steps: Tensor, generator: torch.Generator | None) -> Tensor:
    """One; in random order this is first-hitting sampling (Zheng et al. 2024; BD3-LM), in which time plays no part."""
    return torch.ones_like(undecided)


SCHEDULES: dict[str, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "dream": dream,
    "binomial": binomial,
    "first_hitting": first_hitting,
}

# --- adaptive rules: a ranking and a bound, to the ranks accepted; the first one is committed in any case ---

Adaptive = Callable[[Ranking, float], Tensor]


def threshold(ranking: Ranking, bound: float) -> Bool[Tensor, "B L"]:
    """All with confidence at least tau (Fast-dLLM's `threshold`, Dream's `confidence_threshold`)."""
    return ranking.confidence >= bound


def factor(ranking: Ranking, bound: float) -> Bool[Tensor, "B L"]:
    """Ranks r = 1, 2, ... as long as `confidence_r >= 1 - factor / (r + 1)` (Fast-dLLM's `factor`)."""
    ranks = 1 + torch.arange(ranking.order.shape[-1], device=ranking.order.device)
    fits = ranking.confidence >= 1 - bound / (ranks + 1)
    return (fits | (ranks == 1)).long().cumprod(-1).bool()


def entropy_bounded(ranking: Ranking, bound: float) -> Bool[Tensor, "B L"]:
    """The longest prefix with `sum_i H_i - max_i H_i <= gamma` (EB sampler, Ben-Hamu et al. 2025)."""
    return ranking.entropy.cumsum(-1) - ranking.entropy.cummax(-1).values <= bound


def klass(ranking: Ranking, bound: float) -> Bool[Tensor, "B L"]:
    """All with confidence at least tau whose predictions have settled: in each of the last `history` steps they moved
    by no more than `drift` nats of KL divergence (KLASS, Kim et al. 2025).
    """
    accepted = ranking.confidence >= bound
    return accepted if ranking.stable is None else accepted & ranking.stable.gather(-1, ranking.order)


def joint_confidence(ranking: Ranking, bound: float) -> Bool[Tensor, "B L"]:
    """The longest prefix of which the exact joint probability is at least tau, found by bisection: it only falls.

    Above tau = 1/2 what is committed is certainly the most probable assignment of its positions.
    """
    low, high = torch.ones_like(ranking.sizes), ranking.sizes.clone()
    while (searching := low < high).any():
        middle = (low + high + 1) // 2
        fits = ranking.log_joint(middle) >= (math.log(bound) if bound > 0 else -math.inf)
        low = torch.where(searching & fits, middle, low)
        high = torch.where(searching & ~fits, middle - 1, high)
    return torch.arange(ranking.order.shape[-1], device=low.device) < low.unsqueeze(-1)


class AdaptiveRule(NamedTuple):
    """A rule, the bound it has by default, and the largest that means anything."""

    accept: Adaptive
    default: float
    largest: float


ADAPTIVE: dict[str, AdaptiveRule] = {
    "threshold": AdaptiveRule(threshold, 0.9, 1.0),
    "factor": AdaptiveRule(factor, 1.0, math.inf),
    "entropy_bounded": AdaptiveRule(entropy_bounded, 0.1, math.inf),
    "klass": AdaptiveRule(klass, 0.9, 1.0),
    "joint_confidence": AdaptiveRule(joint_confidence, 0.5, 1.0),
}
QUOTAS = (*SCHEDULES, *ADAPTIVE)


def least(
    quota: str,
    undecided: Int[Tensor, " B"],
    step: int,
    steps: Int[Tensor, " B"] | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " B"]:
    """How many positions are committed whatever the proposals are: a schedule's count, one of an adaptive rule; in the
    last step all.
    """
    if steps is None:
        return torch.ones_like(undecided)
    schedule = SCHEDULES.get(quota, first_hitting)
    counts = schedule(undecided, step, steps, generator).clamp(max=undecided)
    return torch.where(steps - step <= 1, undecided, counts)


def spread(steps: int, num_blocks: int) -> list[int]:
    """Steps of each block: `steps // num_blocks`, the remainder one each to the first blocks.

    >>> spread(10, 4)
    [3, 3, 2, 2]

    Raises:
        pc.ParameterError: fewer steps than blocks.
    """
    if steps < num_blocks:
        raise pc.ParameterError(
            f"{num_blocks} blocks need at least {num_blocks} steps, got {steps}; ask for more steps or fewer tokens"
        )
    size, rest = divmod(steps, num_blocks)
    return [size + (block < rest) for block in range(num_blocks)]
