"""Samples against exact marginals and pairs, by a chi-square test that a wrong sampler fails."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing

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
