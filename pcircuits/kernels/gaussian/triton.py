"""Gaussian inputs on CUDA devices."""

from collections.abc import Sequence

import torch
import triton.language as tl

from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.gaussian import reference
from pcircuits.kernels.gaussian.reference import moments_of
from pcircuits.kernels.jit import jit
from pcircuits.kernels.segments import Segments
from pcircuits.kernels.tiles import tile, tiles
from pcircuits.types import Bool, Float, Int, Tensor

__all__ = ["gaussian_counts", "gaussian_values", "moments_of"]


@jit
def gaussian_fwd_kernel(
    mean, std, row, value, known, out, out_peak, N, B, K, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    m_n = o_n < N
    # (BN,): one level row and sample each; in float64, as a value far off has a log density of many digits
    b_known = tl.load(known + o_n, mask=m_n, other=0).to(tl.int1)
    b_value = tl.load(value + o_n, mask=b_known, other=0.0)
    b_row = tl.load(row + o_n // B, mask=m_n, other=0)
    b_peak = tl.full((BN,), float("-inf"), dtype=tl.float64)
    for pass_ in tl.static_range(2):  # the peak first, then the values
        for start in range(0, K, BK):
            o_k = start + tl.arange(0, BK)
            m = m_n[:, None] & (o_k < K)[None, :]
            b_mean = tl.load(mean + b_row[:, None] * K + o_k[None, :], mask=m, other=0.0).to(tl.float64)
            b_std = tl.load(std + b_row[:, None] * K + o_k[None, :], mask=m, other=1.0).to(tl.float64)
            b_z = (b_value[:, None] - b_mean) / b_std
            b_log = tl.where(b_known[:, None], -tl.log(b_std) - 0.9189385332046727 - 0.5 * b_z * b_z, 0.0)
            if pass_ == 0:
                b_peak = tl.maximum(b_peak, tl.max(tl.where(m, b_log, float("-inf")), 1))
            else:
                b_v = tl.exp((b_log - b_peak[:, None]).to(tl.float32))
                tl.store(out + o_n[:, None] * K + o_k[None, :], b_v, mask=m)
        if pass_ == 0:
            b_peak = tl.where(b_peak == float("-inf"), 0.0, b_peak)
    tl.store(out_peak + o_n, b_peak, mask=m_n)


@jit
def gaussian_count_kernel(
    mean, std, order, offset, value, known, flow, out, B, K, BB: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    i = tl.program_id(0)
    i_k, i_g = i % tl.cdiv(K, BK), (i // tl.cdiv(K, BK)).to(tl.int64)
    o_k = i_k * BK + tl.arange(0, BK)
    m_k = o_k < K
    b_mean = tl.load(mean + i_g * K + o_k, mask=m_k, other=0.0).to(tl.float64)
    b_std = tl.load(std + i_g * K + o_k, mask=m_k, other=1.0).to(tl.float64)
    b_zeroth = tl.zeros((BK,), dtype=tl.float32)
    b_first = tl.zeros((BK,), dtype=tl.float32)
    b_second = tl.zeros((BK,), dtype=tl.float32)
    for n in range(tl.load(offset + i_g), tl.load(offset + i_g + 1)):
        i_f = tl.load(order + n)
        for start in range(0, B, BB):
            o_b = start + tl.arange(0, BB)
            m_b = o_b < B
            b_known = tl.load(known + i_f * B + o_b, mask=m_b, other=0).to(tl.int1)
            b_value = tl.load(value + i_f * B + o_b, mask=b_known, other=0.0)
            # (BB, BK)
            m = m_b[:, None] & m_k[None, :]
            b_flow = tl.load(flow + i_f * B * K + o_b[:, None] * K + o_k[None, :], mask=m, other=0.0)
            b_z = ((b_value[:, None] - b_mean[None, :]) / b_std[None, :]).to(tl.float32)
            b_zeroth += tl.sum(b_flow, 0)
            b_first += tl.sum(tl.where(b_known[:, None], b_flow * b_z, 0.0), 0)
            b_second += tl.sum(tl.where(b_known[:, None], b_flow * b_z * b_z, b_flow), 0)
    p_out = out + (i_g * K + o_k) * 3
    tl.store(p_out, b_zeroth, mask=m_k)
    tl.store(p_out + 1, b_first, mask=m_k)
    tl.store(p_out + 2, b_second, mask=m_k)


def gaussian_values(
    mean: Float[Tensor, "G K"],
    std: Float[Tensor, "G K"],
    rows: Int[Tensor, " F"],
    values: Float[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B"]]:
    """As the reference's, with gradients in the parameters."""
    values, known = values.detach().double(), observed.contiguous().to(torch.uint8)

    def run(m: Tensor, s: Tensor) -> Tensors:
        units = m.shape[1]
        out, peaks = m.new_empty(*values.shape, units), values.new_empty(values.shape)
        gaussian_fwd_kernel[(tiles(values.numel(), 16),)](
            m.contiguous(), s.contiguous(), rows, values.contiguous(), known, out, peaks, values.numel(),
            values.shape[1], units, BN=16, BK=tile(units),
        )  # fmt: skip
        return out, peaks

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, _needed: Sequence[bool]) -> Maybe:
        m, s = arguments
        zeroth, first, second = _counts(m, s, rows, values, observed, found[0] * grads[0]).unbind(-1)
        return first / s, (second - zeroth) / s

    def definition(m: Tensor, s: Tensor) -> Tensors:
        return reference.gaussian_values(m, s, rows, values, observed)

    out, peaks = differentiable(run, gradients, definition, (mean, std))
    return out, peaks


def gaussian_counts(
    mean: Float[Tensor, "G K"],
    std: Float[Tensor, "G K"],
    rows: Int[Tensor, " F"],
    values: Float[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
    flows: Float[Tensor, "F B K"],
) -> Float[Tensor, "G K 3"]:
    """As the reference's."""
    values = values.detach().double()

    def run(m: Tensor, s: Tensor, flow: Tensor) -> Tensors:
        return (_counts(m, s, rows, values, observed, flow),)

    def definition(m: Tensor, s: Tensor, flow: Tensor) -> Tensors:
        return (reference.gaussian_counts(m, s, rows, values, observed, flow),)

    return differentiable(run, None, definition, (mean, std, flows))[0]


def _counts(mean: Tensor, std: Tensor, rows: Tensor, values: Tensor, observed: Tensor, flow: Tensor) -> Tensor:
    (groups, units), batch = mean.shape, values.shape[1]
    segments = Segments.of(rows, groups)
    out, bk = mean.new_empty(groups, units, 3), tile(units)
    gaussian_count_kernel[(groups * tiles(units, bk),)](
        mean.contiguous(), std.contiguous(), segments.order, segments.offsets, values.contiguous(),
        observed.contiguous().to(torch.uint8), flow.contiguous(), out, batch, units, BB=tile(batch, 32), BK=bk,
    )  # fmt: skip
    return out
