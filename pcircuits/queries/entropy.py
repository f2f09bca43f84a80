"""Entropy of a posterior: exact where determinism makes it tractable, elsewhere an estimate that says so."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pcircuits.distributions import InputFamily
from pcircuits.errors import StructureError
from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence, InputEvidence
from pcircuits.kernels import finite
from pcircuits.semirings import Log, SumWeights, Values
from pcircuits.types import Float, Tensor

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error, `sample deviation / sqrt(n)`."""

    value: Float[Tensor, "..."]
    standard_error: Float[Tensor, "..."]

    @classmethod
    def of(cls, samples: Float[Tensor, "N ..."]) -> "Estimate":
        return cls(samples.mean(0), samples.std(0) / len(samples) ** 0.5)


def entropy(circuit: "Circuit", evidence: Evidence, log_evidence: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """`H(p(X | e)) = log p(e) - d/da log sum_x p(x, e)^a` at a = 1, in nats.

    A power goes inside the sums of a deterministic circuit, since one term of each is positive (Vergari et al. 2021,
    Sec. 4): the power circuit has weights w^a, whose derivative is taken.
    """
    if not circuit.determinism():
        raise StructureError(
            "an exact entropy needs a deterministic circuit, and this one is not proven to be (see pcircuits.check); "
            "use estimate_entropy(n, generator=...)"
        )
    return path_entropy(circuit, evidence, log_evidence)


def path_entropy(circuit: "Circuit", evidence: Evidence, log_evidence: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """`H(p(X, Z | e))` of the values and the path of branches that they come from, by the same derivative: of any
    circuit, whose power keeps paths apart. That of the values alone where these determine the path.
    """
    prepared, differentiable = circuit.prepared(), torch.is_grad_enabled()
    with torch.enable_grad():
        excess = torch.zeros((), dtype=torch.float64, device=evidence.device, requires_grad=True)
        p = upward(circuit.plan, _powered(prepared, excess), _powered_evidence(evidence, excess), _Powered(excess))
        mean = row_derivatives(p.log_evidence, excess)
    return log_evidence + circuit.log_partition() - (mean if differentiable else mean.detach())


def row_derivatives(outputs: Float[Tensor, " B"], x: Float[Tensor, ""]) -> Float[Tensor, " B"]:
    """`d outputs[b] / d x` of every row: the gradient is linear in the outputs' weights, so its own gradient with
    respect to them has all rows at once.
    """
    weights = torch.ones_like(outputs, requires_grad=True)
    (total,) = torch.autograd.grad(outputs, x, weights, create_graph=True)
    return torch.autograd.grad(total, weights, create_graph=True)[0]


class _Powered(Log):
    """Input values to the power `1 + excess`, to first order in the excess."""

    def __init__(self, excess: Float[Tensor, ""]) -> None:
        self.excess = excess

    def inputs(self, family: InputFamily, prepared: Any, rows: Tensor, evidence: InputEvidence) -> Values:
        values = super().inputs(family, prepared, rows, evidence)
        return values._replace(v=values.v + self.excess * family.expected_log(prepared, rows, evidence))


def _powered(prepared: Mapping[str, Any], excess: Float[Tensor, ""]) -> dict[str, Any]:
    """Sum weights to the power `1 + excess`, in float64; inputs as they are."""
    return {
        name: SumWeights(value.linear, _stretched(value.log, excess), as_given=True)
        if isinstance(value, SumWeights)
        else value
        for name, value in prepared.items()
    }


def _powered_evidence(evidence: Evidence, excess: Float[Tensor, ""]) -> Evidence:
    """Potentials and gates to the power; soft weights belong to the inputs."""
    powered = evidence.summing(evidence.summed)
    powered.latent = None if evidence.latent is None else _stretched(evidence.latent, excess)
    gates, powered.gate_factors = evidence.all_gates, None
    powered.gates = None if gates is None else _stretched(gates, excess)
    return powered


def _stretched(log: Tensor, excess: Float[Tensor, ""]) -> Tensor:
    return log.double() + excess * finite(log.double())
