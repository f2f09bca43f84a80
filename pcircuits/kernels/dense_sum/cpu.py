"""Dense sums that write into given tensors: the definitions of `reference.py` without a temporary of their size."""

import torch

from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.guarded import LEAST_DENOMINATOR
from pcircuits.kernels.matrix_product import bmm
from pcircuits.layout import Rows, add_rows, samples_last, shaped, take_rows
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
    for part in _parts(len(rows), values):
        linear_sum(weights[part], _taken(values, rows[part], scratch), out=out[part])
    return out


def linear_sum_flow_by_parts(
    weights: Float[Tensor, "F O J"],
    values: Rows,
    raw: Float[Tensor, "F B O"],
    flows: Rows,
    *,
    guarded: bool,
    scratch: Float[Tensor, " N"],
    out: Rows,
    counts: Float[Tensor, "F O J"] | None,
) -> tuple[Rows, Float[Tensor, "F O J"] | None]:
    """`linear_sum_flow`, likewise, from flows of the sums `raw`, over which they may be written. `guarded`: sums may be
    zero. Flows are added to rows `out`, or written to all. `scratch` has `scratch_size` elements for values, their
    flows and sums.
    """
    table, rows = values
    size = scratch_size(len(raw), table)
    for part in _parts(len(raw), table):
        taken = table[part] if rows is None else _taken(table, rows[part], scratch)
        share = _share(flows, raw, part, guarded=guarded, scratch=scratch[2 * size :])
        room = shaped(scratch[size : size + taken.numel()], tuple(taken.shape), table)
        made = out.table[part] if out.at is None else room
        linear_sum_flow(weights[part], taken, share, out=made, counts=None if counts is None else counts[part])
        if out.at is not None:
            add_rows(out.table, out.at[part], made)
    return out, counts


def scratch_size(rows: int, values: Float[Tensor, "R B J"], others: int = 0) -> int:
    """Elements of the values that are taken at a time, of so many rows, and of as many rows of `others` units."""
    _, batch, units = values.shape
    return _parts(rows, values)[0].stop * batch * (units + others)


def _share(flows: Rows, raw: Tensor, part: slice, *, guarded: bool, scratch: Tensor) -> Tensor:
    raw, (table, index) = raw[part], flows
    share = shaped(scratch[: raw.numel()], raw.shape, raw) if index is None else _taken(table, index[part], scratch)
    given = table[part] if index is None else share
    least = LEAST_DENOMINATOR[raw.dtype]
    return torch.div(given, raw.clamp_min(least) if guarded else raw, out=share)


def _parts(rows: int, values: Tensor) -> list[slice]:
    return chunks(rows, values[0].numel(), CHUNK_ELEMENTS)


def _taken(values: Tensor, rows: Tensor, scratch: Tensor) -> Tensor:
    shape = (len(rows), *values.shape[1:])
    return take_rows(values, rows, out=shaped(scratch[: len(rows) * values[0].numel()], shape, values))
