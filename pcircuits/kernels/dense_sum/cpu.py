"""Dense sums that write into given tensors: the definitions of `reference.py` without a temporary of their size."""

from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.matrix_product import bmm
from pcircuits.layout import samples_last, shaped, take_rows
from pcircuits.types import Float, Int, Tensor

CHUNK_ELEMENTS = 1 << 18  # of values that are taken before they are multiplied: they stay in the cache


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


def linear_sum_of_rows(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "R B J"],
    rows: Int[Tensor, " F"],
    *,
    scratch: Float[Tensor, " N"],
    out: Float[Tensor, "F B O"],
) -> Float[Tensor, "F B O"]:
    """`linear_sum` of `values[rows]`, some at a time in `scratch`, which has `scratch_size` elements."""
    for part in _parts(rows, values):
        linear_sum(weights[part], _taken(values, rows[part], scratch), out=out[part])
    return out


def linear_sum_flow_of_rows(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "R B J"],
    rows: Int[Tensor, " F"],
    share: Float[Tensor, "F B O"],
    *,
    scratch: Float[Tensor, " N"],
    out: Float[Tensor, "F B J"],
    counts: Float[Tensor, "F O J"] | None,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """`linear_sum_flow` of `values[rows]`, likewise: flows of what was taken."""
    for part in _parts(rows, values):
        taken, found = _taken(values, rows[part], scratch), None if counts is None else counts[part]
        linear_sum_flow(weights[part], taken, share[part], out=out[part], counts=found)
    return out, counts


def scratch_size(rows: Int[Tensor, " F"], values: Float[Tensor, "R B J"]) -> int:
    """Elements of the values that are taken at a time."""
    return _parts(rows, values)[0].stop * values[0].numel()


def _parts(rows: Tensor, values: Tensor) -> list[slice]:
    return chunks(len(rows), values[0].numel(), CHUNK_ELEMENTS)


def _taken(values: Tensor, rows: Tensor, scratch: Tensor) -> Tensor:
    shape = (len(rows), *values.shape[1:])
    return take_rows(values, rows, out=shaped(scratch[: len(rows) * values[0].numel()], shape, values))
