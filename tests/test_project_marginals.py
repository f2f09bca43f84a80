"""Soft evidence with given marginals: chains, trees and circuits with shared regions; hidden potentials; gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing

SHAPES = {"hmm": "cp-t", "hclt": "cp-t", "binary_tree": "cp", "rat": "cp"}


def circuit_of(structure: str, seed: int = 0) -> pc.Circuit:
    return testing.example_circuit(
        structure, SHAPES[structure], num_variables=5, num_units=4, seed=seed, dtype=torch.float64
    )


def problem(circuit: pc.Circuit, seed: int, potentials: bool) -> tuple[pc.Evidence, torch.Tensor]:
    """Some variables observed, targets for the others, optionally with latent potentials and gates."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    observed = torch.rand(3, 5, generator=generator) < 0.4
    evidence = pc.Evidence(
        torch.zeros(3, 5, dtype=torch.long),
        observed=observed,
        latent=normal(3, 5, 4) if potentials else None,
        gates=normal(3, 5, 2, 2) if potentials else None,
    )
    return evidence, normal(3, 5, 3).mul(2).log_softmax(-1)


def gaps(circuit: pc.Circuit, evidence: pc.Evidence, log_targets: torch.Tensor) -> torch.Tensor:
    """Total variation of every unobserved marginal from its target, by enumeration."""
    found = testing.Enumeration(circuit, evidence).marginals()
    return ((found - log_targets.exp()).abs().sum(-1) / 2).masked_fill(evidence.observed, 0.0)


@pytest.mark.parametrize("potentials", [False, True])
@pytest.mark.parametrize("structure", SHAPES)
def test_projected_marginals_are_the_targets(structure: str, potentials: bool) -> None:
    circuit = circuit_of(structure)
    evidence, log_targets = problem(circuit, 1, potentials)
    found = pc.project_marginals(circuit, evidence, log_targets, tolerance=1e-6)
    exact = gaps(circuit, found.evidence, log_targets)
    assert found.converged.all() and 1 < found.sweeps < 200
    assert torch.allclose(found.gap, exact.amax(-1), atol=1e-10)
    assert exact.max() <= 1e-6
    assert gaps(circuit, evidence, log_targets).max() > 0.1


@settings(max_examples=20)
@given(st.sampled_from(list(SHAPES)), st.integers(0, 1000), st.booleans())
def test_the_last_variable_of_a_sweep_has_its_target(structure: str, seed: int, potentials: bool) -> None:
    circuit = circuit_of(structure, seed)
    evidence, log_targets = problem(circuit, seed, potentials)
    matched = pc.match_marginals(circuit, evidence, log_targets)
    assert gaps(circuit, matched, log_targets).amin(-1).max() < 1e-9
    assert gaps(circuit, matched, log_targets).sum() <= gaps(circuit, evidence, log_targets).sum() + 1e-9


def test_the_projection_is_closest_to_the_circuit() -> None:
    """No other distribution with these marginals has a smaller divergence from the circuit (Csiszar 1975)."""
    circuit = circuit_of("hmm")
    evidence = pc.Evidence.nothing(1, 5)
    log_targets = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    found = pc.project_marginals(circuit, evidence, log_targets, tolerance=1e-9).evidence
    worlds = testing.worlds(circuit)
    prior = circuit.log_prob(worlds).exp()
    closest = testing.Enumeration(circuit, found).probabilities[0]
    independent = log_targets[0, torch.arange(5), worlds].sum(-1).exp()
    for share in (0.01, 0.5, 1.0):
        other = (1 - share) * closest + share * independent
        assert (other * (other / prior).log()).sum() > (closest * (closest / prior).log()).sum()


def test_it_says_when_it_stopped_at_its_cap() -> None:
    circuit = circuit_of("hmm")
    evidence, log_targets = problem(circuit, 1, False)
    found = pc.project_marginals(circuit, evidence, log_targets, tolerance=1e-12, max_sweeps=2)
    assert found.sweeps == 2
    assert not found.converged.all()
    assert torch.equal(found.converged, found.gap <= 1e-12)


def test_values_that_the_circuit_excludes_are_given_up_by_a_sweep_and_refused_by_the_projection() -> None:
    hmm = pc.HMM.from_probs(torch.tensor([1.0]), torch.ones(1, 1), torch.tensor([[0.5, 0.5, 0.0]]), length=2)
    targets = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]]).log().unsqueeze(1).expand(2, 2, 3)
    matched = hmm.condition(pc.match_marginals(hmm, pc.Evidence.nothing(2, 2), targets)).marginals()
    assert torch.allclose(matched[0], torch.tensor([0.4, 0.6, 0.0]).expand(2, 3), atol=1e-6)
    with pytest.raises(pc.EvidenceError, match=r"excludes in batch rows \[0\]"):
        pc.project_marginals(hmm, pc.Evidence.nothing(2, 2), targets)
    assert pc.project_marginals(hmm, pc.Evidence.nothing(1, 2), targets[1:]).converged.all()


def test_a_wrong_tolerance_is_refused() -> None:
    circuit = circuit_of("hmm")
    evidence, log_targets = problem(circuit, 0, False)
    with pytest.raises(pc.ShapeError, match="`tolerance` must be positive, got 0"):
        pc.project_marginals(circuit, evidence, log_targets, tolerance=0.0)


@pytest.mark.parametrize("structure", ["hmm", "rat"])
def test_matched_weights_have_gradients(structure: str) -> None:
    """Of parameters, potentials, gates and targets; by finite differences."""
    circuit = circuit_of(structure)
    evidence, log_targets = problem(circuit, 2, True)
    x = torch.zeros(3, 5, dtype=torch.long)
    name, start = next((n, p) for n, p in circuit.named_parameters() if p.numel() >= 12)
    inputs = [t.clone().requires_grad_() for t in (start.detach(), evidence.latent, evidence.gates, log_targets)]

    def score(parameter: torch.Tensor, latent: torch.Tensor, gates: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        def run(x: torch.Tensor) -> torch.Tensor:
            given = pc.Evidence(evidence.values, observed=evidence.observed, latent=latent, gates=gates)
            matched = pc.match_marginals(circuit, given, goal.log_softmax(-1), sweeps=2)
            return circuit.condition(matched).log_prob(x)

        return torch.func.functional_call(_Score(circuit, run), {f"circuit.{name}": parameter}, (x,))

    assert torch.autograd.gradcheck(score, inputs, atol=1e-6, fast_mode=structure == "rat")  # many re-evaluations


class _Score(torch.nn.Module):
    def __init__(self, circuit: pc.Circuit, run) -> None:
        super().__init__()
        self.circuit, self.run = circuit, run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)
