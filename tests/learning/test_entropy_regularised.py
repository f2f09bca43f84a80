"""Entropy as a reward: exact, and it does what it says."""

import math

import pytest
import torch
from torch import nn

import pcircuits as pc
from pcircuits import learning, testing
from pcircuits.queries import path_entropy
from tests.learning.small_models import fit, sequences


def chow_liu() -> pc.Circuit:
    return testing.example_circuit("chow_liu", "cp-t", num_variables=3, seed=1, dtype=torch.float64)


def test_adds_the_enumerated_entropy_of_a_deterministic_circuit() -> None:
    circuit = chow_liu().requires_grad_(False)
    p = testing.Enumeration(circuit, pc.Evidence.nothing(1, 3)).probabilities[0]
    entropy = -(p * p.log()).sum()
    x = circuit.sample(5, generator=torch.Generator().manual_seed(0))
    for latent in (False, True):  # values determine the path
        found = learning.EntropyRegularised(0.7, latent=latent)(circuit, x)
        assert torch.allclose(found, circuit.log_prob(x) + 0.7 * entropy, atol=1e-10)


def test_entropy_of_values_and_path_of_an_hmm() -> None:
    hmm = pc.HMM(2, 3, 2, seed=4, dtype=torch.float64).requires_grad_(False)
    initial, transition, emission = (x.double() for x in (hmm.initial, hmm.transition, hmm.emission))
    joint = torch.einsum("i,ia,ij,jb->ijab", initial, emission, transition, emission)
    nothing = hmm.condition(pc.Evidence.nothing(1, 2))
    found = path_entropy(hmm, nothing.evidence, nothing.log_evidence)
    assert found.item() == pytest.approx(-float((joint * joint.log()).sum()), abs=1e-10)
    given = hmm.condition(pc.Evidence(torch.tensor([[0, 2]]), observed=torch.tensor([[False, True]])))
    rest = joint[..., 2] / joint[..., 2].sum()
    found = path_entropy(hmm, given.evidence, given.log_evidence)
    assert found.item() == pytest.approx(-float((rest * rest.log()).sum()), abs=1e-10)


def test_the_more_strength_the_more_entropy() -> None:
    x, entropies = torch.tensor([[0, 0, 1], [0, 1, 1]]), []
    for strength in (0.0, 0.3, 50.0):
        circuit = chow_liu()
        fit(circuit, x, objective=learning.EntropyRegularised(strength), learner=pc.Adam(0.3), epochs=25)
        entropies.append(float(circuit.condition(pc.Evidence.nothing(1, 3)).entropy().detach()))
    assert entropies[0] < entropies[1] < entropies[2] and entropies[2] == pytest.approx(3 * math.log(3), abs=0.05)


def test_latent_entropy_trains_any_circuit() -> None:
    hmm, x = pc.HMM(3, 4, 4, seed=0), sequences(20)
    history = fit(hmm, x, objective=learning.EntropyRegularised(0.1, latent=True), learner="adam", epochs=2)
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss


def test_refusals() -> None:
    hmm = pc.HMM(3, 4, 4, seed=0)
    with pytest.raises(pc.StructureError, match="deterministic"):
        learning.EntropyRegularised(0.1)(hmm, sequences(2))
    with pytest.raises(pc.ParameterError, match="strength"):
        learning.EntropyRegularised(-1.0)
    with pytest.raises(pc.ParameterError, match="Linear"):
        learning.EntropyRegularised(1.0)(nn.Linear(1, 1), sequences(2))
