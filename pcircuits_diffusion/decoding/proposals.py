"""What a step commits: positions and their tokens, drawn jointly. One function a sampler.

Axes: B rows, L positions of the region, V tokens.
"""

from collections.abc import Callable

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.coupling import CoupledPosterior
from pcircuits_diffusion.decoding.predictions import temper
from pcircuits_diffusion.decoding.quota import ADAPTIVE, Ranking
from pcircuits_diffusion.decoding.score import SCORES, Candidates, perturb, rank
from pcircuits_diffusion.decoding.view import Commit, Rule, View
from pcircuits_diffusion.decoding.windows import Distribution

Sampler = Callable[[Distribution, View, Rule, torch.Generator | None], Commit]


def latent(distribution: Distribution, view: View, rule: Rule, generator: torch.Generator | None) -> Commit:
    """Draws the whole region jointly and keeps the positions that score best: the others are thereby summed out."""
    if rule.temperature == 0:
        return mpe(distribution, view, rule, generator)
    tokens = distribution.sample(1, generator=generator, temperature=rule.temperature)[0]
    return Commit(tokens, choose(distribution, view, rule, tokens, generator))


def mpe(distribution: Distribution, view: View, rule: Rule, generator: torch.Generator | None) -> Commit:
    """Proposes the most probable completion of the region, at any temperature (exact where maximisation is).

    Where one position a row is left that is its mode, which `mpe` would find by trying every token.
    """
    single = (view.mask.sum(-1) <= 1).all()
    tokens = distribution.marginals().argmax(-1) if single else distribution.mpe().values
    return Commit(tokens, choose(distribution, view, rule, tokens, generator))


def any_order(distribution: Distribution, view: View, rule: Rule, generator: torch.Generator | None) -> Commit:
    """Fixes the best position, asks the circuit for the others' conditionals, and so on; the weights stay as they are.

    The position is chosen before its token is drawn (scores see its most likely token), so that at temperature 1 the
    chain rule gives exact joint samples whatever the order. An adaptive quota counts once, on the most likely tokens.
    """
    tokens, mask, counts = view.tokens.clone(), view.mask.clone(), view.counts
    if rule.quota in ADAPTIVE:
        modes = confidences(distribution, view, rule)().argmax(-1)
        counts = choose(distribution, view, rule, modes, generator).sum(-1)
    candidates = None
    for done in range(int(counts.max())):
        if done:
            distribution = distribution.observe(tokens, mask)
        if candidates is None or rule.confidence_from == "coupled":
            seen = confidences(distribution, view, rule)
            candidates = Candidates(seen().argmax(-1), seen, rule.begin_suppress_tokens)
        order = order_of(candidates, view.open & mask, rule, generator)
        chosen = first_of(order, (counts > done).long()) & view.open & mask
        tokens[chosen] = _draw(distribution, chosen, rule.temperature, generator)
        mask &= ~chosen
    return Commit(tokens, view.mask & ~mask)


SAMPLERS: dict[str, Sampler] = {"latent": latent, "any_order": any_order, "mpe": mpe}


def choose(
    distribution: Distribution, view: View, rule: Rule, tokens: Int[Tensor, "B L"], generator: torch.Generator | None
) -> Bool[Tensor, "B L"]:
    """The open positions to commit: those ranked first by score, as many as the quota says."""
    candidates = Candidates(tokens, confidences(distribution, view, rule), rule.begin_suppress_tokens)
    order = order_of(candidates, view.open, rule, generator)

    def log_joint(sizes: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        return distribution.log_prob(tokens, variables=first_of(order, sizes))

    chosen = first_of(order, view.counts)
    if rule.quota in ADAPTIVE:
        stable = None if view.drift is None else view.drift <= rule.drift
        ranking = Ranking(candidates, order, view.open.sum(-1), log_joint, stable)
        accepted = ADAPTIVE[rule.quota].accept(ranking, rule.bound)
        chosen |= torch.zeros_like(chosen).scatter(-1, order, accepted)
    return chosen & view.open


def confidences(distribution: Distribution, view: View, rule: Rule) -> Callable[[], Tensor]:
    """Gives the probabilities that scores see: of the backbone or of the coupled marginals, raw or tempered."""

    def probabilities() -> Float[Tensor, "B L V"]:
        if rule.confidence_from == "coupled":
            found = distribution.marginals()
        else:
            found = (view.log_targets if rule.tempered_confidence else view.log_marginals).exp()
        return temper(found, rule.temperature) if rule.tempered_confidence else found

    return probabilities


def order_of(
    candidates: Candidates, allowed: Bool[Tensor, "B L"], rule: Rule, generator: torch.Generator | None
) -> Int[Tensor, "B L"]:
    """Positions in the order in which they are to be committed."""
    scores = perturb(SCORES[rule.remasking](candidates, generator), rule.order_temperature, generator)
    return rank(scores.masked_fill(candidates.last, -torch.inf), allowed)


def first_of(order: Int[Tensor, "B L"], sizes: Int[Tensor, " B"]) -> Bool[Tensor, "B L"]:
    """The first `sizes[b]` positions of row b's order."""
    return order.argsort(-1) < sizes.unsqueeze(-1)


def _draw(
    distribution: Distribution, chosen: Bool[Tensor, "B L"], temperature: float, generator: torch.Generator | None
) -> Int[Tensor, " M"]:
    """Of the chosen positions' coupled marginals, at most one a row; untempered they need not be worked out."""
    if temperature == 1 and isinstance(distribution, CoupledPosterior):
        return distribution.sample(1, generator=generator, variables=chosen)[0][chosen]
    probabilities = distribution.marginals()[chosen]
    if temperature == 0:
        return probabilities.argmax(-1)
    return pc.draw(temper(probabilities, temperature), generator)
