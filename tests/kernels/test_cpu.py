"""Kernels that write into given tensors equal their definitions, whatever those tensors held before."""

import pytest
import torch
from torch import Tensor

from pcircuits.kernels import LEAST_PROBABILITY, linear_sum, linear_sum_flow, probabilities, ratio
from pcircuits.kernels import em_step as em_step_by_definition
from pcircuits.kernels.dense_sum import cpu as dense_sum
from pcircuits.kernels.em_step import cpu as em_step

SIZES = [(1, 1, 1, 1), (1, 63, 5, 1000), (3, 7, 63, 2), (2, 1, 1, 63), (63, 5, 2, 3)]


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def sparse(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Non-negative, a third of it zeros, the first row of all zeros where there are several."""
    x = torch.rand(shape, generator=generator, dtype=dtype)
    x = x * (torch.rand(shape, generator=generator) > 0.33)
    if shape[-2] > 1:
        x[:, 0] = 0.0
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_dense_sum_and_its_flows(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    rows, batch, outputs, inputs = sizes
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(rows, outputs, inputs, generator=generator, dtype=dtype)
    weights[..., ::3] = 0.0 if inputs > 1 else 1.0
    weights = weights / weights.sum(-1, keepdim=True)
    values = sparse(generator, rows, batch, inputs, dtype=dtype)
    found = dense_sum.linear_sum(weights, values, out=poisoned(rows, batch, outputs, dtype=dtype))
    want = linear_sum(weights, values)
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert torch.allclose(found, want, **close)
    flows = want * torch.rand(want.shape, generator=generator, dtype=dtype)  # impossible outputs have no flow
    buffers = {"share": poisoned(*want.shape, dtype=dtype), "out": poisoned(*values.shape, dtype=dtype)}
    counts = poisoned(*weights.shape, dtype=dtype)
    input_flows, found_counts = dense_sum.linear_sum_flow(weights, values, want, flows, **buffers, counts=counts)
    wanted_flows, wanted_counts = linear_sum_flow(weights, values, want, flows, count=True)
    assert found_counts is counts and wanted_counts is not None
    assert torch.allclose(input_flows, wanted_flows, **close)
    assert torch.allclose(counts, wanted_counts, **close)
    assert dense_sum.linear_sum_flow(weights, values, want, flows, **buffers, counts=None)[1] is None


def test_a_ratio_written_into_a_tensor_is_zero_where_both_are() -> None:
    numerator, denominator = torch.tensor([0.0, 0.5, 1.0, 0.0]), torch.tensor([0.0, 0.25, 4.0, 3.0])
    assert torch.equal(ratio(numerator, denominator, out=poisoned(4)), ratio(numerator, denominator))


@pytest.mark.parametrize("support", [False, True])
@pytest.mark.parametrize(("pseudocount", "relative"), [(0.0, False), (0.7, False), (0.7, True)])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 63, 5), (2, 1, 63), (1, 1000, 7)])
def test_an_em_step_in_place(
    shape: tuple[int, int, int],
    dim: int,
    pseudocount: float,
    relative: bool,
    support: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(em_step, "_PIECE", 100)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(shape, generator=generator) > 0.3
    mask.select(dim, 0).fill_(True)
    allowed = mask if support else torch.ones_like(mask)
    linear = torch.rand(shape, generator=generator) * allowed
    linear = linear / linear.sum(dim, keepdim=True)
    counts = torch.rand(shape, generator=generator) * 10 * allowed
    counts.select(3 - dim, 0).fill_(0.0)  # units that were never reached
    terms = {"dim": dim, "pseudocount": pseudocount, "relative": relative, "step": 0.3}
    want = em_step_by_definition(counts, linear, allowed, **terms)
    log = poisoned(*shape)
    em_step.em_step(counts, linear, log, mask if support else None, **terms)
    assert torch.allclose(linear, want.clamp_min(LEAST_PROBABILITY) * allowed, rtol=1e-5, atol=1e-7)
    masked = torch.where(allowed, log, -torch.inf)
    assert torch.equal(probabilities(masked, dim), linear), "the parameters give the same bits back"


def test_logits_that_are_not_normalised_are() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.allclose(probabilities(logits, -1), logits.softmax(-1))
    assert torch.allclose(probabilities(logits, 1), logits.softmax(1))
