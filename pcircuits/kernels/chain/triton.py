"""Chain segments on CUDA devices: all steps in one launch where a state vector fits a tile, one launch a step else."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton.language as tl

from pcircuits.kernels.chain import reference
from pcircuits.kernels.chain.reference import Chain
from pcircuits.kernels.dense_sum.triton import outer_sum
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import ratio
from pcircuits.kernels.jit import jit
from pcircuits.kernels.sum_product.triton import Level, forward, product_flows
from pcircuits.kernels.tiles import Precision, tile, tiles
from pcircuits.types import Float, Tensor

LARGEST_FUSED = 64  # states: at 128 the weights exceed the shared memory of sm_80, and registers spill


@jit
def chain_fwd_kernel(
    w, given, states, out_peak, T, B, H, BB: tl.constexpr, BH: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    o_b, o_h = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB), tl.arange(0, BH)
    m_b, m_h = o_b < B, o_h < H
    at, mask = o_b[:, None] * H + o_h[None, :], m_b[:, None] & m_h[None, :]
    # (BH, BH), inputs first
    b_w = tl.load(w + o_h[None, :] * H + o_h[:, None], mask=m_h[:, None] & m_h[None, :], other=0.0)
    b_v = tl.load(states + at, mask=mask, other=0.0)
    for _ in range(0, T):
        # (BB, BH)
        b_x = b_v * tl.load(given + at, mask=mask, other=0.0)
        b_peak = tl.max(b_x, 1)
        tl.store(out_peak + o_b, b_peak, mask=m_b)
        b_x /= tl.where(b_peak > 0, b_peak, 1.0)[:, None]
        b_v = tl.dot(b_x, b_w, input_precision=PRECISION)
        at += B * H
        o_b += B
        tl.store(states + at, b_v, mask=mask)


@jit
def chain_bwd_kernel(
    w, given, states, peak, grad, total, to_given, to_start, T, B, H, BB: tl.constexpr, BH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    o_b, o_h = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB), tl.arange(0, BH)
    m_b, m_h = o_b < B, o_h < H
    at, mask = o_b[:, None] * H + o_h[None, :], m_b[:, None] & m_h[None, :]
    # (BH, BH), outputs first
    b_w = tl.load(w + o_h[:, None] * H + o_h[None, :], mask=m_h[:, None] & m_h[None, :], other=0.0)
    b_g = tl.zeros((BB, BH), dtype=tl.float32)
    o_t, at_t = o_b + (T - 1) * tl.full((), 1, tl.int64) * B, at + (T - 1) * tl.full((), 1, tl.int64) * B * H
    for _ in range(0, T):
        b_g += tl.load(grad + at_t, mask=mask, other=0.0)
        tl.store(total + at_t, b_g, mask=mask)
        b_peak = tl.load(peak + o_t, mask=m_b, other=1.0)
        b_x = tl.dot(b_g, b_w, input_precision=PRECISION) / tl.where(b_peak > 0, b_peak, 1.0)[:, None]
        b_before = tl.load(states + at_t, mask=mask, other=0.0)
        tl.store(to_given + at_t, b_x * b_before, mask=mask)
        b_g = b_x * tl.load(given + at_t, mask=mask, other=0.0)
        o_t -= B
        at_t -= B * H
    tl.store(to_start + at, b_g, mask=mask)


def chain(
    weights: Float[Tensor, "H H"],
    inputs: Float[Tensor, "T B H"],
    input_scales: Float[Tensor, "T B"],
    start: Float[Tensor, "B H"],
    start_scale: Float[Tensor, " B"],
    *,
    precision: Precision = "tf32x3",
) -> Chain:
    """As the reference's."""

    def run(w: Tensor, given: Tensor, first: Tensor) -> Tensors:
        steps = _steps(w, given, first, precision)
        return steps.states[1:], _scales(steps.peaks, input_scales, start_scale), steps.peaks

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, given, first = arguments
        steps = Steps(w, given, torch.cat([first.unsqueeze(0), found[0]]), found[2], precision)
        total, to_given, to_start = _gradients(steps, grads[0])
        return _weights_gradient(steps, total) if needed[0] else None, to_given, to_start

    def definition(w: Tensor, given: Tensor, first: Tensor) -> Tensors:
        return tuple(reference.chain(w, given, input_scales, first, start_scale))

    return Chain(*differentiable(run, gradients, definition, (weights, inputs, start)))


