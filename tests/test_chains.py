"""Chain segments: which levels they are, and that evaluating them as one changes no answer."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.kernels import matrix_product

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
    assert spans(CIRCUITS["hmm"]()) == [(1, 7, True)]
    assert spans(CIRCUITS["untied"]()) == [(1, 6, False)]
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


@pytest.mark.parametrize("least", [0.2, 1e-3, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_steps_between_rescales_lose_nothing(least: float, seed: int) -> None:
    """States that hold on, and values that are likely in one of them only: values fall as fast as they can."""
    generator = torch.Generator().manual_seed(seed)
    transition = least + (1 - 3 * least) * torch.eye(3, dtype=torch.float64)[torch.randperm(3, generator=generator)]
    emission = torch.tensor([[1 - 3e-6, 1e-6, 1e-6, 1e-6], [1e-9, 1 - 3e-9, 1e-9, 1e-9], [0.1, 0.2, 0.3, 0.4]])
    initial = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    hmm = pc.HMM.from_probs(initial, transition, emission.double(), length=60)
    single = pc.HMM.from_probs(*(x.float() for x in (initial, transition, emission)), length=60)
    x = torch.randint(4, (30, 60), generator=generator)
    expected = hmm.log_prob(x).detach()
    torch.testing.assert_close(single.log_prob(x).detach(), expected, rtol=1e-5, atol=1e-4)
    possible = x[~expected.isneginf()]
    if len(possible) == 0:
        return
    for group, parts in hmm.statistics(possible).counts.items():
        found = single.statistics(possible).counts[group]["counts"].double()
        torch.testing.assert_close(found, parts["counts"].double(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("onednn", [True, False])
def test_wide_chains_are_the_same_by_any_library(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if onednn and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch comes without oneDNN")
    monkeypatch.setattr(matrix_product, "_has_onednn", lambda: onednn)
    hmm = pc.HMM(256, 5, 6, seed=0)
    evidence = pc.Evidence(torch.randint(5, (16, 6), generator=torch.Generator().manual_seed(0)))
    found, want = answers(hmm, evidence), answers(pc.HMM(256, 5, 6, seed=0, dtype=torch.float64), evidence)
    for name in want.keys() - {"samples"}:
        assert torch.allclose(found[name].double(), want[name].double(), rtol=1e-3, atol=1e-5), name
