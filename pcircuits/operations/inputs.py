"""Input families of products: what several input units multiply to, unnormalised."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pcircuits.distributions import Gaussian, InputFamily, Monomial, Picks, Smoothing, Univariate
from pcircuits.distributions.discrete import Discrete, Table
from pcircuits.distributions.family import Rows
from pcircuits.distributions.gaussian import Normal
from pcircuits.distributions.monomial import Powers
from pcircuits.distributions.tabulated import Tabulated, table_of
from pcircuits.errors import StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite, logsumexp
from pcircuits.semirings import SumWeights
from pcircuits.types import Bool, Float, Tensor

_NO_PARAMETERS = "a product's inputs have no parameters of their own: they are computed from those of its factors"


class Quadratics(NamedTuple):
    """`f(x) = exp(log_peak - precision (x - mean)^2 / 2)`, precision > 0: where means are far from zero, no digits are
    lost to differences of large numbers.
    """

    mean: Float[Tensor, "*G K"]
    precision: Float[Tensor, "*G K"]
    log_peak: Float[Tensor, "*G K"]

    @classmethod
    def of(cls, normal: Normal) -> "Quadratics":
        return cls(normal.mean, normal.std.square().reciprocal(), -normal.std.log() - 0.5 * math.log(2 * math.pi))

    def rows(self, index: Rows) -> "Quadratics":
        return Quadratics(*(x[index].double().unsqueeze(1) for x in self))

    def times(self, other: "Quadratics") -> "Quadratics":
        """Products, broadcast: precisions add up, means are weighted by them."""
        precision, off = self.precision + other.precision, other.mean - self.mean
        share = other.precision / precision
        loss = 0.5 * self.precision * share * off.square()
        return Quadratics(self.mean + share * off, precision, self.log_peak + other.log_peak - loss)

    @property
    def normal(self) -> Normal:
        """The densities that these are multiples of, in float64."""
        return Normal(self.mean.double(), self.precision.double().rsqrt())

    @property
    def log_integral(self) -> Float[Tensor, "G K"]:
        """In float64."""
        return self.log_peak.double() + 0.5 * (2 * math.pi / self.precision.double()).log()


@dataclass(frozen=True)
class Quadratic(InputFamily):
    """Products of Gaussian densities: unnormalised Gaussians."""

    name = "quadratic"
    is_normal = True

    def initialise(self, groups: int, units: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        raise StructureError(_NO_PARAMETERS)

    def prepare(self, parameters: dict[str, Tensor], support: Tensor | None) -> Quadratics:
        raise StructureError(_NO_PARAMETERS)

    def validate(self, evidence: InputEvidence, variables: tuple[int, ...]) -> None:
        Gaussian().validate(evidence, variables)

    def dtype_of(self, prepared: Quadratics) -> torch.dtype:
        return prepared.mean.dtype

    def log_values(
        self, prepared: Quadratics, rows: Rows, evidence: InputEvidence, maximise: bool
    ) -> Float[Tensor, "F B K"]:
        values = Gaussian().log_values(prepared.normal, rows, evidence, maximise)
        return values + prepared.log_integral[rows].unsqueeze(1)

    def posterior(
        self, prepared: Quadratics, rows: Rows, evidence: InputEvidence, flows: Tensor, exact: bool
    ) -> Float[Tensor, "F B 2"]:
        return Gaussian().posterior(prepared.normal, rows, evidence, flows, exact)

    def statistics(self, *args: Any) -> dict[str, Tensor]:
        raise StructureError(_NO_PARAMETERS)

    def maximise(
        self, prepared: Any, statistics: dict[str, Tensor], smooth: Smoothing, support: Tensor | None
    ) -> dict[str, Tensor]:
        raise StructureError(_NO_PARAMETERS)

    def sample(
        self,
        prepared: Quadratics,
        rows: Rows,
        evidence: InputEvidence,
        picks: Picks,
        temperature: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, " M"]:
        drawn = Gaussian().sample(prepared.normal, rows, evidence, picks, temperature, generator)
        return drawn.to(prepared.mean.dtype)

    def overlap(self, prepared: Quadratics, rows: Rows) -> Bool[Tensor, "F K K"]:
        units = prepared.mean.shape[1]
        return torch.ones(len(rows), units, units, dtype=torch.bool, device=prepared.mean.device)

    def expected_log(self, prepared: Quadratics, rows: Rows, evidence: InputEvidence) -> Float[Tensor, "F B K"]:
        found = Gaussian().expected_log(prepared.normal, rows, evidence)
        return found + prepared.log_integral[rows].unsqueeze(1)


def densities_of(family: InputFamily, prepared: Any) -> tuple[Univariate, Any]:
    """The family of the densities that continuous units are multiples of, and its parameters."""
    if isinstance(prepared, Quadratics):
        return Gaussian(), prepared.normal
    assert isinstance(family, Univariate)
    return family, prepared


def normalised(family: InputFamily, units: Any) -> Any:
    """Units of products as distributions; others are."""
    if isinstance(units, Table):
        return table_of(units.log - finite(logsumexp(units.log)).unsqueeze(-1))
    if isinstance(units, Quadratics):
        return units._replace(log_peak=units.log_peak - units.log_integral)
    if isinstance(family, Monomial):
        return units._replace(log_constant=units.log_constant - family.log_integral(units))
    return units


def log_mass_between(family: Univariate, unit: Any, low: Tensor, high: Tensor) -> Float[Tensor, "..."]:
    """`Univariate.log_mass` for many intervals, without quadrature; not differentiable."""
    if not isinstance(unit, Normal):
        return family.log_mass(unit, low, high)
    a, b = ((end - unit.mean) / unit.std for end in (low, high))
    a, b = torch.where(a > 0, -b, a), torch.where(a > 0, -a, b)  # the lower tail, whose logarithms are exact
    large, small = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    share = torch.where(a < b, finite(small) - finite(large), 0.0)
    return torch.where(small.isneginf(), large, large + torch.log(-torch.expm1(share)))


def factor_family(first: InputFamily, second: InputFamily) -> InputFamily:
    """The family of the products of two families' units.

    Raises:
        StructureError: there is no closed form for the two.
    """
    if isinstance(first, Discrete) and isinstance(second, Discrete) and first.num_categories == second.num_categories:
        return Tabulated(first.num_categories)
    if all(type(family) in (Gaussian, Quadratic) for family in (first, second)):
        return Quadratic()
    if isinstance(first, Monomial) and first == second:
        return first
    raise StructureError(f"the product of {first!r} and {second!r} has no closed form here")


def multiply_units(first: Any, second: Any, rows: tuple[Tensor, Tensor]) -> Table | Powers | Quadratics:
    """All products of a unit of one row and a unit of another: K_first K_second units, the second's fastest."""
    if isinstance(first, Table):
        return table_of(_outer(first.log[rows[0]], second.log[rows[1]]))
    if isinstance(first, Powers):
        return Powers(*(_outer(x[rows[0]], y[rows[1]]) for x, y in zip(first, second, strict=True)))
    first, second = (Quadratics.of(x) if isinstance(x, Normal) else x for x in (first, second))
    mine = Quadratics(*(x[rows[0]].unsqueeze(2) for x in first))
    product = mine.times(Quadratics(*(x[rows[1]].unsqueeze(1) for x in second)))
    return Quadratics(*(x.flatten(1, 2) for x in product))


