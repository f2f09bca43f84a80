"""Folded levels on CUDA devices: gather, product, rescale and sum in one kernel, and its flows in two."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton.language as tl

from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.jit import jit
from pcircuits.kernels.product.triton import load_product, load_scale
from pcircuits.kernels.segment_sum.triton import segment_sum
from pcircuits.kernels.segments import Segments
from pcircuits.kernels.sum_product import reference
from pcircuits.kernels.sum_product.reference import SumProduct
from pcircuits.kernels.tiles import Precision, splits, tile, tiles
from pcircuits.types import Float, Int, Tensor


@jit
def load_share(flow, out, at, mask, FLOW: tl.constexpr):
    """`flow / out`, and 0 where `out` is; a gradient as it is."""
    b_h = tl.load(flow + at, mask=mask, other=0.0)
    if FLOW:
        b_out = tl.load(out + at, mask=mask, other=0.0)
        b_h = tl.where(b_out > 0, b_h / tl.where(b_out > 0, b_out, 1.0), 0.0)
    return b_h


@jit
def sum_product_fwd_kernel(
    w, x, child, row, scale, out, out_scale, out_peak, out_low, B, O, J, ARITY: tl.constexpr, BB: tl.constexpr,
    BO: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_o = tl.cdiv(O, BO)
    i_o, i_b, i_f = i % num_o, i // num_o % tl.cdiv(B, BB), (i // num_o // tl.cdiv(B, BB)).to(tl.int64)
    o_b, o_o = i_b * BB + tl.arange(0, BB), i_o * BO + tl.arange(0, BO)
    m_b, m_o = o_b < B, o_o < O
    p_w = w + tl.load(row + i_f) * O * J
    b_acc = tl.zeros((BB, BO), dtype=tl.float32)
    b_peak = tl.zeros((BB,), dtype=tl.float32)
    for start in range(0, J, BJ):
        o_j = start + tl.arange(0, BJ)
        m_x = m_b[:, None] & (o_j < J)[None, :]
        b_x = load_product(x, child, i_f, o_b[:, None] * J + o_j[None, :], B, J, m_x, ARITY)
        b_peak = tl.maximum(b_peak, tl.max(b_x, 1))
        # (BJ, BO)
        b_w = tl.load(p_w + o_o[None, :] * J + o_j[:, None], mask=(o_j < J)[:, None] & m_o[None, :], other=0.0)
        b_acc = tl.dot(b_x, b_w, b_acc, input_precision=PRECISION)
    b_safe = tl.where(b_peak > 0, b_peak, 1.0)
    b_out = b_acc / b_safe[:, None]
    tl.store(out + i_f * B * O + o_b[:, None] * O + o_o[None, :], b_out, mask=m_b[:, None] & m_o[None, :])
    b_low = tl.min(tl.where(m_o[None, :], b_out, float("inf")), 1)
    tl.store(out_low + (i_f * B + o_b) * num_o + i_o, b_low, mask=m_b)
    if i_o == 0:
        b_scale = load_scale(scale, child, i_f, o_b, m_b, b_peak, B, ARITY)
        tl.store(out_scale + i_f * B + o_b, b_scale, mask=m_b)
        tl.store(out_peak + i_f * B + o_b, b_peak, mask=m_b)


@jit
def sum_product_flow_kernel(
    w, x, child, row, peak, out, flow, to_child, B, O, J, ARITY: tl.constexpr, FLOW: tl.constexpr, BB: tl.constexpr,
    BO: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_j = tl.cdiv(J, BJ)
    i_j, i_b, i_f = i % num_j, i // num_j % tl.cdiv(B, BB), (i // num_j // tl.cdiv(B, BB)).to(tl.int64)
    o_b, o_j = i_b * BB + tl.arange(0, BB), i_j * BJ + tl.arange(0, BJ)
    m_b, m_j = o_b < B, o_j < J
    p_w = w + tl.load(row + i_f) * O * J
    b_acc = tl.zeros((BB, BJ), dtype=tl.float32)
    for start in range(0, O, BO):
        o_o = start + tl.arange(0, BO)
        m_o = o_o < O
        # (BB, BO), (BO, BJ)
        b_h = load_share(flow, out, i_f * B * O + o_b[:, None] * O + o_o[None, :], m_b[:, None] & m_o[None, :], FLOW)
        b_w = tl.load(p_w + o_o[:, None] * J + o_j[None, :], mask=m_o[:, None] & m_j[None, :], other=0.0)
        b_acc = tl.dot(b_h, b_w, b_acc, input_precision=PRECISION)
    b_peak = tl.load(peak + i_f * B + o_b, mask=m_b, other=1.0)
    b_acc /= tl.where(b_peak > 0, b_peak, 1.0)[:, None]
    m_x = m_b[:, None] & m_j[None, :]
    at = o_b[:, None] * J + o_j[None, :]
    if FLOW:
        b_x = load_product(x, child, i_f, at, B, J, m_x, ARITY)
        tl.store(to_child + i_f * B * J + at, b_x * b_acc, mask=m_x)
    else:
        for a in tl.static_range(ARITY):
            b_others = b_acc
            for c in tl.static_range(ARITY):
                if c != a:
                    b_others *= tl.load(x + tl.load(child + i_f * ARITY + c) * B * J + at, mask=m_x, other=0.0)
            tl.store(to_child + (i_f * ARITY + a) * B * J + at, b_others, mask=m_x)


@jit
def sum_product_count_kernel(
    w, x, child, order, offset, peak, out, flow, count, G, B, O, J, PARTS, ARITY: tl.constexpr, FLOW: tl.constexpr,
    BB: tl.constexpr, BO: tl.constexpr, BJ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_o, num_j, num_b = tl.cdiv(O, BO), tl.cdiv(J, BJ), tl.cdiv(B, BB)
    i_j, i_o, i_g = i % num_j, i // num_j % num_o, (i // num_j // num_o % G).to(tl.int64)
    i_part = (i // num_j // num_o // G).to(tl.int64)
    o_o, o_j = i_o * BO + tl.arange(0, BO), i_j * BJ + tl.arange(0, BJ)
    m_o, m_j = o_o < O, o_j < J
    first = tl.load(offset + i_g)
    steps = (tl.load(offset + i_g + 1) - first) * num_b
    chunk = tl.cdiv(steps, PARTS)
    b_acc = tl.zeros((BO, BJ), dtype=tl.float32)
    for n in range(i_part * chunk, tl.minimum((i_part + 1) * chunk, steps)):
        i_f = tl.load(order + first + n // num_b)
        o_b = (n % num_b * BB + tl.arange(0, BB)).to(tl.int32)
        m_b = o_b < B
        # (BO, BB)
        b_h = load_share(flow, out, i_f * B * O + o_b[None, :] * O + o_o[:, None], m_o[:, None] & m_b[None, :], FLOW)
        b_peak = tl.load(peak + i_f * B + o_b, mask=m_b, other=1.0)
        b_h /= tl.where(b_peak > 0, b_peak, 1.0)[None, :]
        m_x = m_b[:, None] & m_j[None, :]
        b_x = load_product(x, child, i_f, o_b[:, None] * J + o_j[None, :], B, J, m_x, ARITY)
        b_acc = tl.dot(b_h, b_x, b_acc, input_precision=PRECISION)
    at, m_w = o_o[:, None] * J + o_j[None, :], m_o[:, None] & m_j[None, :]
    if FLOW:
        b_acc *= tl.load(w + i_g * O * J + at, mask=m_w, other=0.0)
    tl.store(count + (i_part * G + i_g) * O * J + at, b_acc, mask=m_w)


def sum_product(
    weights: Float[Tensor, "G O J"],
    values: Float[Tensor, "R B J"],
    scales: Float[Tensor, "R B"],
    children: Int[Tensor, "F A"],
    rows: Int[Tensor, " F"] | None = None,
    *,
    precision: Precision = "tf32x3",
) -> SumProduct:
    """As the reference's."""

    def run(w: Tensor, x: Tensor) -> Tensors:
        peaks = x.new_empty(len(children), x.shape[1])
        return tuple(forward(Level.of(w, x, children, rows, peaks, precision), scales))

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        w, x = arguments
        level = Level.of(w, x, children, rows, found[2], precision)
        return (
            weight_counts(level, None, grads[0]) if needed[0] else None,
            _to_values(level, grads[0]) if needed[1] else None,
        )

    def definition(w: Tensor, x: Tensor) -> Tensors:
        return tuple(reference.sum_product(w, x, scales, children, rows))

    return SumProduct(*differentiable(run, gradients, definition, (weights, values)))


