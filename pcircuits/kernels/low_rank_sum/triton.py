"""Sums with gates of low rank on CUDA devices; no weights are made for a sample."""

from collections.abc import Sequence

import triton.language as tl

from pcircuits.kernels.dense_sum.triton import linear_sum, outer_sum
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import ratio
from pcircuits.kernels.jit import jit
from pcircuits.kernels.low_rank_sum import reference
from pcircuits.kernels.tiles import Precision, tile, tiles
from pcircuits.types import Float, Tensor


@jit
def low_rank_fwd_kernel(
    w, left, right, x, out, B, O, J, R, s_wf, s_wo, s_wj, BB: tl.constexpr, BO: tl.constexpr, BJ: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_o = tl.cdiv(O, BO)
    i_o, i_b, i_f = i % num_o, i // num_o % tl.cdiv(B, BB), (i // num_o // tl.cdiv(B, BB)).to(tl.int64)
    o_b, o_o = i_b * BB + tl.arange(0, BB), i_o * BO + tl.arange(0, BO)
    m_b, m_o = o_b < B, o_o < O
    m_out = m_b[:, None] & m_o[None, :]
    b_acc = tl.zeros((BB, BO), dtype=tl.float32)
    for r in range(0, R):
        b_sum = tl.zeros((BB, BO), dtype=tl.float32)
        for start in range(0, J, BJ):
            o_j = start + tl.arange(0, BJ)
            m_j = o_j < J
            # (BB, BJ), (BJ, BO)
            at, m_x = o_b[:, None] * J + o_j[None, :], m_b[:, None] & m_j[None, :]
            b_x = tl.load(x + i_f * B * J + at, mask=m_x, other=0.0)
            b_x *= tl.load(right + (i_f * R + r) * B * J + at, mask=m_x, other=0.0)
            p_w = w + i_f * s_wf + o_j[:, None] * s_wj + o_o[None, :] * s_wo
            b_w = tl.load(p_w, mask=m_j[:, None] & m_o[None, :], other=0.0)
            b_sum = tl.dot(b_x, b_w, b_sum, input_precision=PRECISION)
        # (BB, BO)
        p_left = left + (i_f * R + r) * B * O + o_b[:, None] * O + o_o[None, :]
        b_acc += b_sum * tl.load(p_left, mask=m_out, other=0.0)
    tl.store(out + i_f * B * O + o_b[:, None] * O + o_o[None, :], b_acc, mask=m_out)


def low_rank_sum(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F R B O"],
    right: Float[Tensor, "F R B J"],
    values: Float[Tensor, "F B J"],
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F B O"]:
    """As the reference's."""

    def run(w: Tensor, u: Tensor, v: Tensor, x: Tensor) -> Tensors:
        return (_sum(w, u, v, x, precision),)

    def gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, u, v, x = arguments
        g = grads[0]
        above, below = _each_rank(u, g), _each_rank(v, x)
        return (
            outer_sum(above, below, precision=precision) if needed[0] else None,
            _inner(w, below, u, precision) * g.unsqueeze(1) if needed[1] else None,
            _inner(w.mT, above, v, precision) * x.unsqueeze(1) if needed[2] else None,
            _sum(w.mT, v, u, g, precision) if needed[3] else None,
        )

    def definition(w: Tensor, u: Tensor, v: Tensor, x: Tensor) -> Tensors:
        return (reference.low_rank_sum(w, u, v, x),)

    return differentiable(run, gradients, definition, (weights, left, right, values))[0]


def low_rank_sum_flow(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F R B O"],
    right: Float[Tensor, "F R B J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
    precision: Precision = "tf32x3",
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """As the reference's."""
    share = ratio(flows, outputs)
    input_flows = values * low_rank_sum(weights.mT, right, left, share, precision=precision)
    if not count:
        return input_flows, None
    return input_flows, weights * outer_sum(_each_rank(left, share), _each_rank(right, values), precision=precision)


def _each_rank(factors: Tensor, x: Tensor) -> Float[Tensor, "F RB I"]:
    return (factors * x.unsqueeze(1)).flatten(1, 2)


def _inner(w: Tensor, x: Tensor, like: Tensor, precision: Precision) -> Float[Tensor, "F R B O"]:
    """The sums before they are weighed with `like`."""
    return linear_sum(w, x, precision=precision).view(like.shape)


def _sum(w: Tensor, left: Tensor, right: Tensor, x: Tensor, precision: Precision) -> Tensor:
    (rows, outputs, inputs), (_, rank, batch, _) = w.shape, left.shape
    out = x.new_empty(rows, batch, outputs)
    bb, bo, bj = tile(batch, 32), tile(outputs), tile(inputs, 32)  # two accumulators
    low_rank_fwd_kernel[(rows * tiles(batch, bb) * tiles(outputs, bo),)](
        w, left.contiguous(), right.contiguous(), x.contiguous(), out, batch, outputs, inputs, rank, *w.stride(),
        BB=bb, BO=bo, BJ=bj, PRECISION=precision, num_warps=8,
    )  # fmt: skip
    return out
