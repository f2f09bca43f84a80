"""How values (F, B, K) lie in memory: units last, or samples last, where few units would make short rows.

Samples last are `(F, K, B)` in memory and `(F, B, K)` to everyone: operations are the same, and follow their operands.
"""

import torch

from pcircuits.types import Float, Int, Tensor


def samples_last(x: Tensor) -> bool:
    """Whether neighbours in memory are values of one unit for two samples."""
    return x.stride(-2) == 1 and x.stride(-1) == x.shape[-2]


def shaped(block: Float[Tensor, " N"], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """`block` as a tensor of this shape that lies in memory as `like` does."""
    if len(shape) < 3 or like.dim() < 3 or not samples_last(like):
        return block.view(shape)
    return block.view(*shape[:-2], shape[-1], shape[-2]).mT


def take_rows(x: Tensor, index: Int[Tensor, " F"], *, out: Tensor | None = None) -> Tensor:
    """`x[index]`, which lies in memory as `x` does; so must `out`."""
    if x.dim() < 3 or not samples_last(x):
        return torch.index_select(x, 0, index, out=out)
    return torch.index_select(x.mT, 0, index, out=None if out is None else out.mT).mT


def add_rows(out: Tensor, index: Int[Tensor, " F"], x: Tensor) -> Tensor:
    """`out[index] += x`, rows that occur twice adding up, for two that lie in memory alike."""
    if x.dim() < 3 or not samples_last(x):
        return out.index_add_(0, index, x)
    out.mT.index_add_(0, index, x.mT)  # an order of magnitude faster than over axes that are out of order
    return out
