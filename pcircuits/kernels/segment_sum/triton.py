"""Sums over segments on CUDA devices: each segment is added up by one program, in order, without atomics."""

from collections.abc import Sequence

import torch
import triton.language as tl

from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.jit import jit
from pcircuits.kernels.segment_sum import reference
from pcircuits.kernels.segments import Segments
from pcircuits.kernels.tiles import tile, tiles
from pcircuits.types import Float, Int, Tensor


@jit
def segment_sum_fwd_kernel(
    x, source, factor, order, offset, out, K, INDIRECT: tl.constexpr, WEIGHTED: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    i_k, i_s = i % tl.cdiv(K, BK), (i // tl.cdiv(K, BK)).to(tl.int64)
    o_k = i_k * BK + tl.arange(0, BK)
    end = tl.load(offset + i_s + 1)
    b_acc = tl.zeros((BK,), dtype=tl.float32)
    for start in range(tl.load(offset + i_s), end, BN):
        o_n = start + tl.arange(0, BN)
        m_n = o_n < end
        # (BN,)
        b_n = tl.load(order + o_n, mask=m_n, other=0)
        b_source = tl.load(source + b_n, mask=m_n, other=0) if INDIRECT else b_n
        # (BN, BK)
        b_x = tl.load(x + b_source[:, None] * K + o_k[None, :], mask=m_n[:, None] & (o_k < K)[None, :], other=0.0)
        if WEIGHTED:
            b_x *= tl.load(factor + b_n, mask=m_n, other=0.0)[:, None]
        b_acc += tl.sum(b_x, 0)
    tl.store(out + i_s * K + o_k, b_acc, mask=o_k < K)


def segment_sum(
    values: Float[Tensor, "M K"],
    segments: Int[Tensor, " N"],
    num_segments: int,
    sources: Int[Tensor, " N"] | None = None,
    factors: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "S K"]:
    """As the reference's."""

    def run(x: Tensor, factor: Tensor | None) -> Tensors:
        return (_sum(x, Segments.of(segments, num_segments), num_segments, sources, factor),)

    def gradients(arguments: Maybe, _found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        x, factor = arguments
        return (
            _values_gradient(x, segments, sources, factor, grads[0]) if needed[0] else None,
            _factors_gradient(x, segments, sources, grads[0]) if needed[1] else None,
        )

    def definition(x: Tensor, factor: Tensor | None) -> Tensors:
        return (reference.segment_sum(x, segments, num_segments, sources, factor),)

    return differentiable(run, gradients, definition, (values, factors))[0]


def _sum(x: Tensor, found: Segments, num_segments: int, source: Tensor | None, factor: Tensor | None) -> Tensor:
    units = x.shape[1]
    out = x.new_empty(num_segments, units)
    bk, order = tile(units), found.order
    segment_sum_fwd_kernel[(num_segments * tiles(units, bk),)](
        x.contiguous(), order if source is None else source, x if factor is None else factor, order, found.offsets,
        out, units, INDIRECT=source is not None, WEIGHTED=factor is not None, BN=16, BK=bk,
    )  # fmt: skip
    return out


def _values_gradient(
    x: Tensor, segments: Tensor, sources: Tensor | None, factor: Tensor | None, grad: Tensor
) -> Tensor:
    """The transposed sum: entries of a source instead of those of a segment."""
    rows = torch.arange(len(segments), device=x.device) if sources is None else sources
    kept = torch.where(segments >= 0, rows, -1)
    return _sum(grad, Segments.of(kept, x.shape[0]), x.shape[0], segments.clamp_min(0), factor)


def _factors_gradient(x: Tensor, segments: Tensor, sources: Tensor | None, grad: Tensor) -> Tensor:
    terms = x if sources is None else x.index_select(0, sources)
    dots = (terms * grad.index_select(0, segments.clamp_min(0))).sum(-1)
    return torch.where(segments >= 0, dots, 0.0)
