"""Binomial inputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pcircuits.distributions.discrete import Discrete
from pcircuits.distributions.family import LEAST_PROBABILITY
from pcircuits.errors import ParameterError
from pcircuits.types import Float, Tensor


@dataclass(frozen=True)
class Binomial(Discrete):
    """Successes among `total_count` trials, 0..N. Parameter: `logit` (G, K), each trial succeeds with
    `sigmoid(logit)`.
    """

    total_count: int
    name = "binomial"

    def __post_init__(self) -> None:
        if not isinstance(self.total_count, int) or self.total_count < 1:
            raise ParameterError(f"`total_count` must be a positive integer, got {self.total_count!r}")

    @classmethod
    def from_data(cls, x: Tensor) -> "Binomial":
        return cls(max(int(x.max()), 1))

    @property
    def num_categories(self) -> int:  # type: ignore[override]
        return self.total_count + 1

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"logit": torch.logit(0.05 + 0.9 * torch.rand(groups, units, generator=generator))}

    def log_table(self, parameters: dict[str, Tensor]) -> Float[Tensor, "G K V"]:
        logit = parameters["logit"].unsqueeze(-1)
        total = float(self.total_count)
        k = torch.arange(self.num_categories, dtype=torch.float64, device=logit.device)
        ways = torch.lgamma(k.new_tensor(total + 1)) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
        k = k.to(logit.dtype)
        return ways.to(logit.dtype) + k * F.logsigmoid(logit) + (total - k) * F.logsigmoid(-logit)

    def from_table(self, table: Float[Tensor, "G K V"]) -> dict[str, Tensor]:
        """The parameters of greatest likelihood for counts in these proportions."""
        share = table @ torch.arange(self.num_categories).to(table) / self.total_count / table.sum(-1)
        return {"logit": share.clamp_min(LEAST_PROBABILITY).log() - (1 - share).clamp_min(LEAST_PROBABILITY).log()}
