"""Kernels that write into given tensors equal their definitions, whatever those tensors held before."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcircuits.kernels import LEAST_PROBABILITY, linear_sum, linear_sum_flow, probabilities, ratio
from pcircuits.kernels import em_step as em_step_by_definition
from pcircuits.kernels.chain import cpu as chain
from pcircuits.kernels.chain.reference import chain as chain_by_definition
from pcircuits.kernels.dense_sum import cpu as dense_sum
from pcircuits.kernels.em_step import cpu as em_step
from pcircuits.kernels.kronecker_sum import cpu as kronecker_sum
from pcircuits.kernels.kronecker_sum.reference import kronecker_sum as kronecker_sum_by_definition
from pcircuits.kernels.kronecker_sum.reference import kronecker_sum_flow as kronecker_sum_flow_by_definition
from pcircuits.layout import Rows

SIZES = [(1, 1, 1, 1), (1, 63, 5, 1000), (3, 7, 63, 2), (2, 1, 1, 63), (63, 5, 2, 3), (4, 5, 3, 3)]


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype)


def sparse(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Non-negative, a third of it zeros, the first row of all zeros where there are several."""
    x = torch.rand(shape, generator=generator, dtype=dtype)
    x = x * (torch.rand(shape, generator=generator) > 0.33)
    if shape[-2] > 1:
        x[:, 0] = 0.0
    return x


