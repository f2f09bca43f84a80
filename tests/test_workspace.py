"""Reused memory changes no answer, and no posterior that was made without it."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.kernels.dense_sum import cpu as dense_sum
from pcircuits.workspace import Workspace

CIRCUITS = [("binary_tree", "cp"), ("rat", "tucker"), ("rat", "cp"), ("hclt", "cp-t"), ("chain", "cp")]
LARGE = {
    "quad_graph": lambda: pc.structures.quad_graph(8, 8),
    "rat": lambda: pc.structures.rat(64, 4, num_repetitions=4, seed=0),
    "binary_tree": lambda: pc.structures.binary_tree(64),
}


def poison(workspace: Workspace) -> None:
    for block in [*workspace._blocks.values(), *workspace._scratch.values()]:
        block.fill_(torch.nan)


@pytest.mark.parametrize(("structure", "layer"), CIRCUITS)
@pytest.mark.parametrize("weights", ["dense", "sparse"])
def test_answers_do_not_depend_on_what_the_memory_held(structure: str, layer: str, weights: str) -> None:
    circuit = testing.example_circuit(structure, layer, weights=weights).requires_grad_(False)
    workspace, batches = Workspace(), (3, 2, 3)
    for batch in batches:
        evidence = testing.example_evidence(circuit, "mixed", batch=batch)
        evidence = evidence.rows(~circuit.condition(evidence).log_evidence.isneginf())
        want = circuit.statistics(evidence)
        with torch.enable_grad():
            recorded = circuit.requires_grad_().condition(evidence)
            marginals = recorded.marginals()
        circuit.requires_grad_(False)
        found = circuit.statistics(evidence, workspace=workspace)
        for name, parts in want.counts.items():
            assert torch.equal(found.counts[name]["counts"], parts["counts"]), name
        posterior = circuit.condition(evidence, workspace=workspace)
        assert torch.allclose(posterior.log_evidence, recorded.log_evidence, rtol=1e-5)
        assert torch.allclose(posterior.marginals(), marginals, atol=1e-5)
        poison(workspace)


def test_a_loop_over_batches_of_one_size_allocates_once() -> None:
    circuit = testing.example_circuit("rat", "cp")
    evidence, workspace = testing.example_evidence(circuit, "hard", batch=8), Workspace()
    circuit.statistics(evidence, workspace=workspace)
    held, size = set(workspace._blocks), workspace.size
    circuit.statistics(evidence, workspace=workspace)
    assert set(workspace._blocks) == held and workspace.size == size > 0


@pytest.mark.parametrize("structure", list(LARGE))
def test_a_step_holds_little_more_than_values_and_counts(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_sum, "CHUNK_ELEMENTS", 1 << 12)
    circuit = pc.Circuit(LARGE[structure](), pc.Categorical(64), num_units=32, layer="cp", seed=0)
    x = torch.randint(64, (32, 64), generator=torch.Generator().manual_seed(0))
    upward, step = Workspace(), Workspace()
    with torch.no_grad():
        circuit.log_prob(x, workspace=upward)
    found = circuit.statistics(x, workspace=step)
    counts = sum(value.nbytes for parts in found.counts.values() for value in parts.values())
    assert step.size < 1.1 * (upward.size + counts)


def test_a_posterior_owns_its_memory() -> None:
    circuit = testing.example_circuit("binary_tree", "cp").requires_grad_(False)
    first, second = (testing.example_evidence(circuit, kind, batch=3) for kind in ("mixed", "soft"))
    posterior = circuit.condition(first)
    want = posterior.marginals().clone()
    circuit.condition(second).marginals()
    assert torch.equal(posterior.marginals(), want)


def test_an_em_step_does_not_write_over_tables_that_users_hold() -> None:
    hmm, x = pc.HMM(3, 4, 5, seed=0), torch.randint(4, (20, 5), generator=torch.Generator().manual_seed(0))
    hmm.maximise(hmm.statistics(x))
    held = hmm.transition, hmm.emission
    want = [table.clone() for table in held]
    hmm.maximise(hmm.statistics(x))
    assert all(torch.equal(a, b) for a, b in zip(held, want, strict=True))
    assert not torch.equal(hmm.transition, want[0])
    hmm.maximise(hmm.statistics(x), step=0.5)
    fresh = pc.HMM(3, 4, 5, seed=1)
    fresh.load_state_dict(hmm.state_dict())
    assert torch.equal(fresh.log_prob(x), hmm.log_prob(x)), "a step leaves nothing behind but the parameters"
