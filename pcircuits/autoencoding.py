"""Autoencoding circuits: data and latent variables in one circuit, which encodes exactly; a network decodes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from pcircuits.circuit import Circuit
from pcircuits.errors import EvidenceError, ParameterError, ShapeError, StructureError
from pcircuits.evidence import Evidence, describe
from pcircuits.posterior import Posterior
from pcircuits.queries import Moments
from pcircuits.types import Float, Shaped, Tensor


class AutoencodingCircuit(nn.Module):
    """A circuit over data x and latent variables z together, whose `p(z | x)` encodes, and a network from z to x that
    decodes (autoencoding probabilistic circuits: Braun et al. 2025).

    What is learned, row by row, is the reconstruction error of z drawn from `p(z | x)` and the likelihood of x:

        loss(x) = sum_i reconstruction(decoder(f(z)), x)_i - weight log p(x),   i over the observed values

    The draw is differentiable (`Posterior.rsample`), so the error teaches circuit and decoder both. Braun et al. take
    `log p(x, z)` of the draw, whose mean is `log p(x)` less the entropy of z given x, and pull `p(z | x)` towards a
    standard normal; here the likelihood is exact, and new z come of the circuit's own `p(z)`. Missing values are
    summed out exactly while encoding, and have no reconstruction error.

    f(z) are the features that the decoder reads, (B, F): of each latent variable its one-hot vector if it is
    discrete, else its value, side by side, in the circuit's dtype.

    Args:
        circuit: over x and, last, z. All variables are discrete with finitely many values, or Gaussian.
        decoder: from (B, F) to whatever `reconstruction` compares with x, one entry a sample.
        num_latent: how many of the circuit's variables, the last ones, are z.
        reconstruction: from what the decoder made and x (B, X) to the error of each value, (B, X), such as
            `lambda logits, x: binary_cross_entropy_with_logits(logits, x, reduction="none")`. Left out: squares.
        weight: of the log likelihood, in units of reconstruction error a nat; at least 0.
        temperature: of the relaxation that gradients of discrete draws follow.

    It learns by gradients: `fit(model, x, objective=AutoencodingCircuit.objective, learner="adam")`, x being rows (N,
    X), NaN where values are missing, or Evidence of x. Draws take torch's global random numbers.

    Raises:
        ParameterError: `circuit` is no Circuit, no variable is left for x or for z, or a weight or temperature that is
            negative or not finite.
        StructureError: a variable that cannot be drawn differentiably.
    """

    def __init__(
        self,
        circuit: Circuit,
        decoder: nn.Module,
        *,
        num_latent: int,
        reconstruction: Callable[[Any, Tensor], Tensor] | None = None,
        weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(circuit, Circuit):
            raise ParameterError(f"`circuit` must be a Circuit, got {type(circuit).__name__}")
        if not isinstance(num_latent, int) or not 1 <= num_latent < circuit.num_variables:
            raise ParameterError(
                f"`num_latent` must be from 1 to {circuit.num_variables - 1} of {circuit.num_variables} variables, got "
                f"{num_latent!r}"
            )
        if not 0 <= weight < math.inf or not 0 < temperature < math.inf:
            raise ParameterError(
                f"`weight` must be at least 0, `temperature` positive, both finite; got {weight!r} and {temperature!r}"
            )
        if wrong := [f for f in circuit.inputs if f.num_variables > 1 or not (f.is_discrete or f.is_normal)]:
            raise StructureError(f"autoencoding takes discrete and Gaussian inputs of one variable, got {wrong[0]!r}")
        self.circuit, self.decoder, self.num_latent = circuit, decoder, num_latent
        self.reconstruction, self.weight, self.temperature = reconstruction or _squares, weight, temperature

    @property
    def num_data(self) -> int:
        """X, the number of variables of x."""
        return self.circuit.num_variables - self.num_latent

    def posterior(self, x: Shaped[Tensor, "B X"] | Evidence) -> Posterior:
        """`p(x, z | what is known of x)`, exact. Of a floating point tensor NaN is missing.

        Raises:
            ShapeError, EvidenceError: of another width, outside the domain, or evidence of anything but values,
                weights and intervals.
        """
        return self.circuit.condition(self._evidence(x))

    def log_prob(self, x: Shaped[Tensor, "B X"] | Evidence) -> Float[Tensor, " B"]:
        """`log p(x)` of what is known of x, natural log, float64, all else summed out."""
        return self.posterior(x).log_evidence

    def encode(
        self, x: Shaped[Tensor, "B X"] | Evidence, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B F"]:
        """Features of one draw of `p(z | x)` a row; gradients flow through it."""
        return self._drawn(self.posterior(x), generator)

    def embed(self, x: Shaped[Tensor, "B X"] | Evidence) -> Float[Tensor, "B F"]:
        """The exact mean of the features given x: probabilities of discrete z, means of Gaussian ones."""
        found = self.posterior(x).marginals()
        return self._features([m.mean if isinstance(m, Moments) else m for m in _each_variable(found, 1)])

    def decode(self, features: Float[Tensor, "B F"]) -> Any:
        """What the decoder makes of features."""
        return self.decoder(features)

    def reconstruct(self, x: Shaped[Tensor, "B X"] | Evidence, *, generator: torch.Generator | None = None) -> Any:
        """`decode(encode(x))`."""
        return self.decode(self.encode(x, generator=generator))

    def generate(self, n: int = 1, *, generator: torch.Generator | None = None) -> Any:
        """What the decoder makes of n draws of z from the circuit's own `p(z)`."""
        nothing = Evidence.nothing(1, self.circuit.num_variables, self.circuit.device)
        with torch.no_grad():
            drawn = self.circuit.condition(nothing).rsample(n, generator=generator)
            return self.decode(self._features([draw[:, 0] for draw in _each_variable(drawn, 2)]))

    def forward(self, x: Shaped[Tensor, "B X"] | Evidence) -> Float[Tensor, " B"]:
        """The loss of each row, of one draw."""
        posterior = self.posterior(x)
        decoded = self.decode(self._drawn(posterior, None))
        known = posterior.evidence
        observed = known.observed[:, : self.num_data]
        values = torch.where(observed, known.values[:, : self.num_data], 0).to(self.circuit.dtype)
        errors = self.reconstruction(decoded, values)
        if not isinstance(errors, Tensor) or errors.shape != values.shape:
            raise ShapeError(
                f"`reconstruction` must return one error a value, {tuple(values.shape)}; got {describe(errors)}"
            )
        return torch.where(observed, errors, 0.0).sum(1) - self.weight * posterior.log_evidence

    @staticmethod
    def objective(model: "AutoencodingCircuit", batch: Shaped[Tensor, "B X"] | Evidence) -> Float[Tensor, " B"]:
        """Minus the loss of each row: an objective for `fit`."""
        return -model(batch)

    def _evidence(self, x: Tensor | Evidence) -> Evidence:
        if isinstance(x, Tensor):
            x = Evidence.from_nan(x) if x.is_floating_point() else Evidence(x)
        if not isinstance(x, Evidence):
            raise EvidenceError(f"x must be a tensor or Evidence, got {describe(x)}")
        if x.num_variables != self.num_data:
            raise ShapeError(
                f"x has {x.num_variables} variables, this model has {self.num_data} beside its latent ones"
            )
        others = ("latent", "gates", "gate_factors", "parameters", "weighted_values")
        if unknown := [name for name in others if getattr(x, name) is not None]:
            raise EvidenceError(f"evidence of x has values, weights of all values and intervals; got `{unknown[0]}`")
        weights = None if x.log_weights is None else self._of_all_values(x.log_weights)
        return Evidence(
            self._beside_latent(x.values, 0),
            observed=self._beside_latent(x.observed, False),
            log_weights=None if weights is None else self._beside_latent(weights, 0.0),
            interval=None if x.interval is None else self._beside_latent(x.interval, (-math.inf, math.inf)),
        )

    def _of_all_values(self, log_weights: Float[Tensor, "B X V"]) -> Float[Tensor, "B X W"]:
        """Weights of as many values as the latent variables have, if they are of all that x has."""
        of_data, of_latent = (
            max((family.num_categories or 0 for family in families), default=0)
            for families in (self.circuit.inputs[: self.num_data], self.circuit.inputs[self.num_data :])
        )
        more = of_latent - log_weights.shape[-1]
        if more <= 0 or log_weights.shape[-1] < of_data:
            return log_weights
        return pad(log_weights, (0, more), value=-math.inf)

    def _beside_latent(self, x: Shaped[Tensor, "B X *S"], unknown: Any) -> Shaped[Tensor, "B D *S"]:
        latent = torch.as_tensor(unknown, dtype=x.dtype, device=x.device)
        return torch.cat([x, latent.expand(len(x), self.num_latent, *x.shape[2:])], 1)

    def _drawn(self, posterior: Posterior, generator: torch.Generator | None) -> Float[Tensor, "B F"]:
        drawn = posterior.rsample(generator=generator, temperature=self.temperature)
        return self._features([draw[0] for draw in _each_variable(drawn, 2)])

    def _features(self, each: Sequence[Tensor]) -> Float[Tensor, "B F"]:
        latent = [x if x.ndim > 1 else x.unsqueeze(-1) for x in each[self.num_data :]]
        return torch.cat(latent, -1).to(self.circuit.dtype)


def _each_variable(found: Tensor | Sequence[Any], dim: int) -> Sequence[Any]:
    return found.unbind(dim) if isinstance(found, Tensor) else found


def _squares(decoded: Float[Tensor, "B X"], x: Float[Tensor, "B X"]) -> Float[Tensor, "B X"]:
    return (decoded - x).square()