def chain_flow(
    weights: Float[Tensor, "H H"],
    inputs: Float[Tensor, "T B H"],
    start: Float[Tensor, "B H"],
    values: Float[Tensor, "T B H"],
    flows: Float[Tensor, "B H"],
    *,
    count: bool,
    precision: Precision = "tf32x3",
) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "H H"] | None]:
    """As the reference's."""

    def run(w: Tensor, given: Tensor, first: Tensor, out: Tensor, flow: Tensor) -> Tensors:
        states = torch.cat([first.unsqueeze(0), out])
        steps = Steps(w, given, states, (given * states[:-1]).amax(-1), precision)
        grad = torch.zeros_like(out)
        grad[-1] = ratio(flow, out[-1])
        total, to_given, _ = _gradients(steps, grad)
        to_products = to_given * given
        return (to_products, w * _weights_gradient(steps, total)) if count else (to_products,)

    def definition(w: Tensor, given: Tensor, first: Tensor, out: Tensor, flow: Tensor) -> Tensors:
        found = reference.chain_flow(w, given, first, out, flow, count=count)
        return tuple(y for y in found if y is not None)

    outputs = 2 if count else 1
    found = differentiable(run, None, definition, (weights, inputs, start, values, flows), outputs=outputs)
    return found[0], found[1] if count else None


class Steps(NamedTuple):
    """A chain's upward pass; `states` has the start before the values of the steps."""

    weights: Tensor
    inputs: Tensor
    states: Tensor
    peaks: Tensor
    precision: Precision

    def levels(self, table: Tensor) -> list[Level]:
        """Each step by itself: the product of two rows of the table of inputs and states, and the sum."""
        weights, peaks = self.weights.contiguous(), self.peaks.contiguous()
        step = torch.arange(len(peaks), device=table.device)
        children = torch.stack([step, step + len(step)], 1)
        return [
            Level(weights.unsqueeze(0), table, child, children[0, :1], peak, self.precision)
            for child, peak in zip(children.split(1), peaks.split(1), strict=True)
        ]


def _steps(w: Tensor, given: Tensor, first: Tensor, precision: Precision) -> Steps:
    (length, batch, width), peaks = given.shape, given.new_empty(given.shape[:2])
    if width <= LARGEST_FUSED:
        states, bb = first.new_empty(length + 1, batch, width), tile(batch, 32)
        states[0] = first
        steps = Steps(w.contiguous(), given.contiguous(), states, peaks, precision)
        chain_fwd_kernel[(tiles(batch, bb),)](
            steps.weights, steps.inputs, states, peaks, length, batch, width, BB=bb, BH=tile(width, LARGEST_FUSED),
            PRECISION=precision,
        )  # fmt: skip
        return steps
    table = torch.cat([given, first.unsqueeze(0), given.new_empty(length, batch, width)])
    steps = Steps(w, table[:length], table[length:], peaks, precision)
    scales = given.new_zeros(len(table), batch, dtype=torch.float64)
    for level, values in zip(steps.levels(table), steps.states[1:].split(1), strict=True):
        forward(level, scales, values)
    return steps


def _gradients(steps: Steps, grad: Tensor) -> Tensors:
    """Gradients of every step's values, of its inputs, and of the start."""
    (length, batch, width), grad = steps.inputs.shape, grad.contiguous()
    total = torch.empty_like(grad)
    if width <= LARGEST_FUSED:
        to_given, to_start, bb = torch.empty_like(grad), grad.new_empty(batch, width), tile(batch, 32)
        chain_bwd_kernel[(tiles(batch, bb),)](
            steps.weights.contiguous(), steps.inputs.contiguous(), steps.states, steps.peaks.contiguous(), grad, total,
            to_given, to_start, length, batch, width, BB=bb, BH=tile(width, LARGEST_FUSED), PRECISION=steps.precision,
        )  # fmt: skip
        return total, to_given, to_start
    levels, found = steps.levels(torch.cat([steps.inputs, steps.states])), grad.new_empty(length, 2, batch, width)
    total[-1] = grad[-1]
    for t in range(length - 1, -1, -1):
        product_flows(levels[t], None, total[t : t + 1], found[t : t + 1])
        if t > 0:
            torch.add(grad[t - 1], found[t, 1], out=total[t - 1])
    return total, found[:, 0], found[0, 1]


def _weights_gradient(steps: Steps, total: Tensor) -> Tensor:
    safe = torch.where(steps.peaks > 0, steps.peaks, 1.0).unsqueeze(-1)
    x = steps.inputs * steps.states[:-1] / safe
    flat = (y.flatten(0, 1).unsqueeze(0) for y in (total, x))
    return outer_sum(*flat, precision=steps.precision)[0]


def _scales(peaks: Tensor, input_scales: Tensor, start_scale: Tensor) -> Tensor:
    logs = torch.where(peaks > 0, peaks, 1.0).double().log() + input_scales.detach().double()
    return logs.cumsum(0) + start_scale.detach().double()
