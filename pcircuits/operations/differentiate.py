"""The derivative of a circuit with respect to a continuous variable, as a circuit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Gaussian
from pcircuits.distributions.family import Rows
from pcircuits.errors import ShapeError, StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite
from pcircuits.operations.derived import DerivedCircuit, Piece
from pcircuits.operations.inputs import Quadratic, Quadratics, join_units, unit_rows
from pcircuits.operations.signed import SignedFunction
from pcircuits.types import Float, Tensor


@dataclass(frozen=True)
class Slope(Quadratic):
    """Derivatives `f'(x) = (2 square x + slope) f(x)` of (unnormalised) Gaussian units; their integrals are zero."""

    name = "slope"

    def signed_values(
        self, prepared: Quadratics, rows: Rows, evidence: InputEvidence
    ) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
        """Linear values and the log of the scale that they were divided by."""
        f = prepared.rows(rows)
        log_values = self.log_values(prepared, rows, evidence, False)
        peak = finite(log_values.detach().amax(-1))
        x = torch.where(evidence.observed, evidence.values, 0.0).double().unsqueeze(-1)
        values = (2 * f.square * x + f.slope) * (log_values - peak.unsqueeze(-1)).exp()
        return torch.where(evidence.observed.unsqueeze(-1), values, 0.0), peak


class DerivativeCircuit(SignedFunction, DerivedCircuit):
    """`dp(x) / dx_variable` as a function over the same variables; made by `differentiate`."""

    def __init__(self, source: Circuit, variable: int) -> None:
        families = [Slope() if v == variable else family for v, family in enumerate(source.inputs)]
        pieces = [Piece(block, n if place else None) for n, (block, place) in enumerate(_placed(source))]
        super().__init__((source,), pieces, families)
        self.variable = variable

    def _combine(self, recipes: Sequence[int], prepared: Sequence[Mapping[str, Any]]) -> Any:
        (source,) = self.sources
        assert isinstance(source, Circuit)
        rows = []
        for block in recipes:
            place = source.plan.places[block]
            assert place is not None
            units = unit_rows(prepared[0][place[0]], torch.tensor([place[1]]))
            of_variable = source.plan.blocks[block].variables == (self.variable,)
            rows.append(Quadratics.of(units) if of_variable and not isinstance(units, Quadratics) else units)
        return join_units(rows)


def differentiate(circuit: Circuit, variable: int) -> DerivativeCircuit:
    """`dc(x) / dx_variable` of what a circuit computes (its density, unless it is a product), as a circuit: each path
    has one input of the variable, which that input's derivative replaces. `value(x)` is its sign and log size.

    Raises:
        ShapeError: there is no such variable.
        StructureError: the variable is not Gaussian. (What a discrete variable's indicators are multiplied with are the
            flows of `marginals`.)
    """
    if not isinstance(variable, int) or not 0 <= variable < circuit.num_variables:
        raise ShapeError(f"variables are 0..{circuit.num_variables - 1}, got {variable!r}")
    if type(circuit.inputs[variable]) not in (Gaussian, Quadratic) or isinstance(circuit, SignedFunction):
        raise StructureError(
            f"only densities of Gaussian variables are differentiated; got {circuit.inputs[variable]!r}"
        )
    return DerivativeCircuit(circuit, variable)


def _placed(circuit: Circuit) -> list[tuple[Any, Any]]:
    return list(zip(circuit.plan.blocks, circuit.plan.places, strict=True))
