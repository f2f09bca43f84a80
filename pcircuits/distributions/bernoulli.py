"""Bernoulli inputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pcircuits.distributions.discrete import Discrete
from pcircuits.distributions.family import LEAST_PROBABILITY
from pcircuits.types import Float, Tensor


@dataclass(frozen=True)
class Bernoulli(Discrete):
    """Values 0 and 1. Parameter: `logit` (G, K), `p(1) = sigmoid(logit)`."""

    num_categories = 2
    name = "bernoulli"

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"logit": torch.logit(0.05 + 0.9 * torch.rand(groups, units, generator=generator))}

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K 2"]:
        logit = parameters["logit"]
        return torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], -1)

    def from_table(self, table: Float[Tensor, "G K 2"]) -> dict[str, Tensor]:
        zero, one = table.clamp_min(LEAST_PROBABILITY).log().unbind(-1)
        return {"logit": one - zero}
