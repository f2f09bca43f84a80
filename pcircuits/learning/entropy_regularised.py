"""An objective that rewards entropy."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.errors import ParameterError
from pcircuits.evidence import Evidence
from pcircuits.queries import path_entropy
from pcircuits.types import Float, Tensor


@dataclass(frozen=True)
class EntropyRegularised:
    """`log p(x) + strength H(p)`, in nats, for `fit(..., objective=EntropyRegularised(0.1), learner="adam")` (Liu, Van
    den Broeck 2021): the more entropy, the less is made of what only a few rows show.

    The entropy is exact, which needs a deterministic circuit. With `latent` it is that of the values and the circuit's
    paths together, `H(X, Z)`, exact for every circuit; it is no less than the entropy of discrete values alone.

    Args:
        strength: nats of log likelihood a row that a nat of entropy is worth, at least 0.

    Raises:
        ParameterError: a `strength` that is negative or not finite, or a model that is no Circuit.
        StructureError: without `latent`, a circuit that is not proven deterministic.
    """

    strength: float
    latent: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ParameterError(f"`strength` must be finite and at least 0, got {self.strength!r}")

    def __call__(self, model: nn.Module, batch: Any) -> Float[Tensor, " B"]:
        if not isinstance(model, Circuit):
            raise ParameterError(f"the entropy is that of a Circuit, got a {type(model).__name__}")
        evidence = batch if isinstance(batch, Evidence) else Evidence(batch)
        nothing = model.condition(Evidence.nothing(1, model.num_variables, model.device))
        entropy = path_entropy(model, nothing.evidence, nothing.log_evidence) if self.latent else nothing.entropy()
        return model.condition(evidence).log_evidence + self.strength * entropy