def sum_product_flow(
    weights: Float[Tensor, "G O J"],
    values: Float[Tensor, "R B J"],
    children: Int[Tensor, "F A"],
    level: SumProduct,
    flows: Float[Tensor, "F B O"],
    rows: Int[Tensor, " F"] | None = None,
    *,
    count: bool,
    precision: Precision = "tf32x3",
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "G O J"] | None]:
    """As the reference's."""

    def run(w: Tensor, x: Tensor, out: Tensor, flow: Tensor) -> Tensors:
        read = Level.of(w, x, children, rows, level.peaks, precision)
        to_products = product_flows(read, out, flow)
        return (to_products, weight_counts(read, out, flow)) if count else (to_products,)

    def definition(w: Tensor, x: Tensor, out: Tensor, flow: Tensor) -> Tensors:
        found = reference.sum_product_flow(w, x, children, level._replace(values=out), flow, rows, count=count)
        return tuple(y for y in found if y is not None)

    outputs = 2 if count else 1
    found = differentiable(run, None, definition, (weights, values, level.values, flows), outputs=outputs)
    return found[0], found[1] if count else None


class Level(NamedTuple):
    """What the kernels of one folded level read."""

    weights: Tensor
    values: Tensor
    children: Tensor
    rows: Tensor
    peaks: Tensor
    precision: Precision

    @classmethod
    def of(
        cls,
        weights: Tensor,
        values: Tensor,
        children: Tensor,
        rows: Tensor | None,
        peaks: Tensor,
        precision: Precision,
    ) -> "Level":
        rows = torch.arange(len(children), device=children.device) if rows is None else rows
        return cls(
            weights.contiguous(), values.contiguous(), children.contiguous(), rows, peaks.contiguous(), precision
        )

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """F, B, O, J."""
        return len(self.children), self.values.shape[1], *self.weights.shape[1:]

    @property
    def options(self) -> dict:
        return {
            "ARITY": self.children.shape[1],
            "PRECISION": self.precision,
            # more than two factors a product spill registers of four warps
            "num_warps": 4 if self.children.shape[1] < 3 else 8,
        }


