"""Pair marginals, mutual information, moments, covariances and entropies equal enumeration or closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing
from pcircuits.testing.enumeration import Enumeration, _normal
from pcircuits.testing.recursion import leaf_parameters, log_root

EXACT = [torch.float64]


def possible_case(data: st.DataObject, **kinds) -> tuple[pc.Circuit, pc.Evidence]:
    circuit = data.draw(testing.circuits(dtypes=EXACT, **kinds))
    evidence = data.draw(testing.evidences(circuit))
    rows = ~circuit.condition(evidence).log_evidence.isneginf()
    return circuit, evidence.rows(rows) if rows.any() else pc.Evidence.nothing(1, circuit.num_variables)


@settings(max_examples=12)
@given(st.data())
def test_pair_marginals_and_mutual_information_equal_enumeration(data: st.DataObject) -> None:
    circuit, evidence = possible_case(data, inputs=["categorical", "bernoulli", "mixed"])
    discrete = [v for v, family in enumerate(circuit.inputs) if family.is_discrete]
    first, second = (data.draw(st.sampled_from(discrete)) for _ in range(2))
    posterior, oracle = circuit.condition(evidence), Enumeration(circuit, evidence)
    pair = oracle.pair(first, second) if first != second else torch.diag_embed(oracle.marginal(first))
    assert torch.allclose(posterior.pair_marginals(first, second), pair, atol=1e-9)
    product = pair.sum(-1, keepdim=True) * pair.sum(-2, keepdim=True)
    information = torch.where(pair > 1e-300, pair * (pair / product).log(), 0.0).sum((-1, -2))
    assert torch.allclose(posterior.mutual_information(first, second), information, atol=1e-8)
    assert (posterior.mutual_information(first, second) >= 0).all()


def test_covariances_of_a_single_product_are_zero() -> None:
    circuit = testing.example_circuit("factorized", "sparse", num_variables=3, num_units=1, dtype=torch.float64)
    posterior = circuit.condition(pc.Evidence.nothing(2, 3))
    variances = posterior.moment(2) - posterior.moment(1).square()
    assert torch.allclose(posterior.covariance(), torch.diag_embed(variances))


@settings(max_examples=12)
@given(st.data())
def test_moments_and_covariances_equal_enumeration(data: st.DataObject) -> None:
    circuit, evidence = possible_case(data, inputs=["categorical", "bernoulli"])
    posterior, oracle = circuit.condition(evidence), Enumeration(circuit, evidence)
    p, x = oracle.probabilities, oracle.worlds.double()
    for order in (1, 2, 3):
        assert torch.allclose(posterior.moment(order), p @ x**order, atol=1e-9)
    mean = p @ x
    want = torch.einsum("bw,wi,wj->bij", p, x, x) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    assert torch.allclose(posterior.covariance(), want, atol=1e-8)


def expected_product(circuit: pc.Circuit, evidence: pc.Evidence, first: int, second: int) -> torch.Tensor:
    """`E[(X_first + 9) (X_second + 9) | e]` of unobserved Gaussian variables, by the second recursion."""
    oracle = Enumeration(circuit, evidence)

    def leaf(node) -> torch.Tensor:
        if node.variable not in (first, second):
            return oracle._leaf(node)
        mean, _ = _normal(circuit.inputs[node.variable], leaf_parameters(circuit, node))
        return (mean + 9.0).log()

    weighted = log_root(circuit, leaf, evidence=evidence) + oracle._log_weights(oracle.worlds)
    return (weighted.logsumexp(-1) - oracle.log_evidence).exp()


@pytest.mark.parametrize("structure", ["rat", "hmm", "from_networkx", "hclt"])
@pytest.mark.parametrize("inputs", ["gaussian", "mixed"])
def test_covariances_of_continuous_variables(structure: str, inputs: str) -> None:
    circuit = testing.example_circuit(structure, "cp", inputs, num_variables=6, seed=1, dtype=torch.float64)
    continuous = [v for v, family in enumerate(circuit.inputs) if not family.is_discrete][:2]
    values = torch.ones(2, 6, dtype=torch.float64)
    observed = torch.zeros(2, 6, dtype=torch.bool)
    observed[1, [v for v in range(6) if v not in continuous][:2]] = True
    evidence = pc.Evidence(values, observed=observed)
    posterior = circuit.condition(evidence)
    mean, covariance = posterior.moment(1), posterior.covariance()
    first, second = continuous
    want = expected_product(circuit, evidence, first, second) - (mean[:, first] + 9) * (mean[:, second] + 9)
    assert torch.allclose(covariance[:, first, second], want, atol=1e-9)
    assert torch.equal(covariance, covariance.mT)
    assert torch.allclose(covariance[1][observed[1]], torch.zeros(1, dtype=torch.float64), atol=1e-12)
    marginal = posterior.marginals()[first]
    assert torch.allclose(covariance[:, first, first], marginal.variance)


def deterministic(data: st.DataObject) -> tuple[pc.Circuit, pc.Evidence]:
    graph = st.sampled_from(["chow_liu", "factorized", "binary_tree", "chain", "hclt"])
    circuit = testing.example_circuit(
        data.draw(graph),
        "cp-t",
        weights=data.draw(st.sampled_from(["dense", "sparse", "deterministic"])),
        num_variables=data.draw(st.integers(2, 5)),
        num_units=1 + 2 * data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 999)),
        dtype=torch.float64,
    )
    kind = data.draw(st.sampled_from(["missing", "hard", "soft", "mixed", "potentials", "spread"]))
    return circuit, testing.example_evidence(circuit, kind, seed=data.draw(st.integers(0, 999)))


@settings(max_examples=25)
@given(st.data())
def test_the_entropy_of_deterministic_circuits_equals_enumeration(data: st.DataObject) -> None:
    circuit, evidence = deterministic(data)
    rows = ~circuit.condition(evidence).log_evidence.isneginf()
    if not rows.any():
        return
    evidence = evidence.rows(rows)
    posterior = circuit.condition(evidence)
    if not pc.check(circuit).deterministic:
        with pytest.raises(pc.StructureError, match="deterministic circuit"):
            posterior.entropy()
        return
    p = Enumeration(circuit, evidence).probabilities
    want = -torch.where(p > 0, p * p.log(), 0.0).sum(-1)
    assert torch.allclose(posterior.entropy(), want, atol=1e-8)


def test_the_entropy_of_independent_gaussians_is_the_closed_form() -> None:
    circuit = pc.Circuit(pc.structures.factorized(3), pc.Gaussian(), num_units=1, seed=0, dtype=torch.float64)
    values = torch.zeros(1, 3, dtype=torch.float64)
    posterior = circuit.condition(pc.Evidence(values, observed=torch.tensor([[True, False, False]])))
    variance = torch.stack([m.variance for m in posterior.marginals()], 1)[0, 1:]
    want = 0.5 * (2 * math.pi * math.e * variance).log().sum()
    assert posterior.entropy().item() == pytest.approx(want.item(), abs=1e-12)


def test_estimates_of_the_entropy_are_within_their_error() -> None:
    circuit = testing.example_circuit("rat", "cp", num_variables=5, weights="peaked", dtype=torch.float64)
    evidence = testing.example_evidence(circuit, "mixed", seed=4)
    posterior = circuit.condition(evidence)
    p = Enumeration(circuit, evidence).probabilities
    want = -torch.where(p > 0, p * p.log(), 0.0).sum(-1)
    found = posterior.estimate_entropy(4000, generator=torch.Generator().manual_seed(0))
    assert isinstance(found, pc.Estimate)
    assert ((found.value - want).abs() <= 4 * found.standard_error + 1e-12).all()
    assert found.standard_error.max() > 1e-4
    with pytest.raises(pc.ShapeError, match="at least 2"):
        posterior.estimate_entropy(1)


def test_what_is_not_known_is_refused_by_name() -> None:
    circuit = testing.example_circuit("binary_tree", "cp", "mixed")
    posterior = circuit.condition(pc.Evidence.nothing(1, 4))
    with pytest.raises(pc.StructureError, match="variable 1 is Gaussian"):
        posterior.pair_marginals(0, 1)
    with pytest.raises(pc.ShapeError, match=r"variables are 0\.\.3"):
        posterior.pair_marginals(0, 4)
    with pytest.raises(pc.StructureError, match="order 3"):
        posterior.moment(3)
    with pytest.raises(pc.ShapeError, match="positive integer"):
        posterior.moment(0)
    with pytest.raises(pc.StructureError, match="estimate_entropy"):
        posterior.entropy()
