"""Inputs of any family of torch.distributions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributions import Distribution, constraints, transform_to

from pcircuits.distributions.family import Rows, Smoothing
from pcircuits.distributions.quadrature import Nodes
from pcircuits.distributions.univariate import POSITIVE, Univariate
from pcircuits.errors import EvidenceError, ParameterError, StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.types import Float, Tensor
from pcircuits.workspace import Memory

_BISECTIONS = 100
_SHARES = 1000  # equal shares of an interval's probability that expectations in it are averaged over


@dataclass(frozen=True)
class TorchDistribution(Univariate):
    """A univariate family of `torch.distributions` by its name, such as "Weibull" or "StudentT". Parameters: those of
    its constructor, (G, K) each, unconstrained and mapped to their domain by `torch.distributions.transform_to`.

    Args:
        distribution: the name of the class.
        start: what units start around, by parameter, such as `{"scale": 2.0, "concentration": 1.5}`; by default where
            zero is mapped to. All of the class's parameters but one of "probs" and "logits".

    They are learned by gradients (`learner="adam"`); EM refuses them, since no statistics of a fixed size determine
    them. Intervals need the family's `cdf`, MPE its `mode`, marginals a finite mean and variance; where it has none an
    error says so. Moments within an interval are averages over 1,000 quantiles of it.
    """

    distribution: str
    start: Any = ()  # a mapping, kept as a tuple of its items
    name = "torch_distribution"
    learns_by_em = False

    def __post_init__(self) -> None:
        pairs = self.start.items() if isinstance(self.start, Mapping) else self.start
        object.__setattr__(self, "start", tuple((str(name), float(value)) for name, value in pairs))
        kind = getattr(torch.distributions, self.distribution, None)
        if not (isinstance(kind, type) and issubclass(kind, Distribution)):
            raise ParameterError(f"torch.distributions has no family {self.distribution!r}")
        try:
            law = self._law([torch.full((), value, dtype=torch.float64) for value in self._start().values()])
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ParameterError(f"{self.distribution} cannot be made of {dict(self.start)}: {error}") from error
        if law.event_shape or law.batch_shape:
            raise ParameterError(f"{self.distribution} is not univariate, so it is no input of one variable")

    @property
    def is_integer(self) -> bool:  # type: ignore[override]
        return bool(self._support().is_discrete)

    @property
    def domain(self) -> tuple[float, float]:
        support = self._support()
        low, high = (getattr(support, side, None) for side in ("lower_bound", "upper_bound"))
        if isinstance(support, constraints.greater_than):
            low = float(support.lower_bound) + POSITIVE
        return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        noise = {name: 0.5 * torch.randn(groups, units, generator=generator) for name in self._names()}
        return {f"raw_{name}": noise[name] + self._raw(name, value) for name, value in self._start().items()}

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Any:
        return _Parameters(*(self._map(name)(parameters[f"raw_{name}"]) for name in self._names()))

    def log_density(self, unit: Any, x: Tensor) -> Tensor:
        return self._law(unit).log_prob(x.to(unit[0].dtype))

    def mode(self, unit: Any) -> Tensor:
        try:
            mode = self._law(unit).mode
        except NotImplementedError:
            raise StructureError(f"{self!r} has no mode in torch, so its variables must be observed for MPE") from None
        if not mode.isfinite().all():
            raise StructureError(f"{self!r} has units without a finite mode, so its variables must be observed for MPE")
        return mode

    def moments(self, unit: Any) -> tuple[Tensor, Tensor]:
        law = self._law(unit)
        mean, variance = law.mean, law.variance
        if not (mean.isfinite().all() and variance.isfinite().all()):
            raise StructureError(f"{self!r} has units without a finite mean and variance, so it has no marginals")
        return mean, variance + mean.square()

    def draw(self, unit: Any, generator: torch.Generator | None) -> Tensor:
        """By torch's own sampler, whose global generator is set from ours and put back."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device if generator else None))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._law(unit).sample()

    def log_mass(self, unit: Any, low: Tensor, high: Tensor) -> Tensor:
        below, above = self._shares(unit, low, high)
        return torch.where(above > below, (above - below).clamp_min(1e-300), 0.0).log()

    def truncated(
        self, unit: Any, low: Tensor, high: Tensor, statistic: Callable[[Any, Tensor], Tensor]
    ) -> Float[Tensor, "... S"]:
        below, above = (share.unsqueeze(-1) for share in self._shares(unit, low, high))
        ranks = (torch.arange(_SHARES, dtype=torch.float64) + 0.5) / _SHARES
        spread = _Parameters(*(t.unsqueeze(-1) for t in unit))
        x = self._quantile(spread, below + (above - below) * ranks, low.unsqueeze(-1), high.unsqueeze(-1))
        return torch.where(above > below, statistic(spread, x).mean(-2), 0.0)

    def draw_between(
        self, unit: Any, low: Tensor, high: Tensor, temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        if temperature != 1.0:
            raise StructureError(f"{self!r} is sampled at temperatures 0 and 1 only, got {temperature!r}")
        below, above = self._shares(unit, low, high)
        uniform = torch.rand(below.shape, dtype=below.dtype, device=below.device, generator=generator)
        return self._quantile(unit, below + (above - below) * uniform, low, high)

    def statistics(
        self, prepared: Any, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool, memory: Memory
    ) -> dict[str, Tensor]:
        raise ParameterError(f"{self!r} is learned by gradients only: use learner='adam'")

    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        raise ParameterError(f"{self!r} is learned by gradients only: use learner='adam'")

    def _nodes(self, unit: Any, low: Tensor, high: Tensor, temperature: float = 1.0) -> Nodes:
        raise StructureError(f"{self!r} is integrated by its own cdf only")

    def _shares(self, unit: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        law, (bottom, top) = self._law(unit), self.domain
        try:
            shares = [
                law.cdf(torch.where(end.isfinite(), end.clamp(bottom, top), self._anywhere)) for end in (low, high)
            ]
        except NotImplementedError:
            raise EvidenceError(f"{self!r} has no distribution function in torch, so no `interval` either") from None
        below = torch.where(low <= bottom, 0.0, torch.where(low.isposinf(), 1.0, shares[0]))
        return below, torch.where(high >= top, 1.0, torch.where(high < bottom, 0.0, shares[1]))

    def _quantile(self, unit: Any, share: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The value below which a share of the probability lies, by bisection."""
        law = self._law(unit)
        left, right = torch.broadcast_tensors(low.clamp_min(self.domain[0]), high.clamp_max(self.domain[1]))
        left, right = (end.expand_as(share).clamp(-1e30, 1e30) for end in (left, right))
        for _ in range(_BISECTIONS):
            middle = _between(left, right)
            short = law.cdf(middle) < share
            left, right = torch.where(short, middle, left), torch.where(short, right, middle)
        return right

    def _law(self, values: Any) -> Distribution:
        kind = getattr(torch.distributions, self.distribution)
        return kind(**dict(zip(self._names(), values, strict=True)), validate_args=False)

    def _support(self) -> Any:
        return self._law([torch.tensor(value) for value in self._start().values()]).support

    def _names(self) -> list[str]:
        kind = getattr(torch.distributions, self.distribution)
        names = [name for name in kind.arg_constraints if not (name == "probs" and "logits" in kind.arg_constraints)]
        chosen = dict(self.start)
        return [n if n in chosen or n != "logits" or "probs" not in chosen else "probs" for n in names]

    def _start(self) -> dict[str, float]:
        given = dict(self.start)
        if unknown := set(given) - set(self._names()):
            raise ParameterError(f"{self.distribution} has parameters {', '.join(self._names())}, not {unknown}")
        return {name: given.get(name, float(self._map(name)(torch.zeros(())))) for name in self._names()}

    def _raw(self, name: str, value: float) -> float:
        return float(self._map(name).inv(torch.tensor(value, dtype=torch.float64)))

    def _map(self, name: str) -> Any:
        return transform_to(getattr(torch.distributions, self.distribution).arg_constraints[name])


class _Parameters(tuple):
    """Constrained parameters in the order of the family's names: made like a NamedTuple, whatever their number."""

    def __new__(cls, *values: Tensor) -> "_Parameters":
        return super().__new__(cls, values)


def _between(left: Tensor, right: Tensor) -> Tensor:
    """A point between: the middle, or the geometric one where the ends have one sign and are far apart."""
    same = (left > 0) & (right > 4 * left)
    mirrored = (right < 0) & (left < 4 * right)
    root = (left.abs() * right.abs()).sqrt()
    return torch.where(same, root, torch.where(mirrored, -root, (left + right) / 2))
