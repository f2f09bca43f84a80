"""Sums whose flows are differentiable draws."""

import torch

from pcircuits.semirings.log import Log
from pcircuits.semirings.semiring import Values
from pcircuits.semirings.weights import SumWeights
from pcircuits.types import Float, Tensor


class Gumbel(Log):
    """On the way down each flow is replaced by a draw from it, relaxed to be differentiable (Gumbel-softmax, Jang et
    al. 2017): `softmax((log flow + noise) / temperature)`. `hard` draws are one-hot, and have the relaxed gradient.
    """

    def __init__(self, temperature: float, hard: bool, generator: torch.Generator | None) -> None:
        self.temperature, self.hard, self.generator = temperature, hard, generator

    def sum_flows(
        self, weights: SumWeights, product: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        shares, _ = super().sum_flows(weights, product, raw, flows, False)
        return self.relaxed(shares), None

    def mixing_flows(
        self, weights: SumWeights, terms: Values, raw: Values, flows: Tensor, count: bool
    ) -> tuple[Tensor, Tensor | None]:
        shares, _ = super().mixing_flows(weights, terms, raw, flows, False)
        arity = shares.shape[0]
        drawn = self.relaxed(shares.movedim(0, -1).flatten(-2))
        return drawn.unflatten(-1, (-1, arity)).movedim(-1, 0), None

    def relaxed(self, shares: Float[Tensor, "*A J"]) -> Float[Tensor, "*A J"]:
        """A draw with probabilities proportional to the shares, times their total."""
        total = shares.sum(-1, keepdim=True)
        possible = shares > 0
        log = torch.where(possible, torch.where(possible, shares, 1.0).log(), -torch.inf)
        log = torch.where(total > 0, log, 0.0)
        noise = torch.rand(shares.shape, dtype=shares.dtype, device=shares.device, generator=self.generator)
        noise = -(-noise.clamp_min(torch.finfo(shares.dtype).tiny).log()).log()
        soft = ((log + noise) / self.temperature).softmax(-1)
        if self.hard:
            one_hot = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
            soft = one_hot + soft - soft.detach()
        return soft * total
