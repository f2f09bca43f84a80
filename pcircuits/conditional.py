"""Conditional circuits: distributions of some variables given others, whose parameters a network makes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.errors import EvidenceError, ParameterError, ShapeError
from pcircuits.evidence import Evidence, describe, rows_of
from pcircuits.posterior import Posterior
from pcircuits.types import Float, Shaped, Tensor


class Potentials(NamedTuple):
    """What a network makes of a circuit's parameters in each sample, every part as `Evidence` describes it.

    latent: (B, D, K) log potentials of each variable's units. gates: (B, D, G, G) log factors of the weights of the
    sums above them. parameters: of the units of `PerSample` inputs, by name, (B, D, K, ...). gate_factors:
    (B, D, 2, R, K) gates of low rank.
    """

    latent: Float[Tensor, "B D K"] | None = None
    gates: Float[Tensor, "B D G G"] | None = None
    parameters: Mapping[str, Float[Tensor, "B D K *P"]] | None = None
    gate_factors: Float[Tensor, "B D 2 R K"] | None = None

    def penalty(self) -> Float[Tensor, " B"]:
        """The mean squares of potentials and gates, which regularise training."""
        squares = [x.square().flatten(1).mean(1) for x in (self.latent, self.gates, self.gate_factors) if x is not None]
        return torch.stack(squares).sum(0) if squares else torch.zeros(1)


class ConditionalCircuit(nn.Module):
    """`p(x | y)`: a circuit over x whose units' potentials, weights or input parameters `network(y)` makes anew in each
    sample (conditional circuits: Shao et al. 2020). All queries stay exact: `condition` gives an ordinary posterior.

    With potentials of a value c(x, y) the distribution is `c(x, y) / sum_x c(x, y)`, whose sum is worked out.

    Args:
        circuit: over x. Its own parameters are learned too, unless `circuit.requires_grad_(False)`.
        network: from y, a tensor or whatever it takes, with one entry a sample, to `Potentials`.

    It learns by gradients: `fit(model, batches, objective=ConditionalCircuit.log_likelihood, learner="adam")`, with
    batches that are pairs (x, y).

    Raises:
        ParameterError: `circuit` is no Circuit.
    """

    def __init__(self, circuit: Circuit, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(circuit, Circuit):
            raise ParameterError(f"`circuit` must be a Circuit, got {type(circuit).__name__}")
        self.circuit, self.network = circuit, network

    def forward(self, x: Shaped[Tensor, "B D"], given: Any) -> Float[Tensor, " B"]:
        return self.log_prob(x, given)

    def log_prob(self, x: Shaped[Tensor, "B D"], given: Any) -> Float[Tensor, " B"]:
        """`log p(x | y)` of complete values (B, D) and B samples of y, natural log, float64."""
        return self.condition(Evidence(x), given).log_evidence

    def condition(self, evidence: Evidence, given: Any) -> Posterior:
        """The distribution given y and evidence of x, row by row; its `log_evidence` is `log p(evidence | y)`.

        Raises:
            EvidenceError: evidence with potentials, gates or parameters of its own, or a y that leaves no value of x
                possible, naming the rows.
            ParameterError, ShapeError: a network that returns no Potentials, or of another number of samples.
        """
        if any(getattr(evidence, name) is not None for name in Potentials._fields):
            raise EvidenceError(f"the {', '.join(Potentials._fields)} of a conditional circuit come from its network")
        return self._conditioned(evidence, self._potentials(given))

    def sample(self, given: Any, n: int = 1, *, generator: torch.Generator | None = None) -> Shaped[Tensor, "N B D"]:
        """`n` samples of x for each sample of y, (n, B, D)."""
        with torch.no_grad():
            potentials = self._potentials(given)
            return self._conditioned(self._nothing(potentials), potentials).sample(n, generator=generator)

    @staticmethod
    def log_likelihood(model: "ConditionalCircuit", batch: tuple[Tensor, Any]) -> Float[Tensor, " B"]:
        """`log p(x | y)` of a batch (x, y): an objective for `fit`."""
        x, given = batch
        return model.log_prob(x, given)

    def _potentials(self, given: Any) -> Potentials:
        found = self.network(given)
        if not isinstance(found, Potentials):
            raise ParameterError(f"`network` must return Potentials, got {describe(found)}")
        if not any(part is not None for part in found):
            raise ParameterError("`network` returned Potentials without any part")
        return found

    def _conditioned(self, evidence: Evidence, potentials: Potentials) -> Posterior:
        return self.circuit.condition(evidence.replace(**self._normalised(potentials)._asdict()))

    def _normalised(self, potentials: Potentials) -> Potentials:
        """With the log of the sum over x taken off the potentials of one variable, of which each path has one unit."""
        if all(part is None for part in (potentials.latent, potentials.gates, potentials.gate_factors)):
            return potentials
        total = self.circuit.condition(self._nothing(potentials).replace(**potentials._asdict())).log_evidence
        if (bad := total.isneginf()).any():
            raise EvidenceError(f"the potentials leave no value possible in batch rows {rows_of(bad)}")
        latent = potentials.latent
        if latent is None:
            latent = total.new_zeros(len(total), self.circuit.num_variables, self.circuit.num_units)
        first = latent[:, :1].double() - total[:, None, None]
        return potentials._replace(latent=torch.cat([first, latent[:, 1:].double()], 1))

    def _nothing(self, potentials: Potentials) -> Evidence:
        tensors = (potentials.latent, potentials.gates, potentials.gate_factors)
        parts = [*tensors, *(potentials.parameters or {}).values()]
        sizes = {len(part) for part in parts if part is not None}
        if len(sizes) > 1:
            raise ShapeError(f"the parts of the network's Potentials are of {sorted(sizes)} samples")
        return Evidence.nothing(sizes.pop(), self.circuit.num_variables, self.circuit.device)
