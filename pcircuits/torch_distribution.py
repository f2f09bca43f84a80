"""Circuits and posteriors as distributions of torch."""

from typing import Any

import torch
from torch.distributions import Distribution, constraints

from pcircuits.circuit import Circuit
from pcircuits.errors import ShapeError
from pcircuits.evidence import Evidence, describe
from pcircuits.posterior import Posterior
from pcircuits.queries import Moments
from pcircuits.types import Bool, Float, Tensor


class _Domain(constraints.Constraint):
    """Rows whose discrete variables are categories, and whose others are finite numbers."""

    event_dim = 1

    def __init__(self, num_categories: Float[Tensor, " D"]) -> None:
        self.num_categories = num_categories

    def check(self, value: Tensor) -> Bool[Tensor, "..."]:
        discrete = self.num_categories > 0
        in_range = (value >= 0) & (value < self.num_categories) & (value == value.round())
        return torch.where(discrete, in_range, value.isfinite()).all(-1)


class CircuitDistribution(Distribution):
    """A circuit, event shape (D,), or a posterior of B rows, batch shape (B,), as a `torch.distributions.Distribution`.

    `sample` draws from torch's global generator, as all of torch's distributions do; `log_prob` has gradients in the
    circuit's parameters. A posterior becomes stale with its circuit's parameters, this view does with it.

    Raises:
        ShapeError: other things than circuits and posteriors. EvidenceError: impossible evidence, when it is used.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - as in torch
    has_rsample = False

    def __init__(self, source: Circuit | Posterior, *, validate_args: bool | None = None) -> None:
        if not isinstance(source, Circuit | Posterior):
            raise ShapeError(f"`source` must be a Circuit or a Posterior, got {describe(source)}")
        self.source = source
        circuit = source.circuit if isinstance(source, Posterior) else source
        sizes = [family.num_categories or 0 for family in circuit.inputs]
        self._num_categories = torch.tensor(sizes, dtype=torch.float64, device=circuit.device)
        batch = (source.evidence.batch_size,) if isinstance(source, Posterior) else ()
        super().__init__(torch.Size(batch), torch.Size((circuit.num_variables,)), validate_args=validate_args)

    @property
    def support(self) -> Any:
        return _Domain(self._num_categories)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """`sample_shape + batch_shape + (D,)` joint samples."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            drawn = self._posterior.sample(max(1, shape.numel()))[: shape.numel()]
        return drawn.reshape(*shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Float[Tensor, "..."]:
        """Natural logarithms, float64, of values that end in `batch_shape + (D,)`."""
        if self._validate_args:
            self._validate_sample(value)
        whole = self.batch_shape + self.event_shape
        if not isinstance(self.source, Posterior):
            return self.source.log_prob(value.reshape(-1, *whole)).view(value.shape[:-1])
        shape = torch.broadcast_shapes(value.shape, whole)
        rows = value.expand(shape).reshape(-1, *whole)
        return self.source.log_prob(rows).view(shape[:-1])

    @property
    def mean(self) -> Float[Tensor, "..."]:
        """Of each variable, `batch_shape + (D,)`; categories count as numbers."""
        return self._moments[0]

    @property
    def variance(self) -> Float[Tensor, "..."]:
        return self._moments[1]

    @property
    def _posterior(self) -> Posterior:
        if isinstance(self.source, Posterior):
            return self.source
        return self.source.condition(Evidence.nothing(1, self.source.num_variables, self.source.device))

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        marginals = self._posterior.marginals()
        parts = marginals.unbind(1) if isinstance(marginals, Tensor) else marginals
        pairs = [(m.mean, m.variance) if isinstance(m, Moments) else _of_categories(m) for m in parts]
        mean, variance = (torch.stack(part, -1) for part in zip(*pairs, strict=True))
        shape = (*self.batch_shape, *self.event_shape)
        return mean.reshape(shape), variance.reshape(shape)


def _of_categories(probabilities: Float[Tensor, "B V"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    values = torch.arange(probabilities.shape[-1], dtype=probabilities.dtype, device=probabilities.device)
    mean = probabilities @ values
    return mean, (probabilities * (values - mean.unsqueeze(-1)).square()).sum(-1)
