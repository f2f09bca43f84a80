"""Chain segments: which levels they are, and that evaluating them as one changes no answer."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing

CIRCUITS = {
    "hmm": lambda: pc.HMM(3, 4, 7, seed=0),
    "untied": lambda: pc.Circuit(structures.chain(6), pc.Categorical(4), num_units=3, layer="cp-t", seed=0),
    "two families": lambda: pc.Circuit(
        structures.chain(6), [pc.Categorical(4), pc.Bernoulli()] * 3, num_units=3, layer="cp-t", seed=0
    ),
    "two chains": lambda: pc.Circuit(
        structures.from_networkx(two_chains().to_networkx()), pc.Categorical(4), num_units=3, layer="cp-t", seed=0
    ),
}


def two_chains() -> pc.RegionGraph:
    """Two chains of four variables side by side, whose steps are folded rows, under one root."""
    regions = [structures.Region.input(v) for v in range(10)]
    below = [3, 8]
    for step in range(3):
        for side in (0, 1):
            regions.append(structures.Region.split((below[side], 5 * side + step)))
            below[side] = len(regions) - 1
    return pc.RegionGraph((*regions, structures.Region.split((*below, 4, 9))))


def spans(circuit: pc.Circuit) -> list[tuple[int, int, bool]]:
    return [(chain.start, chain.stop, chain.tied) for chain in circuit.plan.chains]


def test_chains_are_found() -> None:
    assert spans(CIRCUITS["hmm"]()) == [(2, 7, True)]
    assert spans(CIRCUITS["untied"]()) == [(2, 6, False)]
    assert spans(CIRCUITS["two families"]()) == []
    assert spans(CIRCUITS["two chains"]()) == [(2, 4, False)]
    assert spans(pc.Circuit(structures.binary_tree(8), pc.Categorical(3), num_units=2, layer="cp-t")) == []
    assert spans(pc.HMM(2, 2, 2)) == []


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plan = pc.Circuit.plan.fget
    monkeypatch.setattr(pc.Circuit, "plan", property(lambda self: replace(plan(self), chains=())))
    yield


def flat(marginals: torch.Tensor | list) -> torch.Tensor:
    return torch.cat([m.flatten() for m in marginals])


def answers(circuit: pc.Circuit, evidence: pc.Evidence) -> dict[str, torch.Tensor]:
    circuit.requires_grad_(False)
    posterior = circuit.condition(evidence)
    counts = {name: parts["counts"] for name, parts in circuit.statistics(evidence).counts.items()}
    generator = torch.Generator().manual_seed(0)
    found = {"log evidence": posterior.log_evidence, "marginals": flat(posterior.marginals()), **counts}
    found["samples"] = posterior.sample(3, generator=generator)
    circuit.requires_grad_()
    recorded = circuit.condition(evidence)
    recorded.log_evidence.sum().backward()
    found["recorded marginals"] = flat(recorded.marginals())
    return found | {f"gradient of {name}": p.grad for name, p in circuit.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", CIRCUITS)
@pytest.mark.parametrize("kind", ["hard", "mixed", "potentials"])
@pytest.mark.parametrize("weights", ["dense", "sparse"])
def test_a_segment_answers_as_its_steps_do(make: str, kind: str, weights: str, request: pytest.FixtureRequest) -> None:
    first, second = CIRCUITS[make](), CIRCUITS[make]()
    for circuit in (first, second):
        testing.reshape_weights(circuit, weights)
    evidence = testing.example_evidence(first, kind, batch=4)
    possible = ~first.condition(evidence).log_evidence.detach().isneginf()
    evidence = evidence.rows(possible) if possible.any() else pc.Evidence(first.sample(4))
    found = answers(first, evidence)
    request.getfixturevalue("step_by_step")
    want = answers(second, evidence)
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert torch.allclose(found[name].double(), value.double(), rtol=1e-4, atol=1e-5), name
