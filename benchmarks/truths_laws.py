"""The law of sampling in T steps, worked out, not sampled: outputs are enumerated, orders too or some of them.

Axes: N outputs, L positions, K orders.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.evaluate.orders import step_sizes

Rule = Callable[[Tensor, Tensor | None, Tensor, Tensor], Any]
MOST_ORDERS = 120


class Distance(NamedTuple):
    """From the uniform law over valid outputs: probability of a valid one, total variation, KL(uniform || law) in nats.

    Where orders are sampled the validity is an unbiased estimate, `deviation` its standard error, and the other two,
    which the noise of few orders would make too large, are nan. Otherwise all are exact and `deviation` is 0.
    """

    validity: float
    total_variation: float
    divergence: float
    deviation: float = 0.0


class StepLaw:
    """Sampling in T steps: in each, the tokens of the next positions of an order are drawn jointly from what a rule
    says of them, given the outputs' tokens decided before.

    Args:
        rule: as in `pcircuits_diffusion.evaluate.rules`.
        outputs: (N, L) whose probabilities are asked for.
        given: (N, L) positions that are known from the start, as many in each row.
    """

    def __init__(self, rule: Rule, backbone: Backbone, outputs: Tensor, given: Tensor | None = None) -> None:
        self.rule, self.backbone, self.outputs = rule, backbone, outputs
        self.given = torch.zeros_like(outputs, dtype=torch.bool) if given is None else given
        self.blanks = int((~self.given[0]).sum())
        self._known: dict[tuple[bytes, bytes], Tensor] = {}

    @torch.no_grad()
    def log_prob(self, order: Tensor, steps: int) -> Tensor:
        """(N,) log probability of each output in one order: (L,) or (N, L), the ranks of the positions."""
        order = order.expand_as(self.outputs).masked_fill(self.given, -1)
        ranks = order.argsort(1).argsort(1) - (self.outputs.shape[1] - self.blanks)
        total, first = torch.zeros(len(self.outputs), dtype=torch.float64), 0
        for size in step_sizes(self.blanks, steps):
            total = total + self._conditional(ranks < first, (ranks >= first) & (ranks < first + size))
            first += size
        return total

    def probabilities(self, orders: Iterable[Tensor], steps: int) -> Tensor:
        """(K, N)."""
        return torch.stack([self.log_prob(order, steps) for order in orders]).exp()

    def _conditional(self, known: Tensor, group: Tensor) -> Tensor:
        """(N,) `log p(outputs at group | outputs at known)`."""
        key = (known.numpy().tobytes(), group.numpy().tobytes())
        if key not in self._known:
            tokens = torch.where(known, self.outputs, self.backbone.mask_id)
            found = self.rule(self.backbone.log_marginals(tokens), None, torch.where(known, tokens, 0), ~known)
            self._known[key] = found.log_prob(self.outputs, variables=group)
        return self._known[key]


def all_orders(length: int) -> list[Tensor]:
    """The ranks of every order."""
    return [torch.tensor(ranks) for ranks in itertools.permutations(range(length))]


def some_orders(length: int, count: int, *, seed: int) -> list[Tensor]:
    """Random ones; all of them where they are few."""
    if torch.arange(1, length + 1).double().prod() <= MOST_ORDERS:
        return all_orders(length)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(length, generator=generator) for _ in range(count)]


def distance(probabilities: Tensor, puzzle: Tensor, *, exact: bool) -> Distance:
    """Of a law (K, N) averaged over orders, `exact` where they are all orders or make no difference.

    `puzzle` (N,): the question that each output answers. Every question counts alike, and the outputs are *all* valid
    ones: a few of them, scaled up to all, would estimate a validity that can exceed 1.
    """
    number = torch.bincount(puzzle)[puzzle]
    share = 1 / number.double() / len(puzzle.unique())
    each = (number * probabilities) @ share
    if not exact:
        return Distance(float(each.mean()), math.nan, math.nan, float(each.std() / len(each) ** 0.5))
    law = (number * probabilities).mean(0)
    validity = float(law @ share)
    variation = 0.5 * (float((law - 1).abs() @ share) + 1 - validity)
    return Distance(validity, variation, float(-law.log() @ share))
