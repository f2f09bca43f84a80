"""Which blocks a support is made of."""

import pytest
import torch

from pcircuits.kernels.block_sparse_sum.reference import BlockPattern, blocks_of, dense, find_pattern


def diagonal(size: int, count: int) -> torch.Tensor:
    return torch.block_diag(*torch.ones(count, size, size)).bool().unsqueeze(0)


def sides(pattern: BlockPattern | None, support: torch.Tensor) -> int | None:
    return None if pattern is None else support.shape[1] // pattern.num_rows


@pytest.mark.parametrize(
    ("support", "side"),
    [
        (diagonal(64, 2), 64),
        (diagonal(32, 4), 32),  # sides of 64 would cover twice as much
        (diagonal(16, 3), 16),
        (diagonal(16, 2), 16),
        (diagonal(16, 1), None),  # dense
        (diagonal(8, 4), 16),
        (diagonal(10, 4), None),  # 40 is not a multiple of 16
        (torch.ones(1, 64, 64, dtype=torch.bool), None),
    ],
)
def test_the_side_of_the_blocks(support: torch.Tensor, side: int | None) -> None:
    assert sides(find_pattern(support), support) == side


def test_blocks_are_shared_by_all_rows_and_hold_every_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.zeros(3, 64, 96, dtype=torch.bool)
    for row in support:
        row[torch.randint(64, (4,), generator=generator), torch.randint(96, (4,), generator=generator)] = True
    pattern = find_pattern(support)
    assert pattern is not None and len(pattern.rows) <= 12
    weights = torch.where(support, torch.rand(support.shape, generator=generator), 0.0)
    assert torch.equal(dense(blocks_of(weights, pattern), pattern), weights)
