"""Evidence of intervals and sets: against enumeration, quadrature and closed forms; what is refused."""

import itertools
import math

import pytest
import torch
from scipy import stats

import pcircuits as pc
from pcircuits import structures

INF = torch.inf


def mixed_circuit() -> pc.Circuit:
    inputs = [pc.Categorical(4), pc.Gaussian(), pc.Bernoulli()]
    circuit = pc.Circuit(structures.binary_tree(3), inputs, num_units=3, seed=2, dtype=torch.float64)
    return circuit.requires_grad_(False)


def test_an_interval_of_a_discrete_variable_sums_its_values() -> None:
    circuit = mixed_circuit()
    posterior = circuit.condition(
        pc.Evidence(torch.zeros(1, 3), interval=(torch.tensor([[0.5, -INF, 1.0]]), torch.tensor([[2.0, 0.25, INF]])))
    )
    probability = 0.0
    for value in (1.0, 2.0):
        x = torch.tensor([[value, 0.0, 1.0]])
        part = pc.Evidence(x, observed=torch.tensor([[True, False, True]]), interval=(-INF, 0.25))
        probability += float(circuit.condition(part).log_evidence.exp())
    assert float(posterior.log_evidence.exp()) == pytest.approx(probability, rel=1e-12)
    assert posterior.marginals()[0][0, [0, 3]].tolist() == [0.0, 0.0]


def test_intervals_that_part_the_line_add_up() -> None:
    circuit, cuts = mixed_circuit(), [-INF, -1.0, -0.2, 0.0, 3.0, INF]
    pairs = list(itertools.pairwise(cuts))
    low, high = (torch.tensor([[-INF, pair[side], -INF] for pair in pairs]) for side in (0, 1))
    interval = (low, torch.where(torch.tensor([False, True, False]), high, INF))
    found = circuit.condition(pc.Evidence(torch.zeros(5, 3), interval=interval)).log_evidence
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("low", "high"), [(-INF, -0.5), (0.2, 0.9), (9.0, INF), (-40.0, -30.0), (0.1, 0.1 + 1e-9)])
def test_one_gaussian_against_scipy(low: float, high: float) -> None:
    circuit = pc.Circuit(structures.factorized(1), pc.Gaussian(), num_units=1, seed=0, dtype=torch.float64)
    group = next(g for _, g in circuit.named_groups() if hasattr(g, "family"))
    group.set_parameters(pc.Gaussian().from_moments(torch.tensor([[0.3]]), torch.tensor([[0.8]])))
    circuit.requires_grad_(False)
    posterior = circuit.condition(pc.Evidence(torch.zeros(1, 1), interval=(low, high)))
    mean, std = (float(x) for x in group.prepare())
    exact = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    if high - low > 1e-6:
        assert float(posterior.log_evidence) == pytest.approx(_log_mass(stats.norm(mean, std), low, high), rel=1e-9)
        assert float(posterior.marginals()[0].mean) == pytest.approx(exact.mean(), rel=1e-9)
        assert float(posterior.marginals()[0].variance) == pytest.approx(exact.var(), rel=1e-6)
    assert low <= float(posterior.marginals()[0].mean) <= high
    draws = posterior.sample(2000, generator=torch.Generator().manual_seed(0)).flatten().numpy()
    assert ((draws >= low) & (draws <= high)).all()
    if high - low > 1e-6:
        assert stats.kstest(draws, exact.cdf).pvalue > 1e-4


def _log_mass(distribution, low: float, high: float) -> float:
    if high == INF:
        return distribution.logsf(low)
    lower = distribution.logcdf(low)
    return distribution.logcdf(high) + math.log1p(-math.exp(lower - distribution.logcdf(high)))


def test_sets_are_weights_of_one_and_zero() -> None:
    circuit = pc.Circuit(structures.binary_tree(3), pc.Categorical(4), num_units=3, seed=1).requires_grad_(False)
    evidence = pc.Evidence.from_sets([{0: {1, 3}, 2: [0]}, {}], num_variables=3, num_categories=4)
    posterior = circuit.condition(evidence)
    marginals = posterior.marginals()
    assert marginals[0, 0, [0, 2]].tolist() == [0.0, 0.0] and marginals[0, 2, 0] == pytest.approx(1.0)
    assert float(posterior.log_evidence[1]) == pytest.approx(0.0, abs=1e-6)
    draws = posterior.sample(200, generator=torch.Generator().manual_seed(0))
    assert set(draws[:, 0, 0].tolist()) == {1, 3}


