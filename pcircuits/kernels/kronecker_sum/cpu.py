"""Sums over Kronecker products on CPUs, some regions at a time, into given tensors."""

from collections.abc import Iterator

import torch

from pcircuits.kernels.dense_sum import cpu
from pcircuits.layout import samples_last, shaped
from pcircuits.types import Float, Tensor

CHUNK_ELEMENTS = 1 << 20  # of a product: it stays in the cache


def kronecker_sum(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F B K"],
    right: Float[Tensor, "F B L"],
    *,
    scratch: Float[Tensor, " N"],
    out: Float[Tensor, "F B O"],
) -> None:
    """As the reference's; `scratch` has `scratch_size` elements."""
    for part in _parts(left, right):
        product = _product(left[part], right[part], scratch)
        cpu.linear_sum(weights[part], product, out=out[part])


def kronecker_sum_flow(
    weights: Float[Tensor, "F O J"],
    left: Float[Tensor, "F B K"],
    right: Float[Tensor, "F B L"],
    share: Float[Tensor, "F B O"],
    *,
    scratch: Float[Tensor, " N"],
    left_flows: Float[Tensor, "F B K"],
    right_flows: Float[Tensor, "F B L"],
    counts: Float[Tensor, "F O J"] | None,
) -> None:
    """As the reference's; `share` is the outputs' flows over their values, and `scratch` has twice `scratch_size`
    elements.
    """
    first, second = scratch.chunk(2)
    for part in _parts(left, right):
        product = _product(left[part], right[part], first)
        flows = shaped(second[: product.numel()], tuple(product.shape), product)
        found = None if counts is None else counts[part]
        cpu.linear_sum_flow(weights[part], product, share[part], out=flows, counts=found)
        if samples_last(flows):
            grid = flows.mT.unflatten(1, (left.shape[-1], -1))
            torch.sum(grid, 2, out=left_flows[part].mT)
            torch.sum(grid, 1, out=right_flows[part].mT)
        else:
            grid = flows.unflatten(-1, (left.shape[-1], -1))
            torch.sum(grid, -1, out=left_flows[part])
            torch.sum(grid, -2, out=right_flows[part])


def scratch_size(left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"]) -> int:
    """Elements of the products that are made at a time."""
    return _step(left, right) * left[0].numel() * right.shape[-1]


def _step(left: Tensor, right: Tensor) -> int:
    return min(len(left), max(1, CHUNK_ELEMENTS // max(1, left[0].numel() * right.shape[-1])))


def _parts(left: Tensor, right: Tensor) -> Iterator[slice]:
    step = _step(left, right)
    return (slice(start, start + step) for start in range(0, len(left), step))


def _product(
    left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"], scratch: Float[Tensor, " N"]
) -> Float[Tensor, "F B J"]:
    rows, batch, units = left.shape
    out = shaped(scratch[: left.numel() * right.shape[-1]], (rows, batch, units * right.shape[-1]), left)
    if samples_last(left):
        torch.mul(left.mT.unsqueeze(2), right.mT.unsqueeze(1), out=out.mT.unflatten(1, (units, -1)))
    else:
        torch.mul(left.unsqueeze(-1), right.unsqueeze(-2), out=out.unflatten(-1, (units, -1)))
    return out