@pytest.mark.parametrize("last", [False, True], ids=["units last", "samples last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_dense_sum_and_its_flows(sizes: tuple[int, int, int, int], dtype: torch.dtype, last: bool) -> None:
    rows, batch, outputs, inputs = sizes
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(rows, outputs, inputs, generator=generator, dtype=dtype)
    weights[..., ::3] = 0.0 if inputs > 1 else 1.0
    weights = weights / weights.sum(-1, keepdim=True)
    values = sparse(generator, rows, batch, inputs, dtype=dtype)
    lying = (lambda x: x.mT.contiguous().mT) if last else (lambda x: x)
    given = lying(values)
    found = dense_sum.linear_sum(weights, given, out=lying(poisoned(rows, batch, outputs, dtype=dtype)))
    want = linear_sum(weights, values)
    close = {"rtol": 1e-5, "atol": 1e-7}
    assert torch.allclose(found, want, **close)
    flows = want * torch.rand(want.shape, generator=generator, dtype=dtype)  # impossible outputs have no flow
    share, out = lying(ratio(flows, want)), lying(poisoned(*values.shape, dtype=dtype))
    counts = poisoned(*weights.shape, dtype=dtype)
    input_flows, found_counts = dense_sum.linear_sum_flow(weights, given, share, out=out, counts=counts)
    wanted_flows, wanted_counts = linear_sum_flow(weights, values, want, flows, count=True)
    assert found_counts is counts and wanted_counts is not None
    assert torch.allclose(input_flows, wanted_flows, **close)
    assert torch.allclose(counts, wanted_counts, **close)
    assert dense_sum.linear_sum_flow(weights, given, share, out=out, counts=None)[1] is None


@pytest.mark.parametrize("last", [False, True], ids=["units last", "samples last"])
@pytest.mark.parametrize("chunk", [1, 700, 1 << 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_dense_sum_of_rows_and_its_flows(
    sizes: tuple[int, ...], dtype: torch.dtype, chunk: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_sum, "CHUNK_ELEMENTS", chunk)
    count, batch, outputs, inputs = sizes
    generator = torch.Generator().manual_seed(0)
    values = sparse(generator, count, batch, inputs, dtype=dtype)
    rows = torch.randint(count, (2 * count + 1,), generator=generator)
    weights = torch.rand(len(rows), outputs, inputs, generator=generator, dtype=dtype)
    lying = (lambda x: x.mT.contiguous().mT) if last else (lambda x: x)
    size = dense_sum.scratch_size(len(rows), values)
    assert size == max(1, min(len(rows), chunk // (batch * inputs))) * batch * inputs
    scratch, close = poisoned(size, dtype=dtype), {"rtol": 1e-5, "atol": 1e-7}
    out = lying(poisoned(len(rows), batch, outputs, dtype=dtype))
    found = dense_sum.linear_sum_of_rows(weights, lying(values), rows, scratch=scratch, out=out)
    want = linear_sum(weights, values[rows])
    assert found is out and torch.allclose(out, want, **close)
    flows = want * torch.rand(want.shape, generator=generator, dtype=dtype)
    wanted_flows, wanted_counts = linear_sum_flow(weights, values[rows], want, flows, count=True)
    order, counts = torch.randperm(len(rows), generator=generator), poisoned(*weights.shape, dtype=dtype)
    given = Rows(lying(flows)), Rows(lying(flows[order]), order.argsort())
    scratch = poisoned(dense_sum.scratch_size(len(rows), values, inputs + outputs), dtype=dtype)
    summed = Rows(lying(values), rows), Rows(lying(values[rows]))
    for of_sums, of_values, counted in itertools.product(given, summed, (counts, None)):
        scratch.fill_(torch.nan)
        raw = lying(want.clone())
        room = raw if outputs == inputs else lying(poisoned(len(rows), batch, inputs, dtype=dtype))
        added = Rows(lying(torch.zeros_like(values)), rows)
        options = {"guarded": True, "scratch": scratch, "counts": counted}
        got, _ = dense_sum.linear_sum_flow_by_parts(weights, of_values, raw, of_sums, out=added, **options)
        assert got is added
        assert torch.allclose(added.table, torch.zeros_like(values).index_add(0, rows, wanted_flows), **close)
        got, kept = dense_sum.linear_sum_flow_by_parts(weights, of_values, raw, of_sums, out=Rows(room), **options)
        assert got.table is room and kept is counted and torch.allclose(room, wanted_flows, **close)
        if counted is not None:
            assert wanted_counts is not None and torch.allclose(counts, wanted_counts, **close)


@pytest.mark.parametrize("last", [False, True], ids=["units last", "samples last"])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (7, 63, 5, 4, 3), (3, 7, 63, 2, 11), (2, 1, 1, 63, 1)])
def test_a_sum_over_a_kronecker_product_and_its_flows(
    sizes: tuple[int, ...], dtype: torch.dtype, chunk: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kronecker_sum, "CHUNK_ELEMENTS", chunk)
    rows, batch, outputs, *units = sizes
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(rows, outputs, units[0] * units[1], generator=generator, dtype=dtype)
    left, right = (sparse(generator, rows, batch, size, dtype=dtype) for size in units)
    lying = (lambda x: x.mT.contiguous().mT) if last else (lambda x: x)
    size = kronecker_sum.scratch_size(left, right)
    assert size == max(1, min(rows, chunk // (size_of_one := batch * units[0] * units[1]))) * size_of_one
    close = {"rtol": 1e-5, "atol": 1e-7}
    out = lying(poisoned(rows, batch, outputs, dtype=dtype))
    scratch = poisoned(2 * size, dtype=dtype)
    kronecker_sum.kronecker_sum(weights, lying(left), lying(right), scratch=scratch[:size], out=out)
    want = kronecker_sum_by_definition(weights, left, right)
    assert torch.allclose(out, want, **close)
    flows = want * torch.rand(want.shape, generator=generator, dtype=dtype)
    wanted = kronecker_sum_flow_by_definition(weights, left, right, want, flows, count=True)
    share, counts = lying(ratio(flows, want)), poisoned(*weights.shape, dtype=dtype)
    found = [lying(poisoned(*x.shape, dtype=dtype)) for x in (left, right)]
    for counted in (counts, None):
        scratch.fill_(torch.nan)
        kronecker_sum.kronecker_sum_flow(
            weights,
            lying(left),
            lying(right),
            share,
            scratch=scratch,
            left_flows=found[0],
            right_flows=found[1],
            counts=counted,
        )
        for got, wish in zip((*found, counts), wanted, strict=True):
            assert wish is not None and torch.allclose(got, wish, **close)


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


def test_an_em_step_leaves_the_least_probability_of_what_was_not_seen() -> None:
    linear, counts = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.0, 5.0]]])
    log = poisoned(1, 1, 2)
    em_step.em_step(counts, linear, log, None, dim=2, pseudocount=0.0, relative=False, step=1.0)
    assert linear.flatten().tolist() == pytest.approx([LEAST_PROBABILITY, 1.0], rel=1e-4)
    assert log.isfinite().all()


def test_logits_that_are_not_normalised_are() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.allclose(probabilities(logits, -1), logits.softmax(-1))
    assert torch.allclose(probabilities(logits, 1), logits.softmax(1))


def chain_case(steps: int, rows: int, batch: int, states: int, tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of every step, sides and start; a row of impossible evidence in the middle where there are several."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1 if tied else steps, rows, states, states, generator=generator, dtype=torch.float64)
    weights[..., 1:, ::3] = 0.0
    weights = (weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)).expand(steps, -1, -1, -1)
    sides = torch.rand(steps, rows, batch, states, generator=generator, dtype=torch.float64)
    if batch > 1:
        sides[steps // 2, :, 0] = 0.0
    return weights, sides, torch.rand(rows, batch, states, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (5, 3, 2, 7), (4, 1, 63, 2), (2, 2, 1, 1000), (63, 1, 3, 2)])
def test_a_chain_is_its_steps(sizes: tuple[int, int, int, int], every: int, tied: bool) -> None:
    weights, sides, below = chain_case(*sizes, tied)
    order = torch.randperm(len(sides) * sides.shape[1], generator=torch.Generator().manual_seed(0))
    values, rows = sides.flatten(0, 1)[order], order.argsort().view(sides.shape[:2])
    products, shares = (poisoned(*sides.shape, dtype=torch.float64) for _ in range(2))
    rooms = [poisoned(*sides.shape, dtype=torch.float64) for _ in range(2)]
    peaks = torch.ones(*sides.shape[:-1], 1, dtype=torch.float64)
    assert chain.needs_memory(weights[0], below)
    sums = chain.chain(list(weights), values, rows, below, products=products, sums=rooms[0], peaks=peaks, every=every)
    last = sums[-1] * torch.rand(sums[-1].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    used = list(sums)
    flows = chain.chain_flows(
        list(weights), products, used, last.view_as(below), positive=False, shares=shares, flows=rooms[1]
    )
    assert not used and sums[-1].data_ptr() == rooms[0][-1].data_ptr() and flows[0].data_ptr() == rooms[1].data_ptr()
    for t, (w, side, product, peak, total) in enumerate(zip(weights, sides, products, peaks, sums, strict=True)):
        assert torch.allclose(product * peak, side * below)
        if t % every:
            assert (peak == 1).all()
        else:
            assert torch.equal(peak.squeeze(-1) > 1e-300, (side * below).amax(-1) > 0)
        below = linear_sum(w, product)
        assert torch.allclose(total.view_as(below), below)
    last, each = last.view_as(below), []
    for w, product, total, flow in reversed(list(zip(weights, products, sums, flows, strict=True))):
        last, count = linear_sum_flow(w, product, total.view_as(last), last, count=True)
        assert torch.allclose(flow.view_as(last), last) and count is not None
        each.insert(0, count)
    counts = torch.stack(each)
    if tied:
        out = poisoned(*weights[0].shape, dtype=torch.float64)
        assert torch.allclose(chain.tied_counts(weights[0], products, shares, out=out), counts.sum(0))
    out = poisoned(*weights.shape, dtype=torch.float64)
    assert torch.allclose(chain.untied_counts(list(weights), products, shares, out=out), counts)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 2, 3), (3, 63, 2)])
