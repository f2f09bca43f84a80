"""The derivative of a circuit with respect to a continuous variable, as a circuit."""

from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.blocks import Block
from pcircuits.circuit import Circuit
from pcircuits.distributions import Gaussian
from pcircuits.distributions.family import Rows
from pcircuits.distributions.gaussian import Normal
from pcircuits.errors import ShapeError, StructureError
from pcircuits.evidence import InputEvidence
from pcircuits.kernels import finite
from pcircuits.operations.derived import CopiedCircuit
from pcircuits.operations.inputs import Quadratic, Quadratics
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


class DerivativeCircuit(SignedFunction, CopiedCircuit):
    """`dp(x) / dx_variable` as a function over the same variables; made by `differentiate`."""

    def __init__(self, source: Circuit, variable: int) -> None:
        families = [Slope() if v == variable else family for v, family in enumerate(source.inputs)]
        super().__init__(source, families)
        self.variable = variable

    def _changed(self, block: Block, units: Any) -> Any:
        return Quadratics.of(units) if block.variables == (self.variable,) and isinstance(units, Normal) else units


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
