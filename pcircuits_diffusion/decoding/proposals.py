"""What a step commits: positions and their tokens, drawn jointly. One function a sampler.

Axes: B rows, L positions of the block, V tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints import ConstrainedPosterior
from pcircuits_diffusion.coupling import CoupledPosterior, Independent
from pcircuits_diffusion.decoding.score import SCORES, best

Distribution = CoupledPosterior | Independent | ConstrainedPosterior


class Rule(NamedTuple):
    """What a sampler is asked: the name of a score, whose probabilities it sees, and a temperature (see `Settings`)."""

    remasking: str
    confidence_from: str
    temperature: float


class View(NamedTuple):
    """What is known of a batch of blocks before a step.

    `mask`: undecided positions. `open`: those that may be committed. `counts`: how many will be.
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    open: Bool[Tensor, "B L"]
    counts: Int[Tensor, " B"]
    log_marginals: Float[Tensor, "B L V"]

    def rows(self, index: Int[Tensor, " R"]) -> "View":
        return View(*(field[index] for field in self))


class Commit(NamedTuple):
    """Tokens (B, L), to be kept where `positions` (B, L) is True."""

    tokens: Int[Tensor, "B L"]
    positions: Bool[Tensor, "B L"]


Sampler = Callable[[Distribution, View, Rule, torch.Generator | None], Commit]


def latent(distribution: Distribution, view: View, rule: Rule, generator: torch.Generator | None) -> Commit:
    """Draws the whole block jointly and keeps the positions that score best: the others are thereby summed out."""
    if rule.temperature == 0:
        tokens = _most_probable(distribution, view)
    else:
        tokens = distribution.sample(1, generator=generator, temperature=rule.temperature)[0]
    coupled = rule.confidence_from == "coupled" and rule.remasking != "random"
    probabilities = distribution.marginals() if coupled else view.log_marginals.exp()
    scores = SCORES[rule.remasking](probabilities, tokens, generator)
    return Commit(tokens, best(scores, view.open, view.counts))


def _most_probable(distribution: Distribution, view: View) -> Int[Tensor, "B L"]:
    """Where one position a row is left, its mode, which `mpe` would find by trying every token."""
    if (view.mask.sum(-1) <= 1).all():
        return distribution.marginals().argmax(-1)
    return distribution.mpe().values


def any_order(distribution: Distribution, view: View, rule: Rule, generator: torch.Generator | None) -> Commit:
    """Fixes the best position, asks the circuit for the others' conditionals, and so on; the weights stay as they are.

    The position is chosen before its token is drawn (`low_confidence`: by its most likely token), so that at
    temperature 1 the chain rule gives exact joint samples whatever the order.
    """
    tokens, mask = view.tokens.clone(), view.mask.clone()
    probabilities, marginals = view.log_marginals.exp(), distribution.marginals()
    for done in range(int(view.counts.max())):
        if done:
            marginals = conditional_marginals(distribution, tokens, mask)
        confidences = marginals if rule.confidence_from == "coupled" else probabilities
        scores = SCORES[rule.remasking](confidences, confidences.argmax(-1), generator)
        chosen = best(scores, view.open & mask, (view.counts > done).long())
        tokens[chosen] = _draw(marginals[chosen], rule.temperature, generator)
        mask &= ~chosen
    return Commit(tokens, view.mask & ~mask)


def conditional_marginals(
    distribution: Distribution, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L V"]:
    """Marginals once all but the masked tokens are hard evidence; the soft evidence of the others stays as it is."""
    if isinstance(distribution, Independent):
        return Independent(distribution.log_targets, tokens, mask).marginals()
    if isinstance(distribution, ConstrainedPosterior):
        return distribution.given(tokens, mask).marginals()
    weights = distribution.evidence.log_weights
    given = pc.Evidence(torch.where(mask, 0, tokens), observed=~mask, log_weights=weights)
    marginals = distribution.posterior.circuit.condition(given).marginals()
    assert isinstance(marginals, Tensor)
    return marginals


def _draw(
    probabilities: Float[Tensor, "M V"], temperature: float, generator: torch.Generator | None
) -> Int[Tensor, " M"]:
    if temperature == 0:
        return probabilities.argmax(-1)
    return pc.draw((probabilities.log() / temperature).softmax(-1), generator)


SAMPLERS: dict[str, Sampler] = {"latent": latent, "any_order": any_order}
