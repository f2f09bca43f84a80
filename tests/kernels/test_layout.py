"""Values that lie in memory samples last give what single samples, whose units are last, give."""

import pytest
import torch

import pcircuits as pc
from pcircuits.layout import add_rows, samples_last, shaped, take_rows

BATCH = 20
FAMILIES = [pc.Categorical(2), pc.Categorical(11), pc.Bernoulli(), pc.Gaussian()]


def circuit_of(layer: str, family: object) -> pc.Circuit:
    graph = pc.structures.rat(9, 3, num_repetitions=2, seed=0)
    return pc.Circuit(graph, family, num_units=4, layer=layer, seed=1).double()


def evidence_of(circuit: pc.Circuit, observed: float) -> pc.Evidence:
    x = circuit.sample(BATCH, generator=torch.Generator().manual_seed(2))
    seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < observed
    return pc.Evidence(x, observed=seen)


@pytest.mark.parametrize("observed", [1.0, 0.6])
@pytest.mark.parametrize("family", FAMILIES, ids=["binary", "categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("layer", ["tucker", "cp", "cp-t"])
def test_a_sample_in_a_batch_is_answered_as_by_itself(layer: str, family: object, observed: float) -> None:
    circuit = circuit_of(layer, family)
    evidence = evidence_of(circuit, observed)
    posterior = circuit.condition(evidence)
    assert any(samples_last(record.values.v) for record in posterior._evaluation.fast.records)
    alone = [circuit.condition(evidence.rows(torch.tensor([n]))) for n in range(BATCH)]
    torch.testing.assert_close(posterior.log_evidence, torch.cat([p.log_evidence for p in alone]), rtol=0, atol=1e-12)
    together, single = posterior.marginals(), [p.marginals() for p in alone]
    if isinstance(together, torch.Tensor):
        torch.testing.assert_close(together, torch.cat(single), rtol=0, atol=1e-12)
    else:
        for i, moments in enumerate(together):
            expected = torch.cat([p[i].mean for p in single])
            torch.testing.assert_close(moments.mean, expected, rtol=1e-10, atol=1e-10)
    found = circuit.statistics(evidence).counts
    each = [circuit.statistics(evidence.rows(torch.tensor([n]))).counts for n in range(BATCH)]
    for group, parts in found.items():
        for name, counts in parts.items():
            torch.testing.assert_close(counts, sum(c[group][name] for c in each), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", ["tucker", "cp"])
def test_gradients_do_not_depend_on_how_values_lie(layer: str) -> None:
    circuit = circuit_of(layer, pc.Categorical(2))
    evidence = evidence_of(circuit, 0.6)

    def gradients(rows: list[torch.Tensor]) -> list[torch.Tensor]:
        total = sum(circuit.condition(evidence.rows(r)).log_evidence.sum() for r in rows)
        return list(torch.autograd.grad(total, list(circuit.parameters())))

    batch, single = gradients([torch.arange(BATCH)]), gradients([torch.tensor([n]) for n in range(BATCH)])
    for found, expected in zip(batch, single, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_what_is_made_like_a_tensor_lies_like_it() -> None:
    last, first = torch.rand(3, 5, 7).mT, torch.rand(3, 7, 5)
    assert samples_last(last) and not samples_last(first)
    assert not samples_last(torch.rand(3, 9, 7).mT[:, :4])  # a part of one
    block = torch.arange(2 * 7 * 4.0)
    assert samples_last(shaped(block, (2, 7, 4), last)) and not samples_last(shaped(block, (2, 7, 4), first))
    index = torch.tensor([2, 0])
    for x in (last, first):
        assert torch.equal(take_rows(x, index), x[index])
        assert samples_last(take_rows(x, index)) == samples_last(x)
        assert take_rows(x, index).mT.is_contiguous() == samples_last(x)


def test_what_is_made_by_adding_rows_lies_as_it_did() -> None:
    index = torch.tensor([2, 0, 2])
    x, out = torch.rand(3, 5, 2), torch.rand(4, 5, 2)
    want = out.index_add(0, index, x)
    for lying in (lambda y: y, lambda y: y.mT.contiguous().mT):
        found = lying(out.clone())
        assert add_rows(found, index, lying(x)) is found
        torch.testing.assert_close(found, want)
