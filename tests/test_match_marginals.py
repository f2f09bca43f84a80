"""Matched marginals are the targets, whatever the circuit; visiting a tree equals evaluating it for every variable."""

import sys

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing

TREES = [(structure, layer) for structure in ("chain", "hmm", "binary_tree", "hclt") for layer in ("cp", "cp-t")]
OTHERS = [("factorized", "cp"), ("chain", "tucker"), ("rat", "cp"), ("from_networkx", "cp-t")]
ORDERED = {
    "chain": lambda: structures.chain(4),
    "binary tree": lambda: structures.binary_tree(4),
    "factorized": lambda: structures.factorized(4),
}


def targets_like(circuit: pc.Circuit, batch: int, seed: int = 0) -> torch.Tensor:
    shape = batch, circuit.num_variables, circuit.num_categories
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def mixed_evidence(circuit: pc.Circuit, batch: int, seed: int = 0) -> pc.Evidence:
    """Observed and soft variables, no value excluded; every variable is free in one of the rows."""
    generator = torch.Generator().manual_seed(seed)
    observed = torch.rand(batch, circuit.num_variables, generator=generator) < 0.4
    observed[0], observed[1] = False, observed[1].logical_or(torch.arange(circuit.num_variables) == 1)
    values = torch.randint(circuit.num_categories, observed.shape, generator=generator)
    return pc.Evidence(values, observed=observed, log_weights=targets_like(circuit, batch, seed + 1))


@pytest.mark.parametrize(("structure", "layer"), TREES + OTHERS)
def test_marginals_reach_the_targets(structure: str, layer: str) -> None:
    circuit = testing.example_circuit(structure, layer, num_variables=5, seed=2, dtype=torch.float64)
    evidence, targets = mixed_evidence(circuit, 3), targets_like(circuit, 3)
    before = evidence.log_weights.clone()
    found = pc.match_marginals(circuit, evidence, targets, sweeps=12)
    assert torch.equal(evidence.log_weights, before) and found.log_weights is not evidence.log_weights
    assert torch.equal(found.observed, evidence.observed) and torch.equal(found.values, evidence.values)
    gap = (circuit.condition(found).marginals() - targets.exp()).abs().sum(-1)
    assert gap[~evidence.observed].max() < 1e-6


@pytest.mark.parametrize("sweeps", [1, 2])
@pytest.mark.parametrize("layer", ["cp", "cp-t"])
@pytest.mark.parametrize("order", ORDERED)
def test_a_walk_through_a_tree_is_one_evaluation_a_variable(
    order: str, layer: str, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = pc.Circuit(ORDERED[order](), pc.Categorical(3), num_units=3, layer=layer, seed=1, dtype=torch.float64)
    evidence, targets = mixed_evidence(circuit, 4), targets_like(circuit, 4)
    walked = circuit.condition(pc.match_marginals(circuit, evidence, targets, sweeps=sweeps))
    module = sys.modules[pc.match_marginals.__module__]
    calls: list[int] = []
    original = module._refit
    monkeypatch.setattr(module, "is_tree", lambda plan: False)
    monkeypatch.setattr(module, "_refit", lambda *a: (calls.append(a[-1]), original(*a))[1])
    refitted = circuit.condition(pc.match_marginals(circuit, evidence, targets, sweeps=sweeps))
    assert calls == [0, 1, 2, 3] * sweeps, "a tree must not be evaluated for every variable, other circuits must"
    worlds = testing.worlds(circuit).unsqueeze(1).expand(-1, 4, -1)
    assert torch.allclose(walked.log_prob(worlds), refitted.log_prob(worlds), atol=1e-10)
    assert not torch.allclose(walked.marginals(), circuit.condition(evidence).marginals(), atol=1e-2)


@pytest.mark.parametrize("structure", ["binary_tree", "rat"])
def test_values_that_are_excluded_stay_excluded(structure: str) -> None:
    """By the circuit, or by the targets."""
    circuit = testing.example_circuit(structure, "cp", num_variables=4, dtype=torch.float64)
    for _, group in circuit.named_groups():
        if hasattr(group, "family"):
            shape = group.get_parameter("logits").shape
            group.restrict((torch.arange(3) != 0).expand(shape).clone())  # the circuit excludes value 0
    targets = targets_like(circuit, 2)
    targets[:, :2, 1] = -torch.inf
    found = circuit.condition(pc.match_marginals(circuit, pc.Evidence.nothing(2, 4), targets, sweeps=8)).marginals()
    want = targets.exp() * torch.tensor([0.0, 1.0, 1.0])
    assert torch.allclose(found, want / want.sum(-1, keepdim=True), atol=1e-8)


def test_targets_without_a_possible_value_leave_their_row_alone() -> None:
    hmm = pc.HMM.from_probs(torch.ones(1), torch.ones(1, 1), torch.tensor([[0.5, 0.5, 0.0]]), length=2)
    targets = torch.tensor([[0.0, 0.0, 1.0], [0.3, 0.7, 0.0]]).log().unsqueeze(1).expand(2, 2, 3)
    matched = hmm.condition(pc.match_marginals(hmm, pc.Evidence.nothing(2, 2), targets)).marginals()
    assert torch.allclose(matched[:, 0], torch.tensor([[0.5, 0.5, 0.0], [0.3, 0.7, 0.0]]), atol=1e-6)


def test_what_cannot_be_matched() -> None:
    circuit = testing.example_circuit("binary_tree")
    evidence = pc.Evidence.nothing(1, 4)
    for sweeps in (0, -1, 1.5):
        with pytest.raises((pc.ShapeError, TypeError), match="sweeps"):
            pc.match_marginals(circuit, evidence, torch.zeros(1, 4, 3), sweeps=sweeps)
    pc.match_marginals(circuit, evidence, torch.zeros(1, 4, 3), sweeps=1)
    for inputs in ("gaussian", "mixed"):
        with pytest.raises(pc.StructureError, match="equally many values"):
            pc.match_marginals(testing.example_circuit(inputs=inputs), evidence, torch.zeros(1, 4, 3))