def _outer(first: Float[Tensor, "F K *V"], second: Float[Tensor, "F L *V"]) -> Float[Tensor, "F N *V"]:
    return (first.unsqueeze(2) + second.unsqueeze(1)).flatten(1, 2)


def join_units(parts: Sequence[Any]) -> Any:
    """Prepared rows below each other."""
    if isinstance(parts[0], Table):
        return table_of(torch.cat([part.log for part in parts]))
    if isinstance(parts[0], SumWeights):
        linear, log = (torch.cat([getattr(part, name) for part in parts]) for name in ("linear", "log"))
        return SumWeights(linear, log, as_given=True)
    return type(parts[0])(*(None if xs[0] is None else torch.cat(xs) for xs in zip(*parts, strict=True)))


def unit_rows(prepared: Any, index: Tensor) -> Any:
    """Some rows of a group's prepared parameters."""
    if isinstance(prepared, Table):
        return table_of(prepared.log[index])
    if isinstance(prepared, SumWeights):
        rows = prepared.rows(index)
        return SumWeights(rows.linear, rows.log, as_given=True)
    if not (isinstance(prepared, tuple) and hasattr(prepared, "_fields")):
        raise StructureError(f"parameters prepared as {type(prepared).__name__} cannot be divided among circuits")
    kind: Any = type(prepared)
    return kind(*(None if x is None else x[index] for x in prepared))
