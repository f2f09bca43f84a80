"""How values (F, B, K) lie in memory: units last, or samples last, where few units would make short rows.

Samples last are `(F, K, B)` in memory and `(F, B, K)` to everyone: operations are the same, and follow their operands.
"""

from typing import NamedTuple

import torch

from pcircuits.types import Float, Int, Tensor


class Rows(NamedTuple):
    """Rows `at` of `table`, which are taken when they are read; None: all of them, in order."""

    table: Float[Tensor, "R B K"]
    at: Int[Tensor, " F"] | None = None


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


def kronecker(
    left: Float[Tensor, "F B K"], right: Float[Tensor, "F B L"], *, out: Float[Tensor, "F B J"] | None = None
) -> Float[Tensor, "F B J"]:
    """All products of a left and a right unit, the right ones counting fastest, which lie in memory as those two do; so
    must `out`.
    """
    units = left.shape[-1]
    if samples_last(left):
        grid = None if out is None else out.mT.unflatten(1, (units, -1))
        return torch.mul(left.mT.unsqueeze(2), right.mT.unsqueeze(1), out=grid).flatten(1, 2).mT
    grid = None if out is None else out.unflatten(-1, (units, -1))
    return torch.mul(left.unsqueeze(-1), right.unsqueeze(-2), out=grid).flatten(-2)


def split_kronecker(
    flows: Float[Tensor, "F B J"], left_units: int, *, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Float[Tensor, "F B K"], Float[Tensor, "F B L"]]:
    """Of what belongs to such products, each left unit's and each right unit's sum; in `out`, which lie alike."""
    if samples_last(flows):
        left, right = (None, None) if out is None else (x.mT for x in out)
        grid = flows.mT.unflatten(1, (left_units, -1))
        return torch.sum(grid, 2, out=left).mT, torch.sum(grid, 1, out=right).mT
    left, right = (None, None) if out is None else out
    grid = flows.unflatten(-1, (left_units, -1))
    return torch.sum(grid, -1, out=left), torch.sum(grid, -2, out=right)