def forward(level: Level, scales: Tensor, out: Tensor | None = None) -> SumProduct:
    """The upward kernel. `level.peaks` is written, and `out` if it is given."""
    count, batch, outputs, inputs = level.sizes
    bb, bo, bj = tile(batch), tile(outputs), tile(inputs, 32)
    out = level.values.new_empty(count, batch, outputs) if out is None else out
    scale = level.values.new_empty(count, batch, dtype=torch.float64)
    low = level.values.new_empty(count, batch, tiles(outputs, bo))
    sum_product_fwd_kernel[(count * tiles(batch, bb) * tiles(outputs, bo),)](
        level.weights, level.values, level.children, level.rows, scales.double().contiguous(), out,
        scale, level.peaks, low, batch, outputs, inputs, BB=bb, BO=bo, BJ=bj, **level.options,
    )  # fmt: skip
    return SumProduct(out, scale, level.peaks, low.amin(-1))


def product_flows(level: Level, out: Tensor | None, flow: Tensor, found: Tensor | None = None) -> Tensor:
    """Flows of the products, or where `out` is None their gradients, one for each child (F, A, B, J); into `found` if
    it is given.
    """
    count, batch, outputs, inputs = level.sizes
    bb, bo, bj = tile(batch), tile(outputs, 32), tile(inputs)
    shape = (count, batch, inputs) if out is not None else (count, level.children.shape[1], batch, inputs)
    found = flow.new_empty(shape) if found is None else found
    sum_product_flow_kernel[(count * tiles(batch, bb) * tiles(inputs, bj),)](
        level.weights, level.values, level.children, level.rows, level.peaks, flow if out is None else out.contiguous(),
        flow.contiguous(), found, batch, outputs, inputs, FLOW=out is not None, BB=bb, BO=bo, BJ=bj, **level.options,
    )  # fmt: skip
    return found


def weight_counts(level: Level, out: Tensor | None, flow: Tensor) -> Tensor:
    """Expected counts of the weights, or where `out` is None their gradients, summed over the rows that share them."""
    _, batch, outputs, inputs = level.sizes
    groups = level.weights.shape[0]
    segments = Segments.of(level.rows, groups)
    bb, bo, bj = tile(batch, 32), tile(outputs), tile(inputs)
    programs = groups * tiles(outputs, bo) * tiles(inputs, bj)
    parts = splits(programs, -(-len(level.children) // groups) * tiles(batch, bb))
    found = flow.new_empty(parts, groups, outputs, inputs)
    sum_product_count_kernel[(parts * programs,)](
        level.weights, level.values, level.children, segments.order, segments.offsets, level.peaks,
        flow if out is None else out.contiguous(), flow.contiguous(), found, groups, batch, outputs, inputs, parts,
        FLOW=out is not None, BB=bb, BO=bo, BJ=bj, **level.options,
    )  # fmt: skip
    return found[0] if parts == 1 else found.sum(0)


def _to_values(level: Level, grad: Tensor) -> Tensor:
    """Gradients of the gathered values: a row's is the sum over the products that it is in."""
    pieces = product_flows(level, None, grad).flatten(0, 1).flatten(1)
    return segment_sum(pieces, level.children.flatten(), level.values.shape[0]).view_as(level.values)
