"""The definition of a sum over a Kronecker product. Derivations: the README beside this file."""

from pcircuits.kernels.dense_sum.reference import linear_sum, linear_sum_flow
from pcircuits.types import Float, Tensor


def kronecker_sum(
    weights: Float[Tensor, "F O J"], left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"]
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_kl weights[f,o,kl] left[f,b,k] right[f,b,l]`."""
    return linear_sum(weights, _product(left, right))


def kronecker_sum_flow(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F B K"],
    right: Float[Tensor, "F B L"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B L"], Float[Tensor, "F O J"] | None]:
    """Flows of both factors and, if asked for, expected counts of the weights summed over the batch."""
    found, counts = linear_sum_flow(weights, _product(left, right), outputs, flows, count=count)
    grid = found.unflatten(-1, (left.shape[-1], -1))
    return grid.sum(-1), grid.sum(-2), counts


def _product(left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"]) -> Float[Tensor, "F B J"]:
    return (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2)
