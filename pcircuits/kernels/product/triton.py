"""Folded products on CUDA devices: gather, product, potentials and rescale in one kernel."""

from collections.abc import Sequence

import torch
import triton.language as tl

from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.jit import jit
from pcircuits.kernels.product import reference
from pcircuits.kernels.product.reference import Product
from pcircuits.kernels.segment_sum.triton import segment_sum
from pcircuits.kernels.tiles import tile, tiles
from pcircuits.types import Float, Int, Tensor


@jit
def load_product(x, child, i_f, at, B, J, mask, ARITY: tl.constexpr):
    """The product of a row's children, (BB, BJ)."""
    b_x = tl.load(x + tl.load(child + i_f * ARITY) * B * J + at, mask=mask, other=0.0)
    for a in tl.static_range(1, ARITY):
        b_x *= tl.load(x + tl.load(child + i_f * ARITY + a) * B * J + at, mask=mask, other=0.0)
    return b_x


@jit
def load_scale(scale, child, i_f, o_b, m_b, b_peak, B, ARITY: tl.constexpr):
    """The log scale of a row's product, (BB,), in float64: a chain of 10,000 steps keeps its digits."""
    b_scale = tl.log(tl.where(b_peak > 0, b_peak, 1.0).to(tl.float64))
    for a in tl.static_range(ARITY):
        b_scale += tl.load(scale + tl.load(child + i_f * ARITY + a) * B + o_b, mask=m_b, other=0.0)
    return b_scale


@jit
def product_fwd_kernel(
    x, scale, child, latent, out, out_scale, out_peak, B, K, ARITY: tl.constexpr, LATENT: tl.constexpr,
    BB: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    i_b, i_f = i % tl.cdiv(B, BB), (i // tl.cdiv(B, BB)).to(tl.int64)
    o_b = i_b * BB + tl.arange(0, BB)
    m_b = o_b < B
    b_peak = tl.zeros((BB,), dtype=tl.float32)
    for pass_ in tl.static_range(2):  # the peak first, then the values
        for start in range(0, K, BK):
            o_k = start + tl.arange(0, BK)
            # (BB, BK)
            at, m = o_b[:, None] * K + o_k[None, :], m_b[:, None] & (o_k < K)[None, :]
            b_x = load_product(x, child, i_f, at, B, K, m, ARITY)
            if LATENT:
                b_x *= tl.exp(tl.load(latent + i_f * B * K + at, mask=m, other=0.0))
            if pass_ == 0:
                b_peak = tl.maximum(b_peak, tl.max(b_x, 1))
            else:
                tl.store(out + i_f * B * K + at, b_x / tl.where(b_peak > 0, b_peak, 1.0)[:, None], mask=m)
    b_scale = load_scale(scale, child, i_f, o_b, m_b, b_peak, B, ARITY)
    tl.store(out_scale + i_f * B + o_b, b_scale, mask=m_b)
    tl.store(out_peak + i_f * B + o_b, b_peak, mask=m_b)


@jit
def product_bwd_kernel(
    x, child, latent, peak, grad, to_child, B, K, ARITY: tl.constexpr, LATENT: tl.constexpr, BB: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    num_k = tl.cdiv(K, BK)
    i_k, i_b, i_f = i % num_k, i // num_k % tl.cdiv(B, BB), (i // num_k // tl.cdiv(B, BB)).to(tl.int64)
    o_b, o_k = i_b * BB + tl.arange(0, BB), i_k * BK + tl.arange(0, BK)
    # (BB, BK)
    at, m = o_b[:, None] * K + o_k[None, :], (o_b < B)[:, None] & (o_k < K)[None, :]
    b_peak = tl.load(peak + i_f * B + o_b, mask=o_b < B, other=1.0)
    b_g = tl.load(grad + i_f * B * K + at, mask=m, other=0.0) / tl.where(b_peak > 0, b_peak, 1.0)[:, None]
    if LATENT:
        b_g *= tl.exp(tl.load(latent + i_f * B * K + at, mask=m, other=0.0))
    for a in tl.static_range(ARITY):
        b_others = b_g
        for c in tl.static_range(ARITY):
            if c != a:
                b_others *= tl.load(x + tl.load(child + i_f * ARITY + c) * B * K + at, mask=m, other=0.0)
        tl.store(to_child + (i_f * ARITY + a) * B * K + at, b_others, mask=m)


def product(
    values: Float[Tensor, "R B K"],
    scales: Float[Tensor, "R B"],
    children: Int[Tensor, "F A"],
    potentials: Float[Tensor, "F B K"] | None = None,
) -> Product:
    """As the reference's."""
    children = children.contiguous()

    def run(x: Tensor, latent: Tensor | None) -> Tensors:
        return _product(x, scales, children, latent)

    def gradients(arguments: Maybe, found: Tensors, grads: Maybe, needed: Sequence[bool]) -> Maybe:
        x, latent = arguments
        return (
            _to_values(x, children, latent, found[2], grads[0]) if needed[0] else None,
            grads[0] * found[0] if needed[1] else None,
        )

    def definition(x: Tensor, latent: Tensor | None) -> Tensors:
        return tuple(reference.product(x, scales, children, latent))

    return Product(*differentiable(run, gradients, definition, (values, potentials)))


def _product(x: Tensor, scales: Tensor, children: Tensor, latent: Tensor | None) -> Tensors:
    (count, arity), (_, batch, units) = children.shape, x.shape
    out, peaks = x.new_empty(count, batch, units), x.new_empty(count, batch)
    scale = x.new_empty(count, batch, dtype=torch.float64)
    product_fwd_kernel[(count * tiles(batch, 16),)](
        x.contiguous(), scales.double().contiguous(), children, x if latent is None else latent.contiguous(), out,
        scale, peaks, batch, units, ARITY=arity, LATENT=latent is not None, BB=16, BK=tile(units),
    )  # fmt: skip
    return out, scale, peaks


def _to_values(x: Tensor, children: Tensor, latent: Tensor | None, peaks: Tensor, grad: Tensor) -> Tensor:
    """Gradients of the gathered values: a row's is the sum over the products that it is in."""
    (count, arity), (rows, batch, units) = children.shape, x.shape
    found = grad.new_empty(count, arity, batch, units)
    bb, bk = tile(batch), tile(units)
    product_bwd_kernel[(count * tiles(batch, bb) * tiles(units, bk),)](
        x.contiguous(), children, x if latent is None else latent.contiguous(), peaks, grad.contiguous(), found, batch,
        units, ARITY=arity, LATENT=latent is not None, BB=bb, BK=bk,
    )  # fmt: skip
    return segment_sum(found.flatten(0, 1).flatten(1), children.flatten(), rows).view_as(x)
