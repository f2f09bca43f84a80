"""Sums over Kronecker products on CPUs, some regions at a time, into given tensors."""

from pcircuits.kernels.chunks import chunks
from pcircuits.kernels.dense_sum import cpu
from pcircuits.layout import kronecker, shaped, split_kronecker
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
        split_kronecker(flows, left.shape[-1], out=(left_flows[part], right_flows[part]))


def scratch_size(left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"]) -> int:
    """Elements of the products that are made at a time."""
    return _parts(left, right)[0].stop * _width(left, right)


def _width(left: Tensor, right: Tensor) -> int:
    return left[0].numel() * right.shape[-1]


def _parts(left: Tensor, right: Tensor) -> list[slice]:
    return chunks(len(left), _width(left, right), CHUNK_ELEMENTS)


def _product(
    left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"], scratch: Float[Tensor, " N"]
) -> Float[Tensor, "F B J"]:
    shape = (*left.shape[:2], left.shape[2] * right.shape[2])
    return kronecker(left, right, out=shaped(scratch[: len(left) * _width(left, right)], shape, left))
