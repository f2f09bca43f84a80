"""Samples against exact marginals and pairs, by a chi-square test that a wrong sampler fails."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.distributions import draw

N = 4_000
LEAST = 1e-4  # of a p value; a right sampler falls below it once in 10,000 tests


def chain_case() -> tuple[pc.Circuit, pc.Evidence]:
    circuit = testing.example_circuit("chain", "cp-t", weights="peaked", seed=2)
    return circuit, testing.example_evidence(circuit, "mixed", batch=2, seed=1)


CASES = [("chain", "cp-t"), ("binary_tree", "cp"), ("rat", "tucker"), ("rat", "cp"), ("hclt", "cp-t")]


@pytest.mark.parametrize("kind", ["missing", "soft", "mixed"])
@pytest.mark.parametrize("example", CASES, ids="-".join)
def test_samples_follow_exact_marginals_and_pairs(example: tuple[str, str], kind: str) -> None:
    circuit = testing.example_circuit(*example, weights="peaked", seed=1)
    evidence = testing.example_evidence(circuit, kind, batch=2, seed=1)
    samples = circuit.condition(evidence).sample(N, generator=torch.Generator().manual_seed(0))
    marginals, pairs = testing.sample_p_values(samples, testing.Enumeration(circuit, evidence))
    assert marginals > LEAST and pairs > LEAST


def test_independent_draws_from_exact_marginals_fail_on_pairs() -> None:
    """The parameters can expose an error: the variables are dependent, and only the pairs show it."""
    circuit = pc.HMM.from_probs(
        torch.tensor([0.5, 0.5]),
        torch.tensor([[0.95, 0.05], [0.05, 0.95]]),
        torch.tensor([[0.9, 0.1], [0.2, 0.8]]),
        length=4,
    )
    evidence = pc.Evidence.nothing(1, 4)
    oracle, generator = testing.Enumeration(circuit, evidence), torch.Generator().manual_seed(0)
    right = circuit.condition(evidence).sample(N, generator=generator)
    wrong = torch.stack([column[torch.randperm(N, generator=generator)] for column in right[:, 0].unbind(-1)], -1)
    assert min(testing.sample_p_values(right, oracle)) > LEAST
    marginals, pairs = testing.sample_p_values(wrong.unsqueeze(1), oracle)
    assert marginals > LEAST and pairs < 1e-12


def test_samples_keep_the_evidence_and_repeat_with_the_generator() -> None:
    circuit, evidence = chain_case()
    posterior = circuit.condition(evidence)
    draws = [posterior.sample(50, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    kept = (draws[0] == evidence.values) | ~evidence.observed
    assert kept.all()


def test_temperature_zero_takes_the_mode_given_the_latent_path() -> None:
    hmm = pc.HMM.from_probs(
        torch.tensor([0.5, 0.5]), torch.eye(2), torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7]]), length=3
    )
    cold = hmm.condition(pc.Evidence.nothing(1, 3)).sample(
        200, generator=torch.Generator().manual_seed(0), temperature=0.0
    )
    assert {tuple(row) for row in cold[:, 0].tolist()} == {(0, 0, 0), (2, 2, 2)}


def test_numbers_at_the_ends_of_their_range_draw_nothing_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    for number, index in ((0.0, 1), (0.2499, 1), (0.25, 3), (1 - 2**-53, 3), (1.0, 3)):
        monkeypatch.setattr(torch, "rand", lambda *shape, number=number, **_: torch.full((1, 1), number).double())
        assert draw(weights, None).tolist() == [index]


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_temperature_sharpens_each_variable_given_the_path(temperature: float) -> None:
    """One state: values are `p^(1/temperature)`, soft weights included; a Gaussian's variance is multiplied by it."""
    graph = pc.structures.factorized(2)
    circuit = pc.Circuit(graph, [pc.Categorical(3), pc.Gaussian()], num_units=1, seed=0)
    log_weights = torch.tensor([[[0.5, -1.0, 0.0], [0.0, 0.0, 0.0]]])
    posterior = circuit.condition(
        pc.Evidence(torch.zeros(1, 2), observed=torch.zeros(1, 2).bool(), log_weights=log_weights)
    )
    draws = posterior.sample(N, generator=torch.Generator().manual_seed(0), temperature=temperature)[:, 0].double()
    exact, moments = posterior.marginals()
    sharp = (exact[0].detach().double().log() / temperature).softmax(-1)
    assert testing.p_value(torch.bincount(draws[:, 0].long(), minlength=3).double(), sharp) > LEAST
    scaled = (draws[:, 1] - moments.mean.item()) / (temperature * moments.variance.item()) ** 0.5
    edges = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], dtype=torch.float64)
    mass = torch.cat([torch.zeros(1), torch.special.ndtr(edges), torch.ones(1)]).diff()
    assert testing.p_value(torch.bincount(torch.bucketize(scaled, edges), minlength=6).double(), mass) > LEAST


def test_rows_that_need_log_space_are_sampled_exactly_too() -> None:
    """Only a path of probability 1e-60 explains row 1; the path decides what the missing variable is."""
    hmm = pc.HMM.from_probs(
        torch.tensor([0.5, 0.5]),
        torch.eye(2),
        torch.tensor([[1 - 1e-30, 1e-30, 0.0], [0.5, 0.0, 0.5]]),
        length=4,
    ).requires_grad_(False)
    x = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]])
    posterior = hmm.condition(pc.Evidence(x, observed=torch.tensor([[True, True, True, False]] * 2)))
    draws = posterior.sample(N, generator=torch.Generator().manual_seed(0))
    assert (draws[:, 1] == torch.tensor([1, 1, 0, 0])).all()
    want = posterior.marginals()[0, 3].double()
    assert testing.p_value(torch.bincount(draws[:, 0, 3], minlength=3).double(), want) > LEAST
