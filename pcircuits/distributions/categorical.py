"""Categorical inputs."""

from dataclasses import dataclass

import torch

from pcircuits.distributions.discrete import Discrete
from pcircuits.distributions.family import LEAST_PROBABILITY
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor


@dataclass(frozen=True)
class Categorical(Discrete):
    """Values 0..V-1 with free probabilities. Parameter: `logits` (G, K, V), normalised over V."""

    num_categories: int
    name = "categorical"

    def __post_init__(self) -> None:
        if not isinstance(self.num_categories, int) or self.num_categories < 1:
            raise ParameterError(f"`num_categories` must be a positive integer, got {self.num_categories!r}")

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        weights = torch.rand(groups, units, self.num_categories, generator=generator).mul_(0.9).add_(0.1)
        return {"logits": weights.div_(weights.sum(-1, keepdim=True)).log_()}  # in place: a vocabulary's table is large

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        return parameters["logits"].log_softmax(-1)

    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        return {"logits": table.clamp_min(LEAST_PROBABILITY).log_()}