def test_intervals_and_weights_multiply_and_observed_values_count_alone() -> None:
    circuit = pc.Circuit(structures.binary_tree(2), pc.Categorical(3), num_units=2, seed=1).requires_grad_(False)
    weights = torch.randn(1, 2, 3)
    both = pc.Evidence(log_weights=weights, interval=(1, 2))
    weighed = pc.Evidence(log_weights=weights.index_fill(2, torch.tensor([0]), -INF))
    assert torch.equal(circuit.condition(both).log_evidence, circuit.condition(weighed).log_evidence)
    hard = pc.Evidence(torch.zeros(1, 2), observed=torch.ones(1, 2, dtype=torch.bool), interval=(1, 2))
    assert torch.equal(circuit.condition(hard).log_evidence, circuit.log_prob(torch.zeros(1, 2)))


def test_posterior_log_prob_is_minus_infinity_outside() -> None:
    posterior = mixed_circuit().condition(
        pc.Evidence(torch.zeros(1, 3), interval=(torch.tensor([[1.0, 0.0, -INF]]), INF))
    )
    inside, outside, low = ([[1.0, 0.5, 0.0]], [[1.0, -0.5, 0.0]], [[0.0, 0.5, 0.0]])
    found = posterior.log_prob(torch.tensor([inside, outside, low]))
    assert found[0].isfinite().all() and found[1:].isneginf().all()


@pytest.mark.parametrize(
    ("interval", "error", "message"),
    [
        ((1.0, 0.0), pc.EvidenceError, r"low <= high.*rows \[0, 1\]"),
        ((torch.nan, 0.0), pc.EvidenceError, "no NaN"),
        ((INF, INF), pc.EvidenceError, "low < inf"),
        ((torch.zeros(3), 1.0), pc.ShapeError, r"broadcast to \(2, 2\)"),
    ],
)
def test_bad_intervals(interval: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pc.Evidence(torch.zeros(2, 2), interval=interval)


@pytest.mark.parametrize("allowed", [[], [{0: []}], [{5: [0]}], [{0: [9]}], [{0: [-1]}]])
def test_bad_sets(allowed: list) -> None:
    with pytest.raises(pc.EvidenceError, match="allowed"):
        pc.Evidence.from_sets(allowed, num_variables=2, num_categories=3)


def test_a_point_has_no_probability_for_a_continuous_variable() -> None:
    circuit = pc.Circuit(structures.factorized(1), pc.Gaussian(), num_units=2, seed=0)
    posterior = circuit.condition(pc.Evidence(torch.zeros(1, 1), interval=(0.0, 0.0)))
    assert posterior.log_evidence.isneginf().all()
    with pytest.raises(pc.EvidenceError, match="impossible"):
        posterior.marginals()


def test_gradients_through_an_interval() -> None:
    circuit = pc.Circuit(structures.binary_tree(2), pc.Gaussian(), num_units=2, seed=0, dtype=torch.float64)
    evidence = pc.Evidence(torch.zeros(2, 2), interval=(-0.3, torch.tensor([[0.4, INF], [0.1, 2.0]])))
    names, values = zip(*circuit.named_parameters(), strict=True)

    def log_evidence(*parameters: torch.Tensor) -> torch.Tensor:
        call = {f"circuit.{name}": p for name, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(_Evidence(circuit, evidence), call, ())

    assert torch.autograd.gradcheck(log_evidence, values, eps=1e-6, atol=1e-7)


class _Evidence(torch.nn.Module):
    def __init__(self, circuit: pc.Circuit, evidence: pc.Evidence) -> None:
        super().__init__()
        self.circuit, self.evidence = circuit, evidence

    def forward(self) -> torch.Tensor:
        return self.circuit.condition(self.evidence).log_evidence
