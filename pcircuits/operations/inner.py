"""Inner products, distances and divergences of compatible circuits: integrals of their products."""

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.kernels import finite
from pcircuits.operations.multiply import multiply
from pcircuits.operations.signed import SignedFunction
from pcircuits.types import Float, Tensor


def log_inner_product(first: Circuit, second: Circuit) -> Float[Tensor, ""]:
    """`log sum_x p(x) q(x)` (an integral over continuous variables) of two compatible circuits' normalised
    distributions, float64, differentiable; `-inf` where their supports do not meet.

    Raises:
        StructureError: the circuits are not compatible, or their inputs have no closed product.
    """
    if any(isinstance(circuit, SignedFunction) for circuit in (first, second)):
        raise StructureError("inner products are of distributions; the square of a signed circuit is one")
    totals = finite(first.log_partition()) + finite(second.log_partition())
    return multiply(first, second).log_partition() - totals


def inner_product(first: Circuit, second: Circuit) -> Float[Tensor, ""]:
    """`<p, q> = sum_x p(x) q(x) = E_p[q(X)]`: the expected probability of one circuit under the other. It is tiny for
    many variables: see `log_inner_product`, whose errors it shares.
    """
    return log_inner_product(first, second).exp()


def l2_distance(first: Circuit, second: Circuit) -> Float[Tensor, ""]:
    """`||p - q|| = sqrt(<p, p> - 2 <p, q> + <q, q>)`, float64; errors as of `log_inner_product`.

    Distances below about 1e-8 of the norms drown in rounding.
    """
    logs = [log_inner_product(*pair) for pair in ((first, first), (first, second), (second, second))]
    peak = torch.stack([logs[0].detach(), logs[2].detach()]).amax()
    own, mixed, other = ((log - peak).exp() for log in logs)
    return (own - 2 * mixed + other).clamp_min(0.0).sqrt() * (peak / 2).exp()


def cauchy_schwarz_divergence(first: Circuit, second: Circuit) -> Float[Tensor, ""]:
    """`-log (<p, q> / sqrt(<p, p> <q, q>))` in nats: 0 where the circuits are equal, `inf` where their supports do not
    meet (Jenssen et al. 2006; exact for compatible circuits: Vergari et al. 2021). Errors as of `log_inner_product`.
    """
    own, mixed, other = (log_inner_product(*pair) for pair in ((first, first), (first, second), (second, second)))
    return ((own + other) / 2 - mixed).clamp_min(0.0)
