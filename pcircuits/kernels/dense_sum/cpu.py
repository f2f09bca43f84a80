"""Dense sums that write into given tensors: the definitions of `reference.py` without a temporary of their size."""

from pcircuits.kernels.matrix_product import bmm
from pcircuits.layout import samples_last
from pcircuits.types import Float, Tensor


def linear_sum(
    weights: Float[Tensor, "F O J"], values: Float[Tensor, "F B J"], *, out: Float[Tensor, "F B O"]
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_j weights[f,o,j] values[f,b,j]`."""
    if samples_last(values) or samples_last(out):
        bmm(weights, values.mT, out=out.mT)
    else:
        bmm(values, weights.mT, out=out)
    return out


def linear_sum_flow(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    share: Float[Tensor, "F B O"],
    *,
    out: Float[Tensor, "F B J"],
    counts: Float[Tensor, "F O J"] | None,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """Flows of the inputs into `out` and, if given, expected counts of weights into `counts`; `share` is the outputs'
    flows over their values.
    """
    linear_sum(weights.mT, share, out=out).mul_(values)
    if counts is not None:
        bmm(share.mT, values, out=counts).mul_(weights)
    return out, counts
