"""Cross entropy and Kullback-Leibler divergence: exact where determinism and compatibility allow, else estimates."""

from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions.discrete import Table
from pcircuits.distributions.gaussian import Normal
from pcircuits.distributions.monomial import Powers
from pcircuits.distributions.tabulated import table_of
from pcircuits.errors import ShapeError, StructureError
from pcircuits.evaluator import upward
from pcircuits.evidence import Evidence
from pcircuits.kernels import finite
from pcircuits.operations.inputs import Quadratics
from pcircuits.operations.multiply import is_signed, multiply
from pcircuits.queries import Estimate, row_derivatives
from pcircuits.semirings import Log, SumWeights
from pcircuits.types import Float, Tensor

_LOST_MASS = 1e-10  # of p outside q's support, relative: above rounding of float64 sums


def cross_entropy(p: Circuit, q: Circuit) -> Float[Tensor, ""]:
    """`H(p, q) = -sum_x p(x) log q(x)` in nats, exact; `inf` where p has mass that q excludes.

    `q^a` of a deterministic circuit is the circuit of powers of its weights, so the answer is the derivative of
    `log sum_x p(x) q(x)^a` at a = 0 (Vergari et al. 2021, Theorem on cross entropy).

    Raises:
        StructureError: q is not proven deterministic, or p and q are not compatible; see `estimate_cross_entropy`.
    """
    if is_signed(p) or is_signed(q):
        raise StructureError("an exact cross entropy needs non-negative weights; use estimate_cross_entropy")
    if not q.determinism():
        raise StructureError(
            "an exact cross entropy needs a deterministic second circuit, and this one is not proven to be (see "
            "pcircuits.check); use estimate_cross_entropy(p, q, n, generator=...)"
        )
    differentiable = torch.is_grad_enabled()
    product, nothing = multiply(p, q), Evidence.nothing(1, p.num_variables, p.device)
    total = upward(p.plan, p.prepared(), nothing, Log()).log_evidence
    with torch.enable_grad():
        power = torch.zeros((), dtype=torch.float64, device=p.device, requires_grad=True)
        powered = {name: _powered(value, power) for name, value in q.prepared().items()}
        prepared = product.prepare_from([p.prepared(), powered])
        covered = upward(product.plan, prepared, nothing, Log()).log_evidence
        mean = row_derivatives(covered, power)[0] - q.log_partition()
    if not covered.detach() - total.detach() > -_LOST_MASS:
        return torch.full_like(total[0], torch.inf).detach()
    return -mean if differentiable else -mean.detach()


def kl_divergence(p: Circuit, q: Circuit) -> Float[Tensor, ""]:
    """`KL(p || q) = sum_x p(x) log (p(x) / q(x))` in nats, exact, at least 0; `inf` where p has mass that q excludes.

    Raises:
        StructureError: one of the two is not proven deterministic, or they are not compatible; see
            `estimate_kl_divergence`.
    """
    if is_signed(p) or is_signed(q):
        raise StructureError("an exact KL divergence needs non-negative weights; use estimate_kl_divergence")
    if not p.determinism():
        raise StructureError(
            "an exact KL divergence needs two deterministic circuits, and the first is not proven to be (see "
            "pcircuits.check); use estimate_kl_divergence(p, q, n, generator=...)"
        )
    crossed = cross_entropy(p, q)
    entropy = p.condition(Evidence.nothing(1, p.num_variables, p.device)).entropy()[0]
    return (crossed - entropy).clamp_min(0.0)


def estimate_cross_entropy(p: Circuit, q: Circuit, n: int, *, generator: torch.Generator | None = None) -> Estimate:
    """A Monte Carlo estimate of `-E_p[log q(X)]` in nats from n >= 2 samples of p, and its standard error; any
    circuits over the same variables. `inf` once a sample is impossible under q.
    """
    return Estimate.of(-q.log_prob(_samples(p, q, n, generator)))


def estimate_kl_divergence(p: Circuit, q: Circuit, n: int, *, generator: torch.Generator | None = None) -> Estimate:
    """A Monte Carlo estimate of `E_p[log p(X) - log q(X)]` in nats from n >= 2 samples of p, and its standard error;
    any circuits over the same variables. It may fall below 0, which the divergence does not.
    """
    x = _samples(p, q, n, generator)
    return Estimate.of(p.log_prob(x) - q.log_prob(x))


def _samples(p: Circuit, q: Circuit, n: int, generator: torch.Generator | None) -> Tensor:
    if not isinstance(n, int) or n < 2:
        raise ShapeError(f"`n` must be at least 2, for a standard error; got {n!r}")
    if p.num_variables != q.num_variables:
        raise ShapeError(
            f"the circuits have {p.num_variables} and {q.num_variables} variables; they must have the same"
        )
    return p.sample(n, generator=generator)


def _powered(value: Any, power: Float[Tensor, ""]) -> Any:
    """Weights and inputs to a power, 0 to any power being 0; in float64."""
    if isinstance(value, SumWeights):
        log = _log_power(value.log, power)
        return SumWeights(log.exp(), log, as_given=True)
    if isinstance(value, Table):
        return table_of(_log_power(value.log, power))
    if isinstance(value, Powers):
        return Powers(*(x.double() * power for x in value))
    if isinstance(value, Normal | Quadratics):
        mean, *rest = (x.double() for x in (Quadratics.of(value) if isinstance(value, Normal) else value))
        return Quadratics(mean, *(x * power for x in rest))
    raise StructureError(f"powers of inputs prepared as {type(value).__name__} have no closed form here")


def _log_power(log: Tensor, power: Float[Tensor, ""]) -> Tensor:
    return torch.where(log.isneginf(), -torch.inf, finite(log.double()) * power)
