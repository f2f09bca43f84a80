"""The definition of a sum whose weights are zero but in some square blocks."""

from typing import NamedTuple

import torch

from pcircuits.kernels.guarded import ratio
from pcircuits.types import Bool, Float, Int, Tensor


class BlockPattern(NamedTuple):
    """Which blocks may be positive: block n covers outputs `rows[n] S ...` and inputs `columns[n] S ...`."""

    rows: Int[Tensor, " N"]
    columns: Int[Tensor, " N"]
    num_rows: int
    num_columns: int

    @property
    def transposed(self) -> "BlockPattern":
        return BlockPattern(self.columns, self.rows, self.num_columns, self.num_rows)


def find_pattern(support: Bool[Tensor, "G O J"]) -> BlockPattern | None:
    """Blocks of side 64, 32 or 16 that hold all of a support that is shared by G rows: the largest whose area is at
    most half more than that of any other side. None: they would be more than half of O x J.
    """
    outputs, inputs = support.shape[1:]
    found = []
    for size in (s for s in (64, 32, 16) if outputs % s == inputs % s == 0):
        grid = support.any(0).unflatten(1, (-1, size)).unflatten(0, (-1, size)).any(3).any(1)
        rows, columns = grid.nonzero(as_tuple=True)
        found.append((BlockPattern(rows, columns, *grid.shape), len(rows) * size**2))
    least = min((area for _, area in found), default=0)
    return next((pattern for pattern, area in found if 2 * area <= min(3 * least, outputs * inputs)), None)


def blocks_of(weights: Float[Tensor, "F O J"], pattern: BlockPattern) -> Float[Tensor, "F N S S"]:
    """The pattern's blocks of weights."""
    grid = weights.unflatten(2, (pattern.num_columns, -1)).unflatten(1, (pattern.num_rows, -1)).transpose(2, 3)
    return grid[:, pattern.rows, pattern.columns]


def dense(blocks: Float[Tensor, "F N S S"], pattern: BlockPattern) -> Float[Tensor, "F O J"]:
    """The weights with their zeros."""
    size = blocks.shape[-1]
    grid = blocks.new_zeros(len(blocks), pattern.num_rows, pattern.num_columns, size, size)
    grid = grid.index_put(
        (torch.arange(len(blocks), device=blocks.device)[:, None], pattern.rows, pattern.columns), blocks
    )
    return grid.transpose(2, 3).reshape(len(blocks), pattern.num_rows * size, pattern.num_columns * size)


def block_sparse_sum(
    blocks: Float[Tensor, "F N S S"], pattern: BlockPattern, values: Float[Tensor, "F B J"]
) -> Float[Tensor, "F B O"]:
    """`out[f,b,o] = sum_j weights[f,o,j] values[f,b,j]` over the blocks of `o`."""
    return values @ dense(blocks, pattern).mT


def block_sparse_outer(
    outputs: Float[Tensor, "F B O"], pattern: BlockPattern, values: Float[Tensor, "F B J"]
) -> Float[Tensor, "F N S S"]:
    """`sum_b outputs[f,b,o] values[f,b,j]` at the blocks of the pattern."""
    rows = outputs.unflatten(-1, (pattern.num_rows, -1))[:, :, pattern.rows]
    columns = values.unflatten(-1, (pattern.num_columns, -1))[:, :, pattern.columns]
    return torch.einsum("fbno,fbnj->fnoj", rows, columns)


def block_sparse_sum_flow(
    blocks: Float[Tensor, "F N S S"],
    pattern: BlockPattern,
    values: Float[Tensor, "F B J"],
    outputs: Float[Tensor, "F B O"],
    flows: Float[Tensor, "F B O"],
    *,
    count: bool,
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F N S S"] | None]:
    """Flows of the inputs and, if asked for, expected counts of the blocks' weights."""
    share = ratio(flows, outputs)
    to_values = values * block_sparse_sum(blocks.mT, pattern.transposed, share)
    return to_values, blocks * block_sparse_outer(share, pattern, values) if count else None
