"""Dense sums on CUDA devices: a batched product with gates in its accumulator, and its outer product."""

from collections.abc import Sequence

import torch
import triton.language as tl

from pcircuits.kernels.dense_sum import reference
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import ratio
from pcircuits.kernels.jit import jit
from pcircuits.kernels.tiles import Precision, splits, tile, tiles
from pcircuits.types import Float, Tensor


@jit
def sum_fwd_kernel(
    w, x, gate, out, B, O, J, s_wf, s_wo, s_wj, s_gf, s_gb, s_go, s_gj, O_BLOCK, J_BLOCK,
    GATED: tl.constexpr, BB: tl.constexpr, BO: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    i_o, i_b = i % tl.cdiv(O, BO), i // tl.cdiv(O, BO) % tl.cdiv(B, BB)
    i_f = (i // tl.cdiv(O, BO) // tl.cdiv(B, BB)).to(tl.int64)
    o_b, o_o = i_b * BB + tl.arange(0, BB), i_o * BO + tl.arange(0, BO)
    m_b, m_o = o_b < B, o_o < O
    per_block = tl.cdiv(J_BLOCK, BJ)
    b_acc = tl.zeros((BB, BO), dtype=tl.float32)
    for n in range(0, J // J_BLOCK * per_block):
        i_block = n // per_block
        o_j = i_block * J_BLOCK + n % per_block * BJ + tl.arange(0, BJ)
        m_j = o_j < (i_block + 1) * J_BLOCK
        # (BB, BJ)
        b_x = tl.load(x + i_f * B * J + o_b[:, None] * J + o_j[None, :], mask=m_b[:, None] & m_j[None, :], other=0.0)
        # (BJ, BO)
        p_w = w + i_f * s_wf + o_j[:, None] * s_wj + o_o[None, :] * s_wo
        b_w = tl.load(p_w, mask=m_j[:, None] & m_o[None, :], other=0.0)
        if GATED:
            # (BB, BO)
            p_gate = gate + i_f * s_gf + o_b[:, None].to(tl.int64) * s_gb + (o_o // O_BLOCK)[None, :] * s_go
            b_gate = tl.load(p_gate + i_block * s_gj, mask=m_b[:, None] & m_o[None, :], other=0.0)
            b_acc += b_gate * tl.dot(b_x, b_w, input_precision=PRECISION)
        else:
            b_acc = tl.dot(b_x, b_w, b_acc, input_precision=PRECISION)
    p_out = out + i_f * B * O + o_b[:, None] * O + o_o[None, :]
    tl.store(p_out, b_acc, mask=m_b[:, None] & m_o[None, :])


@jit
def sum_outer_kernel(
    y, x, gate, out, F, B, O, J, CHUNK, s_gf, s_gb, s_go, s_gj, O_BLOCK, J_BLOCK,
    GATED: tl.constexpr, BB: tl.constexpr, BO: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    per_block = tl.cdiv(J_BLOCK, BJ)
    num_o, num_j = tl.cdiv(O, BO), J // J_BLOCK * per_block
    i_j, i_o, i_f = i % num_j, i // num_j % num_o, (i // num_j // num_o % F).to(tl.int64)
    i_s = (i // num_j // num_o // F).to(tl.int64)
    o_o, o_j = i_o * BO + tl.arange(0, BO), i_j // per_block * J_BLOCK + i_j % per_block * BJ + tl.arange(0, BJ)
    m_o, m_j = o_o < O, o_j < (i_j // per_block + 1) * J_BLOCK
    b_acc = tl.zeros((BO, BJ), dtype=tl.float32)
    for start in range(i_s * CHUNK, tl.minimum((i_s + 1) * CHUNK, B), BB):
        o_b = start + tl.arange(0, BB)
        m_b = o_b < tl.minimum((i_s + 1) * CHUNK, B)
        # (BO, BB)
        b_y = tl.load(y + i_f * B * O + o_b[None, :] * O + o_o[:, None], mask=m_o[:, None] & m_b[None, :], other=0.0)
        # (BB, BJ)
        b_x = tl.load(x + i_f * B * J + o_b[:, None] * J + o_j[None, :], mask=m_b[:, None] & m_j[None, :], other=0.0)
        if GATED:
            # (BO, BB)
            p_gate = gate + i_f * s_gf + o_b[None, :].to(tl.int64) * s_gb + (o_o // O_BLOCK)[:, None] * s_go
            b_y *= tl.load(p_gate + i_j // per_block * s_gj, mask=m_o[:, None] & m_b[None, :], other=0.0)
        b_acc = tl.dot(b_y, b_x, b_acc, input_precision=PRECISION)
    p_out = out + (i_s * F + i_f) * O * J + o_o[:, None] * J + o_j[None, :]
    tl.store(p_out, b_acc, mask=m_o[:, None] & m_j[None, :])


def linear_sum(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    gates: Float[Tensor, "F B G H"] | None = None,
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F B O"]:
    """As the reference's."""

    def run(w: Tensor, x: Tensor, gate: Tensor | None) -> Tensors:
        return (_sum(w, x, gate, precision),)

    def gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, x, gate = arguments
        turned = None if gate is None else gate.mT
        return (
            _outer(grads[0], x, gate, precision) if needed[0] else None,
            _sum(w.mT, grads[0], turned, precision) if needed[1] else None,
            _gate_gradient(w, x, gate, grads[0]) if needed[2] else None,
        )

    def definition(w: Tensor, x: Tensor, gate: Tensor | None) -> Tensors:
        return (reference.linear_sum(w, x, gate),)

    return differentiable(run, gradients, definition, (weights, values, gates))[0]


def outer_sum(
    outputs: Float[Tensor, "F B O"],
    values: Float[Tensor, "F B J"],
    gates: Float[Tensor, "F B G H"] | None = None,
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F O J"]:
    """`out[f,o,j] = sum_b gate outputs[f,b,o] values[f,b,j]`."""

    def run(y: Tensor, x: Tensor, gate: Tensor | None) -> Tensors:
        return (_outer(y, x, gate, precision),)

    def gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        y, x, gate = arguments
        turned = None if gate is None else gate.mT
        return (
            _sum(grads[0], x, gate, precision) if needed[0] else None,
            _sum(grads[0].mT, y, turned, precision) if needed[1] else None,
            _gate_gradient(grads[0], x, gate, y) if needed[2] else None,
        )

    def definition(y: Tensor, x: Tensor, gate: Tensor | None) -> Tensors:
        return (reference.outer_sum(y, x, gate),)

    return differentiable(run, gradients, definition, (outputs, values, gates))[0]


def linear_sum_flow(
    weights: Float[Tensor, "F O J"],
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    gates: Float[Tensor, "F B G H"] | None = None,
    *,
    count: bool,
    precision: Precision = "tf32x3",
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F O J"] | None]:
    """As the reference's."""
    share = ratio(flows, outputs)
    turned = None if gates is None else gates.mT
    input_flows = values * linear_sum(weights.mT, share, turned, precision=precision)
    return input_flows, weights * outer_sum(share, values, gates, precision=precision) if count else None


def _sum(w: Tensor, x: Tensor, gate: Tensor | None, precision: Precision) -> Tensor:
    (rows, outputs, inputs), batch = w.shape, x.shape[1]
    blocks = (1, 1) if gate is None else gate.shape[-2:]
    out = x.new_empty(rows, batch, outputs)
    bb, bo, bj = tile(batch), tile(outputs), tile(inputs // blocks[1], 32)
    sum_fwd_kernel[(rows * tiles(batch, bb) * tiles(outputs, bo),)](
        w, x.contiguous(), x if gate is None else gate, out, batch, outputs, inputs, *w.stride(), *_strides(gate),
        outputs // blocks[0], inputs // blocks[1], GATED=gate is not None, BB=bb, BO=bo, BJ=bj, PRECISION=precision,
        num_warps=_warps(gate),
    )  # fmt: skip
    return out


def _outer(y: Tensor, x: Tensor, gate: Tensor | None, precision: Precision) -> Tensor:
    (rows, batch, outputs), inputs = y.shape, x.shape[2]
    blocks = (1, 1) if gate is None else gate.shape[-2:]
    bb, bo, bj = tile(batch, 32), tile(outputs), tile(inputs // blocks[1])
    programs = rows * tiles(outputs, bo) * blocks[1] * tiles(inputs // blocks[1], bj)
    parts = splits(programs, tiles(batch, bb))
    out = x.new_empty(parts, rows, outputs, inputs)
    sum_outer_kernel[(parts * programs,)](
        y.contiguous(), x.contiguous(), x if gate is None else gate, out, rows, batch, outputs, inputs,
        tiles(tiles(batch, bb), parts) * bb, *_strides(gate), outputs // blocks[0], inputs // blocks[1],
        GATED=gate is not None, BB=bb, BO=bo, BJ=bj, PRECISION=precision, num_warps=_warps(gate),
    )  # fmt: skip
    return out[0] if parts == 1 else out.sum(0)


def _warps(gate: Tensor | None) -> int:
    """A gate's tile beside the sum's own spills registers of four warps."""
    return 4 if gate is None else 8


def _strides(gate: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if gate is None else gate.stride()


def _gate_gradient(w: Tensor, x: Tensor, gate: Tensor | None, grad: Tensor) -> Tensor:
    """`sum of grad[f,b,o] w[f,o,j] x[f,b,j]` over a gate's block."""
    assert gate is not None
    with torch.enable_grad():
        gate = gate.detach().requires_grad_()
        return torch.autograd.grad(reference.linear_sum(w.detach(), x.detach(), gate), gate, grad)[0]
