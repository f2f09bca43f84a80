"""Cutset networks and LearnSPN: what they find in data that is known, and that their circuits keep all laws."""

from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.learning import cutset_network, learn_spn
from pcircuits.learning.cutset_tree import Growth, Leaf, Split


def switched(rows: int = 1500, seed: int = 0) -> torch.Tensor:
    """Variable 0 says whether 1 copies 2 or 3 does: no tree over the variables has that."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (rows, 5), generator=generator)
    x[:, 1] = torch.where(x[:, 0] == 0, x[:, 2], x[:, 3])
    noise = torch.rand(rows, generator=generator) < 0.05
    x[:, 1] = torch.where(noise, 1 - x[:, 1], x[:, 1])
    return x


def test_a_cutset_network_finds_what_decides() -> None:
    tree = Growth((2,) * 5, 30, 3, 1e-2).grow(switched(), list(range(5)))
    assert isinstance(tree, Split)
    circuit = cutset_network(switched(), min_rows=30).requires_grad_(False)
    test = switched(seed=1)
    chow_liu = pc.Circuit(structures.chow_liu(switched()), pc.Categorical(2), seed=0)
    chow_liu.maximise(chow_liu.statistics(switched()), pseudocount=1.0)
    assert float(circuit.log_prob(test).mean()) > float(chow_liu.log_prob(test).mean().detach()) + 0.2


def test_a_cutset_network_is_deterministic_and_maximises_exactly() -> None:
    circuit = cutset_network(switched(), min_rows=30).requires_grad_(False)
    assert pc.check(circuit).deterministic and pc.check(circuit).normalised
    observed = torch.tensor([[True, False, False, True, False]])
    posterior = circuit.condition(pc.Evidence(torch.tensor([[1, 0, 0, 1, 0]]), observed=observed))
    best, worlds = posterior.mpe(), testing.worlds(circuit)
    assert best.exact.all()
    assert float(best.log_prob) == pytest.approx(float(posterior.log_prob(worlds.unsqueeze(1)).max()), abs=1e-5)


def test_its_parameters_are_smoothed_counts_and_em_leaves_them() -> None:
    x = switched()
    circuit = cutset_network(x, min_rows=30, pseudocount=0.0)
    before = float(circuit.log_prob(x).sum().detach())
    circuit.maximise(circuit.statistics(x))
    assert float(circuit.log_prob(x).sum().detach()) == pytest.approx(before, rel=1e-6)


def test_a_cutset_network_that_does_not_split_is_a_chow_liu_tree() -> None:
    x = torch.randint(0, 3, (200, 4), generator=torch.Generator().manual_seed(0))
    circuit = cutset_network(x, max_depth=0)
    tree = pc.Circuit(structures.chow_liu(x, smoothing=1e-2), pc.Categorical(3), seed=0)
    tree.maximise(tree.statistics(x), pseudocount=1.0)
    assert torch.allclose(circuit.log_prob(x).detach(), tree.log_prob(x).detach(), atol=1e-4)
    assert isinstance(Growth((3,) * 4, 10, 0, 1e-2).grow(x, [0, 1, 2, 3]), Leaf)


def test_variables_of_different_sizes() -> None:
    x = switched()
    x[:, 4] = torch.randint(0, 4, (len(x),), generator=torch.Generator().manual_seed(1))
    circuit = cutset_network(x, min_rows=30).requires_grad_(False)
    assert circuit.marginals()[:4, 2:].abs().max() == 0.0
    assert pc.check(circuit).normalised and pc.check(circuit).deterministic


def test_a_cutset_network_is_saved_and_loaded_and_answers_as_enumeration_does(tmp_path: Path) -> None:
    circuit = cutset_network(switched(), min_rows=30)
    pc.save(circuit, tmp_path)
    loaded = pc.load(tmp_path)
    x = switched(20, seed=3)
    assert torch.equal(loaded.log_prob(x), circuit.log_prob(x))
    for kind in ("hard", "mixed", "interval"):
        testing.check_posterior(circuit.requires_grad_(False), testing.example_evidence(circuit, kind, seed=1))


@pytest.mark.parametrize("x", [torch.zeros(3, 2), torch.zeros(0, 2, dtype=torch.long), torch.tensor([[-1]])])
def test_cutset_networks_need_categories(x: torch.Tensor) -> None:
    with pytest.raises(pc.DataError):
        cutset_network(x)


def mixed_table(rows: int = 1200, seed: int = 0) -> torch.Tensor:
    """Columns 0, 1 (numbers) and 2 (code) hang together by a hidden class, 3 and 4 by another; some values missing."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, 2, (2, rows), generator=generator)
    noise = torch.randn(rows, 3, generator=generator)
    code = torch.where(torch.rand(rows, generator=generator) < 0.9, first, 1 - first)
    other = torch.where(torch.rand(rows, generator=generator) < 0.9, second * 2, 1)
    x = torch.stack([3 * first + noise[:, 0], -2 * first + noise[:, 1], code, 4 * second + noise[:, 2], other], 1)
    x[torch.rand(x.shape, generator=generator) < 0.05] = torch.nan
    return x