def test_a_recorded_chain_has_the_definition_s_derivatives(sizes: tuple[int, int, int]) -> None:
    steps, batch, states = sizes
    weights, sides, start = chain_case(steps, 1, batch, states, tied=True)
    scales = torch.linspace(-3, 3, steps * batch, dtype=torch.float64).view(steps, batch)
    tensors = [x.clone().requires_grad_() for x in (weights[0, 0], sides[:, 0], start[0])]

    def run(operation: Callable) -> tuple[Tensor, ...]:
        w, given, first = tensors
        found = operation(w, given, scales, first, scales[0])
        weigh = torch.linspace(0.5, 2, found.values.numel(), dtype=torch.float64).view(found.values.shape)
        possible = found.values.detach() > 0
        grads = torch.autograd.grad((found.values * weigh).square().sum(), tensors, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in grads), tensors)
        return (found.values, torch.where(possible.any(-1), found.scales, 0.0), *grads, *again)

    for found, want in zip(run(chain.recorded), run(chain_by_definition), strict=True):
        assert torch.allclose(found, want, rtol=1e-9)
    if batch < 10:

        def unscaled(w: Tensor, given: Tensor, first: Tensor) -> Tensor:
            found = chain.recorded(w, given, scales, first, scales[0])
            return found.values * found.scales.exp().unsqueeze(-1)

        possible = [x.detach().clamp_min(0.1).requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(unscaled, possible)
