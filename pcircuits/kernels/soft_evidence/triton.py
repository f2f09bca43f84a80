"""Soft evidence on CUDA devices: products with weights that are exponentiated as they are read, and never stored."""

from collections.abc import Sequence

import torch
import triton.language as tl

from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.guarded import finite
from pcircuits.kernels.jit import jit
from pcircuits.kernels.segment_sum.triton import segment_sum
from pcircuits.kernels.segments import Segments
from pcircuits.kernels.soft_evidence import reference
from pcircuits.kernels.tiles import Precision, splits, tile, tiles
from pcircuits.types import Float, Int, Tensor


@jit
def load_weights(logw, peak, at, o_b, m_b, mask, BATCH_AXIS: tl.constexpr):
    """`exp(log weight - peak)`, 0 outside."""
    b_peak = tl.load(peak + o_b, mask=m_b, other=0.0)
    b_logw = tl.load(logw + at, mask=mask, other=float("-inf"))
    return tl.exp(b_logw - (b_peak[:, None] if BATCH_AXIS == 0 else b_peak[None, :]))


@jit
def soft_fwd_kernel(
    table, row, logw, out, out_peak, F, B, V, K, CHUNK, BB: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_k, num_b = tl.cdiv(K, BK), tl.cdiv(B, BB)
    i_k, i_b, i_f = i % num_k, i // num_k % num_b, (i // num_k // num_b % F).to(tl.int64)
    i_s = (i // num_k // num_b // F).to(tl.int64)
    o_b, o_k = i_b * BB + tl.arange(0, BB), i_k * BK + tl.arange(0, BK)
    m_b, m_k = o_b < B, o_k < K
    p_table = table + tl.load(row + i_f) * V * K
    end = tl.minimum((i_s + 1) * CHUNK, V)
    b_acc = tl.zeros((BB, BK), dtype=tl.float32)
    b_peak = tl.full((BB,), float("-inf"), dtype=tl.float32)
    for start in range(i_s * CHUNK, end, BV):
        o_v = start + tl.arange(0, BV)
        m_v = o_v < end
        # (BB, BV)
        p_logw = logw + (i_f * B + o_b[:, None]) * V + o_v[None, :]
        b_logw = tl.load(p_logw, mask=m_b[:, None] & m_v[None, :], other=float("-inf"))
        b_new = tl.maximum(b_peak, tl.max(b_logw, 1))
        b_safe = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_acc *= tl.exp(b_peak - b_safe)[:, None]
        # (BV, BK)
        b_t = tl.load(p_table + o_v[:, None] * K + o_k[None, :], mask=m_v[:, None] & m_k[None, :], other=0.0)
        b_acc = tl.dot(tl.exp(b_logw - b_safe[:, None]), b_t, b_acc, input_precision=PRECISION)
        b_peak = b_new
    at = (i_s * F + i_f) * B + o_b
    tl.store(out + at[:, None] * K + o_k[None, :], b_acc, mask=m_b[:, None] & m_k[None, :])
    if i_k == 0:
        tl.store(out_peak + at, b_peak, mask=m_b)


@jit
def soft_posterior_kernel(
    table, row, logw, peak, share, out, B, V, K, BB: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_b, num_v = tl.cdiv(B, BB), tl.cdiv(V, BV)
    i_b, i_v, i_f = i % num_b, i // num_b % num_v, (i // num_b // num_v).to(tl.int64)
    o_b, o_v = i_b * BB + tl.arange(0, BB), i_v * BV + tl.arange(0, BV)
    m_b, m_v = o_b < B, o_v < V
    p_table = table + tl.load(row + i_f) * V * K
    b_acc = tl.zeros((BB, BV), dtype=tl.float32)
    for start in range(0, K, BK):
        o_k = start + tl.arange(0, BK)
        m_k = o_k < K
        # (BB, BK), (BK, BV)
        p_share = share + (i_f * B + o_b[:, None]) * K + o_k[None, :]
        b_share = tl.load(p_share, mask=m_b[:, None] & m_k[None, :], other=0.0)
        b_t = tl.load(p_table + o_v[None, :] * K + o_k[:, None], mask=m_k[:, None] & m_v[None, :], other=0.0)
        b_acc = tl.dot(b_share, b_t, b_acc, input_precision=PRECISION)
    mask, at = m_b[:, None] & m_v[None, :], (i_f * B + o_b[:, None]) * V + o_v[None, :]
    b_acc *= load_weights(logw, peak + i_f * B, at, o_b, m_b, mask, 0)
    tl.store(out + at, b_acc, mask=mask)


@jit
def soft_count_kernel(
    order, offset, logw, peak, share, out, B, V, K, BB: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_k, num_v, num_b = tl.cdiv(K, BK), tl.cdiv(V, BV), tl.cdiv(B, BB)
    i_k, i_v, i_g = i % num_k, i // num_k % num_v, (i // num_k // num_v).to(tl.int64)
    o_k, o_v = i_k * BK + tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    m_k, m_v = o_k < K, o_v < V
    first = tl.load(offset + i_g)
    b_acc = tl.zeros((BV, BK), dtype=tl.float32)
    for n in range(0, (tl.load(offset + i_g + 1) - first) * num_b):
        i_f = tl.load(order + first + n // num_b)
        o_b = n % num_b * BB + tl.arange(0, BB)
        m_b = o_b < B
        # (BV, BB), (BB, BK)
        at, mask = (i_f * B + o_b[None, :]) * V + o_v[:, None], m_v[:, None] & m_b[None, :]
        b_w = load_weights(logw, peak + i_f * B, at, o_b, m_b, mask, 1)
        p_share = share + (i_f * B + o_b[:, None]) * K + o_k[None, :]
        b_share = tl.load(p_share, mask=m_b[:, None] & m_k[None, :], other=0.0)
        b_acc = tl.dot(b_w, b_share, b_acc, input_precision=PRECISION)
    p_out = out + (i_g * V + o_v[:, None]) * K + o_k[None, :]
    tl.store(p_out, b_acc, mask=m_v[:, None] & m_k[None, :])


@jit
def top_fwd_kernel(table, row, logw, peak, category, out, B, C, V, K, BC: tl.constexpr, BK: tl.constexpr):
    i = tl.program_id(0)
    i_k, i_n = i % tl.cdiv(K, BK), (i // tl.cdiv(K, BK)).to(tl.int64)
    o_k = i_k * BK + tl.arange(0, BK)
    p_table = table + tl.load(row + i_n // B) * V * K
    b_acc = tl.zeros((BK,), dtype=tl.float32)
    for start in range(0, C, BC):
        o_c = start + tl.arange(0, BC)
        m_c = o_c < C
        # (BC,), (BC, BK)
        b_w = tl.exp(tl.load(logw + i_n * C + o_c, mask=m_c, other=float("-inf")) - tl.load(peak + i_n))
        b_v = tl.load(category + i_n * C + o_c, mask=m_c, other=0)
        b_t = tl.load(p_table + b_v[:, None] * K + o_k[None, :], mask=m_c[:, None] & (o_k < K)[None, :], other=0.0)
        b_acc += tl.sum(b_w[:, None] * b_t, 0)
    tl.store(out + i_n * K + o_k, b_acc, mask=o_k < K)


@jit
def top_posterior_kernel(
    table, row, logw, peak, category, share, out, B, C, V, K, BC: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0)
    i_c, i_n = i % tl.cdiv(C, BC), (i // tl.cdiv(C, BC)).to(tl.int64)
    o_c = i_c * BC + tl.arange(0, BC)
    m_c = o_c < C
    p_table = table + tl.load(row + i_n // B) * V * K
    b_v = tl.load(category + i_n * C + o_c, mask=m_c, other=0)
    b_acc = tl.zeros((BC,), dtype=tl.float32)
    for start in range(0, K, BK):
        o_k = start + tl.arange(0, BK)
        # (BC, BK)
        b_t = tl.load(p_table + b_v[:, None] * K + o_k[None, :], mask=m_c[:, None] & (o_k < K)[None, :], other=0.0)
        b_acc += tl.sum(b_t * tl.load(share + i_n * K + o_k, mask=o_k < K, other=0.0)[None, :], 1)
    b_w = tl.exp(tl.load(logw + i_n * C + o_c, mask=m_c, other=float("-inf")) - tl.load(peak + i_n))
    tl.store(out + i_n * C + o_c, b_acc * b_w, mask=m_c)


def soft_values(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B V"],
    *,
    precision: Precision = "tf32x3",
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
    """As the reference's."""
    if len(table) == 1 and len(rows) > 1:  # tied: one product over all samples of all rows
        out, peaks = soft_values(table, rows[:1], log_weights.flatten(0, 1).unsqueeze(0), precision=precision)
        return out.view(*log_weights.shape[:2], -1), peaks.view(log_weights.shape[:2])

    def run(t: Tensor, logw: Tensor) -> Tensors:
        return _values(t, rows, logw, precision)

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        t, logw = arguments
        return (
            _counts(logw, found[1], rows, grads[0], len(t), precision) if needed[0] else None,
            _posterior(t, rows, logw, found[1], grads[0], precision) if needed[1] else None,
        )

    def definition(t: Tensor, logw: Tensor) -> Tensors:
        return reference.soft_values(t, rows, logw)

    out, peaks = differentiable(run, gradients, definition, (table, log_weights))
    return out, peaks


def soft_posterior(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B V"],
    shares: Float[Tensor, "F B K"],
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "F B V"]:
    """As the reference's."""

    def run(t: Tensor, logw: Tensor, share: Tensor) -> Tensors:
        return (_posterior(t, rows, logw, finite(logw.amax(-1)), share, precision),)

    def definition(t: Tensor, logw: Tensor, share: Tensor) -> Tensors:
        return (reference.soft_posterior(t, rows, logw, share),)

    return differentiable(run, None, definition, (table, log_weights, shares))[0]


def soft_counts(
    log_weights: Float[Tensor, "F B V"],
    rows: Int[Tensor, " F"],
    shares: Float[Tensor, "F B K"],
    num_groups: int,
    *,
    precision: Precision = "tf32x3",
) -> Float[Tensor, "G V K"]:
    """As the reference's."""

    def run(logw: Tensor, share: Tensor) -> Tensors:
        return (_counts(logw, finite(logw.amax(-1)), rows, share, num_groups, precision),)

    def definition(logw: Tensor, share: Tensor) -> Tensors:
        return (reference.soft_counts(logw, rows, share, num_groups),)

    return differentiable(run, None, definition, (log_weights, shares))[0]


def top_values(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B C"],
    categories: Int[Tensor, "F B C"],
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
    """As the reference's."""
    categories = categories.contiguous()

    def run(t: Tensor, logw: Tensor) -> Tensors:
        return _top(t, rows, logw, categories)

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        t, logw = arguments
        return (
            _top_counts(t.shape[:2], rows, logw, found[1], categories, grads[0]) if needed[0] else None,
            _top_posterior(t, rows, logw, found[1], categories, grads[0]) if needed[1] else None,
        )

    def definition(t: Tensor, logw: Tensor) -> Tensors:
        return reference.top_values(t, rows, logw, categories)

    out, peaks = differentiable(run, gradients, definition, (table, log_weights))
    return out, peaks


def top_posterior(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    log_weights: Float[Tensor, "F B C"],
    categories: Int[Tensor, "F B C"],
    shares: Float[Tensor, "F B K"],
) -> Float[Tensor, "F B C"]:
    """As the reference's."""
    categories = categories.contiguous()

    def run(t: Tensor, logw: Tensor, share: Tensor) -> Tensors:
        return (_top_posterior(t, rows, logw, finite(logw.amax(-1)), categories, share),)

    def definition(t: Tensor, logw: Tensor, share: Tensor) -> Tensors:
        return (reference.top_posterior(t, rows, logw, categories, share),)

    return differentiable(run, None, definition, (table, log_weights, shares))[0]


def top_counts(
    log_weights: Float[Tensor, "F B C"],
    categories: Int[Tensor, "F B C"],
    rows: Int[Tensor, " F"],
    shares: Float[Tensor, "F B K"],
    num_groups: int,
    num_categories: int,
) -> Float[Tensor, "G V K"]:
    """As the reference's."""
    shape = (num_groups, num_categories)

    def run(logw: Tensor, share: Tensor) -> Tensors:
        return (_top_counts(shape, rows, logw, finite(logw.amax(-1)), categories, share),)

    def definition(logw: Tensor, share: Tensor) -> Tensors:
        return (reference.top_counts(logw, categories, rows, share, *shape),)

    return differentiable(run, None, definition, (log_weights, shares))[0]


def _values(table: Tensor, rows: Tensor, logw: Tensor, precision: Precision) -> Tensors:
    (_, categories, units), (count, batch, _) = table.shape, logw.shape
    bb, bk, bv = tile(batch), tile(units), 32
    programs = count * tiles(batch, bb) * tiles(units, bk)
    parts = splits(programs, tiles(categories, 4 * bv))
    out, peaks = table.new_empty(parts, count, batch, units), table.new_empty(parts, count, batch)
    soft_fwd_kernel[(parts * programs,)](
        table.contiguous(), rows, logw.contiguous(), out, peaks, count, batch, categories, units,
        tiles(tiles(categories, bv), parts) * bv, BB=bb, BK=bk, BV=bv, PRECISION=precision,
        num_warps=4 if categories % 16 == units % 16 == 0 else 8,  # addresses that are not aligned spill four warps
    )  # fmt: skip
    top = finite(peaks.amax(0))
    if parts == 1:
        return out[0], top
    return (out * (peaks - top).exp().unsqueeze(-1)).sum(0), top


def _posterior(table: Tensor, rows: Tensor, logw: Tensor, peaks: Tensor, share: Tensor, precision: Precision) -> Tensor:
    count, batch, categories = logw.shape
    out = share.new_empty(logw.shape)
    bb, bv, units = tile(batch), tile(categories), table.shape[-1]
    soft_posterior_kernel[(count * tiles(batch, bb) * tiles(categories, bv),)](
        table.contiguous(), rows, logw.contiguous(), peaks.contiguous(), share.contiguous(), out, batch, categories,
        units, BB=bb, BK=tile(units, 32), BV=bv, PRECISION=precision,
    )  # fmt: skip
    return out


def _counts(logw: Tensor, peaks: Tensor, rows: Tensor, share: Tensor, num_groups: int, precision: Precision) -> Tensor:
    (_, batch, categories), units = logw.shape, share.shape[-1]
    segments = Segments.of(rows, num_groups)
    out = share.new_empty(num_groups, categories, units)
    bk, bv = tile(units), tile(categories)
    soft_count_kernel[(num_groups * tiles(units, bk) * tiles(categories, bv),)](
        segments.order, segments.offsets, logw.contiguous(), peaks.contiguous(), share.contiguous(), out, batch,
        categories, units, BB=tile(batch, 32), BK=bk, BV=bv, PRECISION=precision,
    )  # fmt: skip
    return out


def _top(table: Tensor, rows: Tensor, logw: Tensor, categories: Tensor) -> Tensors:
    (_, num_categories, units), (count, batch, kept) = table.shape, logw.shape
    out, peaks, bk = table.new_empty(count, batch, units), finite(logw.amax(-1)), tile(units)
    top_fwd_kernel[(count * batch * tiles(units, bk),)](
        table.contiguous(), rows, logw.contiguous(), peaks, categories, out, batch, kept, num_categories, units,
        BC=16, BK=bk,
    )  # fmt: skip
    return out, peaks


def _top_posterior(
    table: Tensor, rows: Tensor, logw: Tensor, peaks: Tensor, categories: Tensor, share: Tensor
) -> Tensor:
    (_, num_categories, units), (count, batch, kept) = table.shape, logw.shape
    out = share.new_empty(logw.shape)
    top_posterior_kernel[(count * batch * tiles(kept, 16),)](
        table.contiguous(), rows, logw.contiguous(), peaks.contiguous(), categories, share.contiguous(), out, batch,
        kept, num_categories, units, BC=16, BK=tile(units),
    )  # fmt: skip
    return out


def _top_counts(
    shape: tuple[int, int], rows: Tensor, logw: Tensor, peaks: Tensor, categories: Tensor, share: Tensor
) -> Tensor:
    index = (rows.view(-1, 1, 1) * shape[1] + categories).flatten()
    samples = torch.arange(peaks.numel(), device=index.device).repeat_interleave(categories.shape[-1])
    factors = (logw - peaks.unsqueeze(-1)).exp().flatten()
    return segment_sum(share.flatten(0, 1), index, shape[0] * shape[1], samples, factors).view(*shape, -1)
