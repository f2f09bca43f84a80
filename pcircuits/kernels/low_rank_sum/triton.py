"""Sums with weights of low rank a sample on CUDA devices; no weights are made for a sample."""

from collections.abc import Sequence

import triton
import triton.language as tl

from pcircuits.kernels.dense_sum.triton import outer_sum
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.jit import jit
from pcircuits.kernels.low_rank_sum import reference
from pcircuits.kernels.tiles import Precision, tile, tiles
from pcircuits.types import Float, Tensor


@jit
def low_rank_fwd_kernel(
    w, left, right, x, out, inner, B, O, J, s_wf, s_wo, s_wj, RANK: tl.constexpr, BR: tl.constexpr, BB: tl.constexpr,
    BO: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_o = tl.cdiv(O, BO)
    i_o, i_b, i_f = i % num_o, i // num_o % tl.cdiv(B, BB), (i // num_o // tl.cdiv(B, BB)).to(tl.int64)
    o_b, o_o, o_r = i_b * BB + tl.arange(0, BB), i_o * BO + tl.arange(0, BO), tl.arange(0, BR)
    m_b, m_o = o_b < B, o_o < O
    b_acc = tl.zeros((BB, BO), dtype=tl.float32)
    b_inner = tl.zeros((BB, BR), dtype=tl.float32)
    for start in range(0, J, BJ):
        o_j = start + tl.arange(0, BJ)
        m_j = o_j < J
        # (BB, BJ), (BJ, BO)
        b_x = tl.load(x + i_f * B * J + o_b[:, None] * J + o_j[None, :], mask=m_b[:, None] & m_j[None, :], other=0.0)
        p_w = w + i_f * s_wf + o_j[:, None] * s_wj + o_o[None, :] * s_wo
        b_acc = tl.dot(b_x, tl.load(p_w, mask=m_j[:, None] & m_o[None, :], other=0.0), b_acc, input_precision=PRECISION)
        for r in tl.static_range(RANK):
            p_right = right + (i_f * B * J + o_b[:, None] * J + o_j[None, :]) * RANK + r
            b_right = tl.load(p_right, mask=m_b[:, None] & m_j[None, :], other=0.0)
            b_inner += tl.where((o_r == r)[None, :], tl.sum(b_right * b_x, 1)[:, None], 0.0)
    for r in tl.static_range(RANK):
        p_left = left + (i_f * B * O + o_b[:, None] * O + o_o[None, :]) * RANK + r
        b_left = tl.load(p_left, mask=m_b[:, None] & m_o[None, :], other=0.0)
        b_acc += b_left * tl.sum(tl.where((o_r == r)[None, :], b_inner, 0.0), 1)[:, None]
    tl.store(out + i_f * B * O + o_b[:, None] * O + o_o[None, :], b_acc, mask=m_b[:, None] & m_o[None, :])
    if i_o == 0:
        p_inner = inner + (i_f * B + o_b[:, None]) * RANK + o_r[None, :]
        tl.store(p_inner, b_inner, mask=m_b[:, None] & (o_r < RANK)[None, :])


def low_rank_sum(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F B O R"],
    right: Float[Tensor, "F B J R"],
    values: Float[Tensor, "F B J"],
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F B O"]:
    """As the reference's."""

    def run(w: Tensor, u: Tensor, v: Tensor, x: Tensor) -> Tensors:
        return _sum(w, u, v, x, precision)

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, u, v, x = arguments
        to_values, inner = _sum(w.mT, v, u, grads[0], precision)  # the transposed weights: the factors change places
        return (
            outer_sum(grads[0], x, precision=precision) if needed[0] else None,
            grads[0].unsqueeze(-1) * found[1].unsqueeze(2) if needed[1] else None,
            x.unsqueeze(-1) * inner.unsqueeze(2) if needed[2] else None,
            to_values if needed[3] else None,
        )

    def definition(w: Tensor, u: Tensor, v: Tensor, x: Tensor) -> Tensors:
        return (reference.low_rank_sum(w, u, v, x),)

    return differentiable(run, gradients, definition, (weights, left, right, values))[0]


def _sum(w: Tensor, left: Tensor, right: Tensor, x: Tensor, precision: Precision) -> Tensors:
    """The sum, and `sum_j right[f,b,j,r] values[f,b,j]`."""
    (rows, outputs, inputs), batch, rank = w.shape, x.shape[1], left.shape[-1]
    out, inner = x.new_empty(rows, batch, outputs), x.new_empty(rows, batch, rank)
    bb, bo, bj = tile(batch, 32), tile(outputs), tile(inputs, 32)
    low_rank_fwd_kernel[(rows * tiles(batch, bb) * tiles(outputs, bo),)](
        w, left.contiguous(), right.contiguous(), x.contiguous(), out, inner, batch, outputs, inputs, *w.stride(),
        RANK=rank, BR=triton.next_power_of_2(rank), BB=bb, BO=bo, BJ=bj, PRECISION=precision,
    )  # fmt: skip
    return out, inner
