"""Exactness: at temperature 1 and in random order, whatever the quota, a text has the probability that the exact
conditionals of its steps multiply to. Everything by enumeration.
"""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from math import comb
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import MASK, VOCAB, all_blocks, hmm

LENGTH, SAMPLES = 3, 5_000
TEXTS = all_blocks(LENGTH, VOCAB)
Positions = frozenset[int]
QUOTAS: dict[str, dict[str, Any]] = {
    "linear": {"steps": 2},
    "cosine": {"steps": 2},
    "dream": {"steps": 3},
    "binomial": {"steps": 2},
    "first_hitting": {"steps": None},
}


@cache
def contextual_backbone() -> CallableBackbone:
    """Predictions that depend on the tokens around: on the one before, and on how many are masked."""
    generator = torch.Generator().manual_seed(5)
    own = 0.3 * torch.randn(LENGTH, VOCAB, generator=generator)
    before = 0.8 * torch.randn(VOCAB + 1, VOCAB, generator=generator)
    count = 0.3 * torch.randn(LENGTH + 1, VOCAB, generator=generator)

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        block = tokens[:, -LENGTH:]
        found = torch.zeros(*tokens.shape, VOCAB)
        masked = (block == MASK).sum(-1)
        found[:, -LENGTH:] = own + before[block.roll(1, -1)] + count[masked].unsqueeze(1)
        return found

    return CallableBackbone(logits, VOCAB, MASK)


def subsets(masked: Positions, size: int) -> list[Positions]:
    return [frozenset(chosen) for chosen in combinations(sorted(masked), size)]


def revealed(quota: str, masked: Positions, step: int) -> list[tuple[Positions, float]]:
    """What a step reveals, in random order, with its probability."""
    n = len(masked)
    if quota == "binomial":
        p = [1 / 2, 1.0][step]
        return [(s, p**k * (1 - p) ** (n - k)) for k in range(n + 1) for s in subsets(masked, k)]
    sizes = {"linear": [2, 1], "cosine": [1, 2], "dream": [0, 1, 2], "first_hitting": [1, 1, 1]}[quota]
    return [(s, 1 / comb(n, sizes[step])) for s in subsets(masked, sizes[step])]


def law_of(quota: str, conditional: Callable[[Positions, Positions, int], float]) -> torch.Tensor:
    """(V^L,) probability of every text; `conditional(known, revealed, text)` is one step's."""

    def total(masked: Positions, step: int, text: int) -> float:
        if not masked:
            return 1.0
        known = frozenset(range(LENGTH)) - masked
        return sum(
            p * (conditional(known, chosen, text) if chosen else 1.0) * total(masked - chosen, step + 1, text)
            for chosen, p in revealed(quota, masked, step)
            if p > 0
        )

    everything = frozenset(range(LENGTH))
    return torch.tensor([total(everything, 0, text) for text in range(len(TEXTS))], dtype=torch.float64)


@cache
def head_of(model: str) -> CoupledHead | None:
    return None if model == "alone" else CoupledHead(hmm(length=LENGTH), coupling=model)


@cache
def joint(model: str, known: Positions, values: tuple[int, ...]) -> torch.Tensor:
    """(V^L,) probabilities of all texts in one step, from the joint probability of each."""
    tokens = torch.full((1, 1 + LENGTH), MASK)
    tokens[0, 0] = 0
    for position, value in zip(sorted(known), values, strict=True):
        tokens[0, 1 + position] = value
    logs = contextual_backbone().log_marginals(tokens)[:, 1:]
    block, mask = tokens[:, 1:], tokens[:, 1:] == MASK
    if (head := head_of(model)) is not None:
        return head(logs, None, block, mask).log_prob(TEXTS.unsqueeze(1)).squeeze(1).exp().detach()
    scores = logs[0].double().gather(1, TEXTS.T).masked_fill(~mask[0].unsqueeze(-1), 0.0).sum(0).exp()
    return scores * ((block == TEXTS) | mask).all(-1)


def exact_conditional(model: str) -> Callable[[Positions, Positions, int], float]:
    """`p(x_revealed | x_known)` from the joint probabilities of all completions, for one step's predictions."""

    @cache
    def conditional(known: Positions, chosen: Positions, text: int) -> float:
        columns = sorted(known | chosen)
        probabilities = joint(model, known, tuple(TEXTS[text, sorted(known)].tolist()))
        return probabilities[(TEXTS[:, columns] == TEXTS[text, columns]).all(-1)].sum().item()

    return conditional


def p_value(drawn: torch.Tensor, law: torch.Tensor) -> float:
    """Chi-square test; texts that are expected fewer than five times count together."""
    counted = torch.bincount((drawn * VOCAB ** torch.arange(LENGTH - 1, -1, -1)).sum(-1), minlength=len(TEXTS)).double()
    expected = law / law.sum() * len(drawn)
    rare = expected < 5
    seen = torch.cat([counted[~rare], counted[rare].sum().view(1)])
    wanted = torch.cat([expected[~rare], expected[rare].sum().view(1)])
    return float(chisquare(seen[wanted > 0].numpy(), wanted[wanted > 0].numpy()).pvalue)


CASES = [
    *[(quota, model, "latent") for quota in QUOTAS for model in ("product", "projected", "alone")],
    *[(quota, model, "any_order") for quota in ("linear", "binomial") for model in ("product", "projected")],
]


@pytest.mark.parametrize(("quota", "model", "sampling"), CASES)
def test_texts_have_the_law_of_their_steps(quota: str, model: str, sampling: str) -> None:
    law = law_of(quota, exact_conditional(model))
    assert law.sum() == pytest.approx(1, abs=1e-5)
    drawn = CoupledDiffusion(contextual_backbone(), head_of(model)).generate(
        torch.zeros(SAMPLES, 1, dtype=torch.long), max_new_tokens=LENGTH, block_length=LENGTH, quota=quota,
        remasking="random", sampling=sampling, generator=torch.Generator().manual_seed(1), **QUOTAS[quota],
    ).tokens  # fmt: skip
    assert p_value(drawn, law) > 1e-3
    if quota == "linear":
        other = law_of(quota, exact_conditional("product" if model == "alone" else "alone"))
        assert p_value(drawn, other) < 1e-6, "the test tells the models apart"
