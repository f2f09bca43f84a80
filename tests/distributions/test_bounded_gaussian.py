"""Gaussian inputs with a ceiling on their deviation: between its bounds under every learner, and the best there is."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits import structures, testing

BOUNDED = pc.Gaussian(min_std=0.1, max_std=0.6)


def one_unit(x: Tensor, family: pc.Gaussian) -> tuple[pc.Circuit, float, float]:
    """A unit after one step of EM on complete data, its mean and deviation."""
    circuit = pc.Circuit(structures.factorized(1), family, num_units=1, seed=0, dtype=torch.float64)
    circuit.maximise(circuit.statistics(x.unsqueeze(1)))
    ((mean, variance),) = circuit.requires_grad_(False).marginals()
    return circuit, float(mean), float(variance.sqrt())


def column(spread: float) -> Tensor:
    return 2 + spread * torch.randn(60, generator=torch.Generator().manual_seed(0)).double()


def test_contract() -> None:
    testing.check_input_family(BOUNDED)


@pytest.mark.parametrize("kind", ["observed", "hard", "interval"])
def test_queries_are_those_of_enumeration(kind: str) -> None:
    families = [BOUNDED, pc.Categorical(3), pc.Gaussian(max_std=2.0), BOUNDED]
    circuit = pc.Circuit(structures.binary_tree(4), families, num_units=3, seed=0, dtype=torch.float64)
    testing.check_posterior(circuit.requires_grad_(False), testing.example_evidence(circuit, kind, seed=1))


@pytest.mark.parametrize("spread", [0.02, 0.3, 0.5, 3.0])
def test_maximisation_is_the_best_deviation_between_the_bounds(spread: float) -> None:
    x = column(spread)
    circuit, mean, std = one_unit(x, pc.Gaussian(min_std=0.05, max_std=0.6))
    grid = torch.linspace(0.1, 0.6, 2001, dtype=torch.float64)  # EM's own floor is twice `min_std`
    scores = torch.distributions.Normal(x.mean(), grid.unsqueeze(1)).log_prob(x).sum(1)
    assert mean == pytest.approx(float(x.mean())) and std == pytest.approx(float(grid[scores.argmax()]), abs=3e-4)
    assert float(circuit.log_prob(x.unsqueeze(1)).sum()) >= float(scores.max()) - 1e-5 * abs(float(scores.max()))


def test_a_ceiling_that_is_not_reached_changes_no_step() -> None:
    x = column(0.5)
    assert one_unit(x, pc.Gaussian(max_std=4.0))[1:] == pytest.approx(one_unit(x, pc.Gaussian())[1:], abs=1e-9)
    narrow = one_unit(x, pc.Gaussian(min_std=0.3, max_std=0.4))[2]
    assert narrow == pytest.approx(0.4, abs=1e-6)  # twice the floor lies above the ceiling


def test_em_with_missing_values_never_lowers_the_likelihood_nor_leaves_the_bounds() -> None:
    circuit = pc.Circuit(structures.chain(3), BOUNDED, num_units=3, layer="cp-t", seed=0, dtype=torch.float64)
    x = 3 * torch.randn(80, 3, generator=torch.Generator().manual_seed(0)).double()
    evidence = pc.Evidence(x, observed=torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8)
    scores = []
    for _ in range(8):
        found = circuit.statistics(evidence)
        circuit.maximise(found)
        scores.append(float(found.log_likelihood))
    assert all(b >= a - 1e-8 for a, b in itertools.pairwise(scores)) and scores[-1] > scores[0] + 1
    assert deviations(circuit).max() == pytest.approx(0.6, abs=1e-6)


def deviations(circuit: pc.Circuit) -> Tensor:
    groups = [group for name, group in circuit.named_groups() if name.startswith("input")]
    return torch.cat([group.prepare().std.detach().flatten() for group in groups])


@pytest.mark.parametrize("far", [-60.0, 60.0])
def test_no_parameter_leaves_the_bounds_and_gradients_are_finite(far: float) -> None:
    circuit = pc.Circuit(structures.chain(3), BOUNDED, num_units=2, seed=0)
    with torch.no_grad():
        for name, parameter in circuit.named_parameters():
            parameter.add_(far if name.endswith("raw_std") else 0.0)
    assert ((deviations(circuit) >= 0.1) & (deviations(circuit) <= 0.6)).all()
    circuit.log_prob(torch.zeros(2, 3)).sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in circuit.parameters())


def test_adam_reaches_the_ceiling() -> None:
    circuit, x = pc.Circuit(structures.factorized(1), BOUNDED, num_units=1, seed=0), column(3.0).float().unsqueeze(1)
    pc.fit(circuit, x, learner=pc.Adam(lr=0.2), epochs=80, progress=False)
    assert 0.59 < float(deviations(circuit)) <= 0.6


def test_units_start_at_the_scale_or_halfway() -> None:
    for family, wanted in [(BOUNDED, 0.35), (pc.Gaussian(scale=0.5, max_std=0.6), 0.5)]:
        start = family.prepare(family.initialise(1, 4, None), None).std
        assert torch.allclose(start, torch.tensor(wanted))


def test_saved_and_loaded_and_files_from_before_it(tmp_path: Path) -> None:
    x = torch.randn(4, 2)
    for family in (BOUNDED, pc.Gaussian()):
        circuit = pc.Circuit(structures.chain(2), family, num_units=2, seed=0)
        pc.save(circuit, tmp_path)
        loaded = pc.load(tmp_path)
        assert loaded.inputs == circuit.inputs and torch.equal(loaded.log_prob(x), circuit.log_prob(x))
    stored = json.loads((tmp_path / "circuit.json").read_bytes())
    del stored["families"][0]["max_std"]
    stored["checksum"] = pc.io.folder._checksum({k: v for k, v in stored.items() if k != "checksum"})
    (tmp_path / "circuit.json").write_text(json.dumps(stored))
    assert torch.equal(pc.load(tmp_path).log_prob(x), circuit.log_prob(x))


def test_products_derivatives_and_parameters_in_each_sample_keep_the_ceiling() -> None:
    circuit = pc.Circuit(structures.chain(2), BOUNDED, num_units=2, seed=0, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    square = pc.square(circuit)
    assert torch.allclose(square.log_prob(x) + square.log_partition(), 2 * circuit.log_prob(x))
    assert pc.PerSample(BOUNDED).to_json()["base"]["max_std"] == 0.6


@pytest.mark.parametrize("ceiling", [1e-3, 0.0, -1.0, float("inf"), float("nan")])
def test_ceilings_that_are_none(ceiling: float) -> None:
    with pytest.raises(pc.ParameterError, match="max_std > min_std"):
        pc.Gaussian(max_std=ceiling)
