"""Block-sparse sums on CUDA devices: only the blocks of the pattern are read."""

from collections.abc import Sequence

import triton.language as tl

from pcircuits.errors import ShapeError
from pcircuits.kernels.block_sparse_sum import reference
from pcircuits.kernels.block_sparse_sum.reference import BlockPattern
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import ratio
from pcircuits.kernels.jit import jit
from pcircuits.kernels.segments import Segments
from pcircuits.kernels.tiles import Precision, tile, tiles
from pcircuits.types import Float, Tensor

__all__ = ["BlockPattern", "block_sparse_outer", "block_sparse_sum", "block_sparse_sum_flow"]


@jit
def block_sparse_fwd_kernel(
    w, x, column, order, offset, out, B, O, J, N, s_wo, s_wj, BB: tl.constexpr, S: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_r, num_b = O // S, tl.cdiv(B, BB)
    i_r, i_b, i_f = i % num_r, i // num_r % num_b, (i // num_r // num_b).to(tl.int64)
    o_b, o_s = i_b * BB + tl.arange(0, BB), tl.arange(0, S)
    m_b = o_b < B
    b_acc = tl.zeros((BB, S), dtype=tl.float32)
    for n in range(tl.load(offset + i_r), tl.load(offset + i_r + 1)):
        i_n = tl.load(order + n)
        o_j = tl.load(column + i_n) * S + o_s
        # (BB, S), (S, S) inputs first
        b_x = tl.load(x + (i_f * B + o_b[:, None]) * J + o_j[None, :], mask=m_b[:, None], other=0.0)
        b_w = tl.load(w + (i_f * N + i_n) * S * S + o_s[:, None] * s_wj + o_s[None, :] * s_wo)
        b_acc = tl.dot(b_x, b_w, b_acc, input_precision=PRECISION)
    p_out = out + (i_f * B + o_b[:, None]) * O + i_r * S + o_s[None, :]
    tl.store(p_out, b_acc, mask=m_b[:, None])


@jit
def block_sparse_outer_kernel(
    y, x, row, column, out, B, O, J, N, BB: tl.constexpr, S: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0)
    i_n, i_f = i % N, (i // N).to(tl.int64)
    o_s = tl.arange(0, S)
    o_o, o_j = tl.load(row + i_n) * S + o_s, tl.load(column + i_n) * S + o_s
    b_acc = tl.zeros((S, S), dtype=tl.float32)
    for start in range(0, B, BB):
        o_b = start + tl.arange(0, BB)
        m_b = o_b < B
        # (S, BB), (BB, S)
        b_y = tl.load(y + (i_f * B + o_b[None, :]) * O + o_o[:, None], mask=m_b[None, :], other=0.0)
        b_x = tl.load(x + (i_f * B + o_b[:, None]) * J + o_j[None, :], mask=m_b[:, None], other=0.0)
        b_acc = tl.dot(b_y, b_x, b_acc, input_precision=PRECISION)
    tl.store(out + (i_f * N + i_n) * S * S + o_s[:, None] * S + o_s[None, :], b_acc)


def block_sparse_sum(
    blocks: Float[Tensor, "F N S S"],
    pattern: BlockPattern,
    values: Float[Tensor, "F B J"],
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F B O"]:
    """As the reference's. S is a power of two, at least 16."""

    def run(w: Tensor, x: Tensor) -> Tensors:
        return (_sum(w, pattern, x, precision),)

    def gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, x = arguments
        return (
            _outer(grads[0], pattern, x, w.shape[-1], precision) if needed[0] else None,
            _sum(w.mT, pattern.transposed, grads[0], precision) if needed[1] else None,
        )

    def definition(w: Tensor, x: Tensor) -> Tensors:
        return (reference.block_sparse_sum(w, pattern, x),)

    return differentiable(run, gradients, definition, (blocks, values))[0]


def block_sparse_outer(
    outputs: Float[Tensor, "F B O"],
    pattern: BlockPattern,
    values: Float[Tensor, "F B J"],
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F N S S"]:
    """As the reference's."""

    def run(y: Tensor, x: Tensor) -> Tensors:
        return (_outer(y, pattern, x, x.shape[-1] // pattern.num_columns, precision),)

    def gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        y, x = arguments
        return (
            _sum(grads[0], pattern, x, precision) if needed[0] else None,
            _sum(grads[0].mT, pattern.transposed, y, precision) if needed[1] else None,
        )

    def definition(y: Tensor, x: Tensor) -> Tensors:
        return (reference.block_sparse_outer(y, pattern, x),)

    return differentiable(run, gradients, definition, (outputs, values))[0]


def block_sparse_sum_flow(
    blocks: Float[Tensor, "F N S S"],
    pattern: BlockPattern,
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
    precision: Precision = "tf32x3",
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F N S S"] | None]:
    """As the reference's."""
    share = ratio(flows, outputs)
    to_values = values * block_sparse_sum(blocks.mT, pattern.transposed, share, precision=precision)
    return to_values, blocks * block_sparse_outer(share, pattern, values, precision=precision) if count else None


def _sum(w: Tensor, pattern: BlockPattern, x: Tensor, precision: Precision) -> Tensor:
    (rows, count, size, _), batch = w.shape, x.shape[1]
    if size < 16 or size & (size - 1):
        raise ShapeError(f"blocks must have a side that is a power of two and at least 16, got {size}")
    segments, bb = Segments.of(pattern.rows, pattern.num_rows), tile(batch)
    w = w if w.stride()[:2] == (count * size * size, size * size) else w.contiguous()
    out = x.new_empty(rows, batch, pattern.num_rows * size)
    block_sparse_fwd_kernel[(rows * pattern.num_rows * tiles(batch, bb),)](
        w, x.contiguous(), pattern.columns, segments.order, segments.offsets, out, batch, out.shape[-1], x.shape[-1],
        count, *w.stride()[2:], BB=bb, S=size, PRECISION=precision,
    )  # fmt: skip
    return out


def _outer(y: Tensor, pattern: BlockPattern, x: Tensor, size: int, precision: Precision) -> Tensor:
    rows, batch, outputs = y.shape
    count = len(pattern.rows)
    out = y.new_empty(rows, count, size, size)
    block_sparse_outer_kernel[(rows * count,)](
        y.contiguous(), x.contiguous(), pattern.rows, pattern.columns, out, batch, outputs, x.shape[-1], count,
        BB=tile(batch, 32), S=size, PRECISION=precision,
    )  # fmt: skip
    return out
