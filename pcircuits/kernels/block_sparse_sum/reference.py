"""The definition of a sum whose weights are zero but in some square blocks."""

from typing import NamedTuple

import torch

from pcircuits.kernels.guarded import ratio
from pcircuits.types import Float, Int, Tensor


class BlockPattern(NamedTuple):
    """Which blocks may be positive: block n covers outputs `rows[n] S ...` and inputs `columns[n] S ...`."""

    rows: Int[Tensor, " N"]
    columns: Int[Tensor, " N"]
    num_rows: int
    num_columns: int

    @property
    def transposed(self) -> "BlockPattern":
        return BlockPattern(self.columns, self.rows, self.num_columns, self.num_rows)


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
) -> tuple[Float[Tensor, "F B J"], Float[Tensor, "F N S S"]]:
    """Flows of the inputs, and expected counts of the blocks' weights."""
    share = ratio(flows, outputs)
    to_values = values * block_sparse_sum(blocks.mT, pattern.transposed, share)
    return to_values, blocks * block_sparse_outer(share, pattern, values)