def test_learn_spn_parts_columns_that_are_independent() -> None:
    circuit = learn_spn(mixed_table()).requires_grad_(False)
    root = circuit.graph.regions[circuit.graph.root]
    scopes = sorted(circuit.graph.scope(child) for child in root.partitions[0].children)
    assert scopes == [(0, 1, 2), (3, 4)]
    assert [type(f) for f in circuit.inputs] == [pc.Gaussian] * 2 + [pc.Categorical, pc.Gaussian, pc.Categorical]
    assert pc.check(circuit).normalised


def test_learn_spn_beats_independent_columns_and_em_goes_on_from_there() -> None:
    table, test = mixed_table(), pc.Evidence.from_nan(mixed_table(seed=1))
    circuit = learn_spn(table)
    alone = pc.Circuit(structures.factorized(5), circuit.inputs, num_units=1, seed=0)
    pc.fit(alone, pc.Evidence.from_nan(table), learner="em", epochs=3, progress=False)
    score = float(circuit.condition(test).log_evidence.mean().detach())
    assert score > float(alone.condition(test).log_evidence.mean().detach()) + 0.5
    history = [float(circuit.condition(pc.Evidence.from_nan(table)).log_evidence.sum().detach())]
    for _ in range(3):
        found = circuit.statistics(pc.Evidence.from_nan(table))
        circuit.maximise(found)
        history.append(float(circuit.condition(pc.Evidence.from_nan(table)).log_evidence.sum().detach()))
    assert history == sorted(history)


def test_learn_spn_with_families_of_choice(tmp_path: Path) -> None:
    table = mixed_table(400)
    families = [pc.Laplace.from_data(table[:, 0].nan_to_num()), pc.Gaussian(), pc.Bernoulli()]
    families += [pc.Histogram.from_data(table[:, 3].nan_to_num()), pc.Binomial(2)]
    circuit = learn_spn(table, families, min_rows=100)
    pc.save(circuit, tmp_path)
    evidence = pc.Evidence.from_nan(table)
    found = circuit.condition(evidence).log_evidence
    assert torch.equal(pc.load(tmp_path).condition(evidence).log_evidence, found) and found.isfinite().all()


def test_learn_spn_on_few_rows_and_one_column() -> None:
    assert learn_spn(mixed_table(10)).graph.depth == 1
    assert learn_spn(mixed_table(50)[:, :1]).num_variables == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: learn_spn(torch.zeros(0, 2)), pc.ShapeError, "table"),
        (lambda: learn_spn(torch.full((3, 2), torch.inf)), pc.DataError, "finite"),
        (lambda: learn_spn(torch.full((3, 2), torch.nan)), pc.DataError, "column 0"),
        (lambda: learn_spn(torch.zeros(3, 2), [pc.Gaussian()]), pc.ParameterError, "each of 2 columns"),
    ],
)
def test_bad_tables(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
