"""Structural marginals and conditionals equal missing values and hard evidence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing


@settings(max_examples=20)
@given(st.data())
def test_a_structural_marginal_is_missing_values(data: st.DataObject) -> None:
    circuit = data.draw(testing.circuits(dtypes=[torch.float64]))
    variables = data.draw(st.permutations(range(circuit.num_variables)))
    keep = variables[: data.draw(st.integers(1, circuit.num_variables))]
    small = pc.marginalize(circuit, keep)
    assert small.num_variables == len(keep) and small.num_parameters == circuit.num_parameters
    evidence = testing.example_evidence(circuit, "observed", seed=3)
    observed = torch.zeros_like(evidence.observed)
    observed[:, keep] = True
    want = circuit.condition(pc.Evidence(evidence.values, observed=observed)).log_evidence
    assert torch.allclose(small.log_prob(evidence.values[:, keep]), want, atol=1e-10)
    assert abs(small.log_partition().item()) < 1e-10


@settings(max_examples=20)
@given(st.data())
def test_a_structural_conditional_is_hard_evidence(data: st.DataObject) -> None:
    circuit = data.draw(testing.circuits(dtypes=[torch.float64]))
    evidence = testing.example_evidence(circuit, "observed", batch=1, seed=data.draw(st.integers(0, 99)))
    given_ = data.draw(st.sets(st.integers(0, circuit.num_variables - 1), max_size=circuit.num_variables - 1))
    values = {v: evidence.values[0, v].item() for v in given_}
    observed = torch.tensor([[v in given_ for v in range(circuit.num_variables)]])
    known = circuit.condition(pc.Evidence(evidence.values, observed=observed))
    if known.log_evidence.isneginf().any():
        with pytest.raises(pc.EvidenceError, match="impossible together"):
            pc.condition(circuit, values)
        return
    small = pc.condition(circuit, values)
    rest = [v for v in range(circuit.num_variables) if v not in given_]
    others = testing.example_evidence(circuit, "observed", batch=3, seed=7).values
    others[:, sorted(given_)] = evidence.values[:, sorted(given_)]
    got, want = small.log_prob(others[:, rest]), known.log_prob(others.unsqueeze(1)).squeeze(-1)
    assert torch.allclose(got.exp(), want.exp(), atol=1e-10, rtol=1e-8)
    assert abs(small.log_partition().item()) < 1e-10


def test_products_marginalise_and_condition_and_marginals_multiply() -> None:
    a, b = (testing.example_circuit("binary_tree", "tucker", seed=n, dtype=torch.float64) for n in (1, 2))
    product, keep = pc.multiply(a, b), [3, 1]
    worlds = testing.worlds(product)
    observed = torch.zeros_like(worlds, dtype=torch.bool)
    observed[:, keep] = True
    want = product.condition(pc.Evidence(worlds, observed=observed)).log_evidence
    assert torch.allclose(pc.marginalize(product, keep).log_prob(worlds[:, keep]), want, atol=1e-10)
    small = pc.condition(product, {0: 2, 2: 1})
    fixed = worlds[(worlds[:, 0] == 2) & (worlds[:, 2] == 1)]
    joint = product.log_prob(fixed)
    assert torch.allclose(small.log_prob(fixed[:, [1, 3]]), joint - joint.logsumexp(0), atol=1e-10)
    again = pc.multiply(pc.marginalize(a, [0, 1]), pc.marginalize(b, [0, 1]))
    pair = testing.worlds(again)
    table = pc.marginalize(a, [0, 1]).log_prob(pair) + pc.marginalize(b, [0, 1]).log_prob(pair)
    assert torch.allclose(again.log_prob(pair), table - table.logsumexp(0), atol=1e-10)
    assert torch.allclose(again.condition(pc.Evidence(pair)).log_evidence, table - table.logsumexp(0), atol=1e-10)


def test_training_a_marginal_trains_the_circuit() -> None:
    circuit = testing.example_circuit("hmm", "cp-t", num_variables=4, dtype=torch.float64)
    small, data = pc.marginalize(circuit, [1, 3]), torch.tensor([[0, 0], [0, 1]] * 4)
    before = small.log_prob(data).sum().item()
    pc.fit(small, data, learner=pc.Adam(lr=0.05), epochs=10, progress=False)
    rows = torch.zeros(8, 4, dtype=torch.long)
    rows[:, [1, 3]] = data
    observed = torch.tensor([[False, True, False, True]] * 8)
    after = circuit.condition(pc.Evidence(rows, observed=observed)).log_evidence.sum().item()
    assert after > before + 1.0


def test_wrong_variables_are_refused() -> None:
    circuit = testing.example_circuit()
    for keep in ([], [0, 0]):
        with pytest.raises(pc.ShapeError, match="none twice"):
            pc.marginalize(circuit, keep)
    with pytest.raises(pc.ShapeError, match="got 4"):
        pc.marginalize(circuit, [4])
    with pytest.raises(pc.ShapeError, match="must be kept"):
        pc.condition(circuit, dict.fromkeys(range(4), 0))
    with pytest.raises(pc.EvidenceError, match="values must be integers"):
        pc.condition(circuit, {0: 9})
