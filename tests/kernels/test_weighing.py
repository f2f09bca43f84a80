"""Soft evidence at unequal numbers of positions a row: by kernels and by torch."""

import pytest
import torch

pytest.importorskip("triton")

from pcircuits.distributions.soft import Soft, Weighing
from tests.kernels.launches import kernels_chosen

VALUES, UNITS, KEPT = 7, 5, 3


def example(groups: int, kept: int | None, dtype: torch.dtype) -> tuple[Soft, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three level rows with three, none and one soft positions of four samples."""
    generator = torch.Generator().manual_seed(0)
    soft = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]])
    where = soft.nonzero(as_tuple=True)
    log_weights = torch.randn(4, kept or VALUES, generator=generator, dtype=dtype) + 100.0
    log_weights[0, 0], log_weights[1] = -torch.inf, -torch.inf
    ids = None if kept is None else torch.rand(4, VALUES, generator=generator).argsort(-1)[:, :kept]
    table = torch.rand(groups, VALUES, UNITS, generator=generator)
    rows = torch.zeros(3, dtype=torch.long) if groups == 1 else torch.tensor([1, 0, 1])
    return Soft(where, log_weights, ids), table, rows, torch.rand(4, UNITS, generator=generator)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kept", [None, KEPT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_and_torch_agree(groups: int, kept: int | None, dtype: torch.dtype) -> None:
    soft, table, rows, shares = example(groups, kept, dtype)
    by_torch = Weighing.of(soft, table, rows)
    with kernels_chosen() as launched:
        by_kernels = Weighing.of(soft, table, rows)
        found = by_kernels.values(), by_kernels.posterior(shares), by_kernels.counts(shares)
    assert launched
    torch.testing.assert_close(by_kernels.peak, by_torch.peak)
    for ours, theirs in zip(
        found, (by_torch.values(), by_torch.posterior(shares), by_torch.counts(shares)), strict=True
    ):
        assert not ours.isnan().any()
        torch.testing.assert_close(ours, theirs)
