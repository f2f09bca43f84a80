"""The derivative of a circuit with respect to a continuous variable, as a circuit."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Gaussian, InputFamily, Monomial
from pcircuits.distributions.family import Rows
from pcircuits.distributions.gaussian import Normal
from pcircuits.distributions.monomial import Powers
from pcircuits.errors import ParameterError, ShapeError, StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite
from pcircuits.operations.derived import CopiedCircuit
from pcircuits.operations.inputs import Quadratic, Quadratics
from pcircuits.operations.signed import SignedFunction
from pcircuits.types import Bool, Float, Shaped, Tensor


@dataclass(frozen=True)
class Slope(Quadratic):
    """Derivatives `f^(n)(x) = h_n(x) f(x)` of (unnormalised) Gaussian units f.

    With `u = f'(x) / f(x) = -precision (x - mean)`, `h_0 = 1` and `h_(n+1) = u h_n - n precision h_(n-1)`: Hermite
    polynomials. Their integral over an interval is `f^(n-1)` at its ends, over the reals 0.
    """

    order: int = 1
    name = "slope"

    def signed_values(
        self, prepared: Quadratics, rows: Rows, evidence: InputEvidence
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        """Linear values and the log of the scale that they were divided by."""
        f = prepared.rows(rows)
        terms = [_term(f, evidence.values, evidence.observed, self.order)]
        if evidence.interval is not None:
            for sign, end in ((-1.0, evidence.interval[..., 0]), (1.0, evidence.interval[..., 1])):
                factor, log = _term(f, end, evidence.bounded & end.isfinite(), self.order - 1)
                terms.append((sign * factor, log))
        peak = finite(torch.stack([log.detach() for _, log in terms]).amax((0, -1)))
        return torch.stack([factor * (log - peak.unsqueeze(-1)).exp() for factor, log in terms]).sum(0), peak


def _term(
    f: Quadratics, x: Shaped[Tensor, "F B"], counts: Bool[Tensor, "F B"], order: int
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B K"]]:
    """`h_order(x)` and `log f(x)`; 0 and `-inf` where x does not count."""
    x, counts = torch.where(counts, x, 0.0).double().unsqueeze(-1), counts.unsqueeze(-1)
    off = x - f.mean
    u = -f.precision * off
    before, factor = torch.zeros_like(u), torch.ones_like(u)
    for n in range(order):
        before, factor = factor, u * factor - n * f.precision * before
    return torch.where(counts, factor, 0.0), torch.where(
        counts, f.log_peak - 0.5 * f.precision * off.square(), -torch.inf
    )


class DerivativeCircuit(SignedFunction, CopiedCircuit):
    """`dc(x) / dx_variable` as a function over the same variables; made by `differentiate`."""

    def __init__(self, source: Circuit, variable: int) -> None:
        families = list(source.inputs)
        families[variable] = _derivative_family(families[variable])
        super().__init__(source, families, untied=variable)
        self.variable = variable

    def _changed(self, units: Any, apart: bool) -> Any:
        if not apart:
            return units
        if isinstance(units, Powers):
            return _derivative_powers(units, self.inputs[self.variable])
        return Quadratics.of(units) if isinstance(units, Normal) else units


def differentiate(circuit: Circuit, variable: int, *, order: int = 1) -> DerivativeCircuit:
    """`d^order c(x) / dx_variable^order` of what a circuit computes (its density; of products, squares and signed
    circuits the value before it is divided by `Z`), as a circuit: each path has one input of the variable, which that
    input's derivative replaces. `value(x)` is its sign and log size. The result can be differentiated again, by other
    variables too.

    By a discrete variable a circuit is linear in the indicators of its values (Darwiche 2003): the derivative by one of
    them is the value under the same evidence with the variable observed there.

    Raises:
        ShapeError: there is no such variable. ParameterError: `order` is no positive integer.
        StructureError: the variable is neither Gaussian nor Monomial.
    """
    if not isinstance(variable, int) or not 0 <= variable < circuit.num_variables:
        raise ShapeError(f"variables are 0..{circuit.num_variables - 1}, got {variable!r}")
    if not isinstance(order, int) or order < 1:
        raise ParameterError(f"`order` must be a positive integer, got {order!r}")
    found = DerivativeCircuit(circuit, variable)
    return found if order == 1 else differentiate(found, variable, order=order - 1)


def _derivative_family(family: InputFamily) -> InputFamily:
    if isinstance(family, Slope):
        return Slope(family.order + 1)
    if type(family) in (Gaussian, Quadratic):
        return Slope()
    if isinstance(family, Monomial):
        return family
    raise StructureError(
        f"derivatives are by Gaussian and Monomial variables, got {family!r}; that by a discrete value's indicator is "
        "the value under evidence that has it observed"
    )


def _derivative_powers(units: Powers, family: InputFamily) -> Powers:
    assert isinstance(family, Monomial)
    falls = units.degree > 0
    factor = torch.where(falls, units.degree, 1.0).double().log() - math.log(family.high - family.low)
    constant = torch.where(falls, units.log_constant + factor, -torch.inf)
    return Powers(torch.where(falls, units.degree - 1, 0.0), constant)
