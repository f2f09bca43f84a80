"""Categorical inputs on CUDA devices. Counts are segmented sums: in order, without atomics."""

from collections.abc import Sequence

import torch
import triton.language as tl

from pcircuits.kernels.categorical import reference
from pcircuits.kernels.derivatives import Maybe, Tensors, differentiable
from pcircuits.kernels.jit import jit
from pcircuits.kernels.segment_sum.triton import segment_sum
from pcircuits.kernels.tiles import tile, tiles
from pcircuits.types import Bool, Float, Int, Tensor


@jit
def categorical_fwd_kernel(table, row, value, known, out, N, B, V, K, BN: tl.constexpr, BK: tl.constexpr):
    i = tl.program_id(0)
    i_k, i_n = i % tl.cdiv(K, BK), (i // tl.cdiv(K, BK)).to(tl.int64)
    o_n, o_k = i_n * BN + tl.arange(0, BN), i_k * BK + tl.arange(0, BK)
    m_n, m_k = o_n < N, o_k < K
    # (BN,): one level row and sample each
    b_known = tl.load(known + o_n, mask=m_n, other=0).to(tl.int1)
    b_at = tl.load(row + o_n // B, mask=m_n, other=0) * V + tl.load(value + o_n, mask=b_known, other=0)
    # (BN, BK)
    b_v = tl.load(table + b_at[:, None] * K + o_k[None, :], mask=b_known[:, None] & m_k[None, :], other=1.0)
    tl.store(out + o_n[:, None] * K + o_k[None, :], b_v, mask=m_n[:, None] & m_k[None, :])


def categorical_values(
    table: Float[Tensor, "G V K"],
    rows: Int[Tensor, " F"],
    values: Int[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
) -> Float[Tensor, "F B K"]:
    """As the reference's."""
    groups, categories, units = table.shape

    def run(t: Tensor) -> Tensors:
        out = t.new_empty(*values.shape, units)
        bn, bk = 32, tile(units)
        categorical_fwd_kernel[(tiles(values.numel(), bn) * tiles(units, bk),)](
            t.contiguous(), rows, values.contiguous(), observed.contiguous().to(torch.uint8), out, values.numel(),
            values.shape[1], categories, units, BN=bn, BK=bk,
        )  # fmt: skip
        return (out,)

    def gradients(_arguments: Maybe, _found: Tensors, grads: Maybe, _needed: Sequence[bool]) -> Maybe:
        return (categorical_counts(grads[0], rows, values, observed, groups, categories),)

    def definition(t: Tensor) -> Tensors:
        return (reference.categorical_values(t, rows, values, observed),)

    return differentiable(run, gradients, definition, (table,))[0]


def categorical_counts(
    flows: Float[Tensor, "F B K"],
    rows: Int[Tensor, " F"],
    values: Int[Tensor, "F B"],
    observed: Bool[Tensor, "F B"],
    num_groups: int,
    num_categories: int,
) -> Float[Tensor, "G V K"]:
    """As the reference's."""
    index = torch.where(observed, rows.unsqueeze(1) * num_categories + values, -1)
    found = segment_sum(flows.flatten(0, 1), index.flatten(), num_groups * num_categories)
    return found.view(num_groups, num_categories, -1)
