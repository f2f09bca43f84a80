"""Who is asked: coupled heads, the backbone alone, and controls without a backbone, all called like a `CoupledHead`.

Axes: B windows of a batch, L positions of the block, V tokens.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

import pcircuits as pc
from pcircuits.types import Float, Tensor
from pcircuits_diffusion.coupling import Independent


@runtime_checkable
class Distribution(Protocol):
    """Over the tokens of a batch of blocks: a coupled posterior, a circuit's posterior or an `Independent`."""

    def log_prob(self, x: Tensor, *, variables: Tensor | None = None) -> Tensor:
        """(B,) log probability of x's values (B, L) at `variables` (B, L), the other positions summed out."""
        ...


Rule = Callable[[Tensor, Tensor | None, Tensor, Tensor], Distribution]
"""`rule(log_marginals (B, L, V), hidden (B, L, E), tokens (B, L), mask (B, L))`; tokens at masked positions may be
anything, and hidden states are given to rules with a true `needs_hidden`.
"""


def needs_hidden(rule: Rule) -> bool:
    """Whether a rule reads the backbone's hidden states."""
    return bool(getattr(rule, "needs_hidden", False))


def factorised(log_marginals: Tensor, hidden: Tensor | None, tokens: Tensor, mask: Tensor) -> Distribution:
    """The backbone alone: `prod_i p_theta(x_i | observed)`."""
    return Independent(log_marginals, tokens, mask)


def gated(head: Rule) -> Rule:
    """The head for states whose mask ratio is at most its gamma, the backbone alone for others."""
    if getattr(head, "gamma", None) is None:
        return head

    def rule(log_marginals: Tensor, hidden: Tensor | None, tokens: Tensor, mask: Tensor) -> Distribution:
        active = head.active(mask)  # type: ignore[attr-defined]
        if active.any() and not active.all():
            raise ValueError(
                "the rows of a batch must have one mask ratio here: the head is active in some of them only"
            )
        return (head if active.all() else factorised)(log_marginals, hidden, tokens, mask)

    rule.needs_hidden = needs_hidden(head)  # type: ignore[attr-defined]
    return rule


def prior_alone(prior: pc.Circuit) -> Rule:
    """The circuit given the block's observed tokens as hard evidence."""

    def rule(log_marginals: Tensor, hidden: Tensor | None, tokens: Tensor, mask: Tensor) -> Distribution:
        return prior.condition(pc.Evidence(torch.where(mask, 0, tokens), observed=~mask))

    return rule


def unigram(frequencies: Float[Tensor, " V"]) -> Rule:
    """Independent tokens of fixed probabilities; `frequencies` are positive and need no normalisation."""
    log_probs = frequencies.float().log().log_softmax(-1)

    def rule(log_marginals: Tensor, hidden: Tensor | None, tokens: Tensor, mask: Tensor) -> Distribution:
        return Independent(log_probs.expand(*tokens.shape, -1), tokens, mask)

    return rule
