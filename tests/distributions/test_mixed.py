"""Variables of every family in one circuit, and the families that need something of their own."""

import itertools
import math
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing
from tests.distributions.families import ROWS

FAMILIES = [entry.family for entry in ROWS.values() if entry.family.learns_by_em]


@pytest.fixture
def circuit() -> pc.Circuit:
    return pc.Circuit(structures.binary_tree(len(FAMILIES)), FAMILIES, num_units=3, seed=4, dtype=torch.float64)


def some_missing(circuit: pc.Circuit, rows: int = 60) -> pc.Evidence:
    generator = torch.Generator().manual_seed(0)
    x = circuit.sample(rows, generator=generator)
    return pc.Evidence(x, observed=torch.rand(x.shape, generator=generator) < 0.7)


def test_em_of_all_families_together(circuit: pc.Circuit) -> None:
    evidence, scores = some_missing(circuit), []
    for _ in range(5):
        found = circuit.statistics(evidence)
        circuit.maximise(found)
        scores.append(float(found.log_likelihood))
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(scores)) and scores[-1] > scores[0]
    assert pc.check(circuit).normalised


def test_saved_and_loaded(circuit: pc.Circuit, tmp_path: Path) -> None:
    pc.save(circuit, tmp_path)
    loaded = pc.load(tmp_path)
    assert loaded.inputs == circuit.inputs
    evidence = some_missing(circuit)
    assert torch.equal(loaded.condition(evidence).log_evidence, circuit.condition(evidence).log_evidence)


def test_queries(circuit: pc.Circuit) -> None:
    circuit.requires_grad_(False)
    evidence = some_missing(circuit, 8)
    posterior = circuit.condition(evidence)
    samples = posterior.sample(4000, generator=torch.Generator().manual_seed(1))
    kept = (samples == evidence.values) | ~evidence.observed
    assert kept.all() and posterior.log_prob(samples).isfinite().all()
    for variable, entry in enumerate(posterior.marginals()):
        drawn = samples[..., variable].double()
        if isinstance(entry, torch.Tensor):
            assert entry.sum(-1).tolist() == pytest.approx([1.0] * 8)
            mean, variance = (entry * torch.arange(entry.shape[-1])).sum(-1), drawn.var(0)
        else:
            mean, variance = entry
        assert (drawn.mean(0) - mean).abs().le(6 * (variance / 4000).sqrt() + 1e-9).all(), FAMILIES[variable]
    best = posterior.mpe()
    assert ((best.values == evidence.values) | ~evidence.observed).all() and best.log_prob.isfinite().all()


@pytest.mark.parametrize("learner", ["em", "adam"])
def test_fit(circuit: pc.Circuit, learner: str) -> None:
    x = circuit.sample(100, generator=torch.Generator().manual_seed(5))
    start = pc.Circuit(circuit.graph, FAMILIES, num_units=3, seed=6, dtype=torch.float64)
    before = float(start.log_prob(x).mean().detach())
    pc.fit(start, x, learner=learner, epochs=3, batch_size=50, progress=False)
    assert float(start.log_prob(x).mean().detach()) > before


def test_resumes_with_parameters_that_are_fixed() -> None:
    circuit = pc.Circuit(structures.factorized(2), [pc.Uniform(), pc.Literal()], num_units=2, seed=0)
    assert {name.split(".")[-1] for name, _ in circuit.named_buffers()} == {"lower", "upper", "value"}
    assert not any(name.endswith(("lower", "value")) for name, _ in circuit.named_parameters())
    x = torch.tensor([[0.2, 1.0], [0.4, 0.0]])
    circuit.maximise(circuit.statistics(x))
    assert circuit.log_prob(x).exp().tolist() == pytest.approx([0.5, 0.5])
    assert circuit.mpe().values.shape == (2,)


def test_units_of_uniform_that_part_the_line_are_deterministic() -> None:
    circuit = pc.Circuit(structures.factorized(1), pc.Uniform(0.0, 3.0), num_units=3, seed=0)
    group = next(g for _, g in circuit.named_groups() if hasattr(g, "family"))
    group.set_parameters({"lower": torch.tensor([[0.0, 1.1, 2.1]]), "upper": torch.tensor([[1.0, 2.0, 3.0]])})
    assert pc.check(circuit).deterministic and bool(circuit.mpe().exact)


def test_indicators_make_a_circuit_deterministic() -> None:
    circuit = pc.Circuit(structures.factorized(2), pc.Indicator(3), num_units=3, layer="cp-t", seed=0)
    assert pc.check(circuit).deterministic
    assert circuit.log_prob(torch.tensor([[0, 1]])).isneginf().all()


def test_external_log_likelihoods() -> None:
    inputs = [pc.External(), pc.Categorical(3), pc.External()]
    circuit = pc.Circuit(structures.binary_tree(3), inputs, num_units=2, seed=0, dtype=torch.float64)
    scores = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.0, 1.0, 0.0]] * 4)
    latent = scores * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1)
    posterior = circuit.condition(pc.Evidence(x, latent=latent))
    reference = pc.Circuit(structures.binary_tree(3), pc.Categorical(3), num_units=2, seed=0, dtype=torch.float64)
    oracle = testing.Enumeration(circuit, pc.Evidence(x, latent=latent.detach()))
    assert posterior.log_evidence.tolist() == pytest.approx(oracle.log_evidence.tolist())
    assert reference.num_parameters > circuit.num_parameters
    posterior.log_evidence.sum().backward()
    assert scores.grad is not None and torch.allclose(scores.grad[:, [0, 2]].sum(-1), torch.ones(4, 2).double())
    free = pc.Evidence(x, observed=torch.tensor([[False, True, True]] * 4), latent=latent.detach())
    for query in ("sample", "marginals", "mpe"):
        with pytest.raises(pc.EvidenceError, match="External"):
            getattr(circuit.condition(free), query)()
    with pytest.raises(pc.EvidenceError, match="latent"):
        circuit.log_prob(x)
    with pytest.raises(pc.EvidenceError, match="interval"):
        circuit.condition(pc.Evidence(x, interval=(0.0, 1.0)))


def test_torch_families_are_learned_by_gradients_and_refuse_the_rest() -> None:
    family = pc.TorchDistribution("StudentT", {"df": 5.0})
    circuit = pc.Circuit(structures.binary_tree(2), family, num_units=2, seed=0)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 2 + 3
    before = float(circuit.log_prob(x).mean().detach())
    with pytest.raises(pc.ParameterError, match="adam"):
        pc.fit(circuit, x, learner="em", epochs=1, progress=False)
    pc.fit(circuit, x, learner="adam", epochs=20, batch_size=50, progress=False)
    assert float(circuit.log_prob(x).mean().detach()) > before + 0.1
    with pytest.raises(pc.EvidenceError, match="distribution function"):
        circuit.condition(pc.Evidence(x, interval=(0.0, 1.0)))
    cauchy = pc.Circuit(structures.factorized(1), pc.TorchDistribution("Cauchy"), num_units=1, seed=0)
    with pytest.raises(pc.StructureError, match="mean and variance"):
        cauchy.marginals()
    posterior = cauchy.condition(pc.Evidence(torch.zeros(1, 1), interval=(1.0, math.inf)))
    assert posterior.sample(50, generator=torch.Generator().manual_seed(0)).min() >= 1.0
