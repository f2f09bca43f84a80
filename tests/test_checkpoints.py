"""Passes that keep some levels only: the same counts to the bit, in less memory."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.checkpoints import find_stretches
from pcircuits.statistics import Statistics


def same(found: Statistics, expected: Statistics) -> None:
    assert torch.equal(found.log_likelihood, expected.log_likelihood)
    for group, parts in expected.counts.items():
        for name, counts in parts.items():
            assert torch.equal(found.counts[group][name], counts)


@pytest.mark.parametrize("weights", ["dense", "peaked"])
@pytest.mark.parametrize("layer", ["cp", "cp-t", "tucker"])
@pytest.mark.parametrize("structure", ["chain", "rat", "quad_graph", "hmm"])
def test_counts_are_the_same_to_the_bit(structure: str, layer: str, weights: str) -> None:
    circuit = testing.example_circuit(structure, layer, weights=weights, num_variables=8)
    evidence = testing.example_evidence(circuit, "mixed", batch=5)
    expected, workspace = circuit.statistics(evidence), pc.Workspace()
    same(circuit.statistics(evidence, recompute=True), expected)
    for _ in range(2):  # into fresh memory, and over that of the pass before
        same(circuit.statistics(evidence, workspace=workspace, recompute=True), expected)


def deep(num_variables: int = 256, layer: str = "tucker") -> tuple[pc.Circuit, torch.Tensor]:
    circuit = pc.Circuit(pc.structures.chain(num_variables), pc.Categorical(3), num_units=8, layer=layer, seed=0)
    x = torch.randint(3, (64, num_variables), generator=torch.Generator().manual_seed(0))
    return circuit, x


def test_a_deep_circuit_takes_less_memory() -> None:
    circuit, x = deep(layer="cp")
    whole, some = pc.Workspace(), pc.Workspace()
    expected = circuit.statistics(x, workspace=whole)
    same(circuit.statistics(x, workspace=some, recompute=True), expected)
    counts = sum(counts.nbytes for parts in expected.counts.values() for counts in parts.values())
    assert some.size - counts < 0.9 * (whole.size - counts)


def test_kronecker_products_are_never_kept() -> None:
    circuit, x = deep()
    workspace = pc.Workspace()
    circuit.statistics(x, workspace=workspace)
    products = 4 * len(x) * sum(level.num_rows * 64 for level in circuit.plan.levels[1:])
    assert workspace.size < products


def test_stretches_cover_the_levels_and_forget_what_no_later_one_reads() -> None:
    plan = deep()[0].plan
    stretches = find_stretches(plan)
    assert [n for stretch in stretches for n in stretch.levels] == list(range(len(plan.levels)))
    assert len(stretches) > 10 and sum(len(s.forgotten) for s in stretches) > len(plan.levels) / 2
    for stretch in stretches:
        for n in stretch.forgotten:
            assert plan.readers[n] <= set(stretch.levels)


def test_learning_with_recomputation_gives_the_same_parameters() -> None:
    found = []
    for recompute in (False, True):
        circuit, x = deep(16)
        pc.fit(circuit, x, learner=pc.MiniBatchEM(recompute=recompute), epochs=2, batch_size=32, progress=False, seed=0)
        found.append(torch.cat([p.detach().flatten() for p in circuit.parameters()]))
    assert torch.equal(*found)
