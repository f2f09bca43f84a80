"""Scales that are powers of two."""

import math

import pytest
import torch

from pcircuits.kernels import power_below


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_power_of_two_below_a_number(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([1.0, 0.75, 0.5, 1.999, 2.0, 3.0, 1e-9, 1e30, tiny, 1.5 * tiny], dtype=dtype)
    reciprocal, log_power = power_below(x)
    want = 2.0 ** x.double().log2().floor()
    assert torch.equal(reciprocal.double(), 1 / want)
    assert torch.allclose(log_power, want.log(), rtol=1e-15, atol=0.0)
    assert ((x * reciprocal >= 1) & (x * reciprocal < 2)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_what_is_below_the_least_normal_number_have_its_scale(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    reciprocal, log_power = power_below(torch.tensor([0.0, tiny / 4], dtype=dtype))
    assert torch.equal(reciprocal, torch.full((2,), 1 / tiny, dtype=dtype))
    assert torch.allclose(log_power, torch.full((2,), math.log(tiny), dtype=torch.float64))
