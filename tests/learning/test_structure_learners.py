"""Cutset networks, LearnSPN, Prometheus: what they find in data that is known, and that their circuits keep laws."""

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.learning import cutset_network, learn_spn, prometheus
from pcircuits.learning.cutset_tree import Growth, Leaf, Split
from pcircuits.learning.prometheus import _SpanningTrees
from pcircuits.learning.region_search import Table


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


@pytest.mark.parametrize("learn", [learn_spn, prometheus])
def test_numbers_that_are_none_are_refused(learn) -> None:
    for pseudocount in (-1.0, float("nan"), float("inf")):
        with pytest.raises(pc.ParameterError, match="`pseudocount`"):
            learn(mixed_table(10), pseudocount=pseudocount)
    with pytest.raises(pc.ParameterError, match="`significance`"):
        learn_spn(mixed_table(10), significance=float("nan"))


def test_learn_spn_on_few_rows_and_one_column() -> None:
    assert learn_spn(mixed_table(10)).graph.depth == 1
    assert learn_spn(mixed_table(50)[:, :1]).num_variables == 1


def test_prometheus_cuts_the_spanning_tree_at_its_weakest_edges() -> None:
    """Columns 0, 1 and 2 hang together most, then 3 and 4."""
    options = {"min_rows": 30, "significance": 1e-3, "clusters": 2, "seed": 0}
    search = _SpanningTrees(Table.of(mixed_table(), None, 5), 4, 2, **options)
    cuts = search._cuts(torch.arange(1200), list(range(5)))
    assert cuts[0] == [(0, 1, 2), (3, 4)] and [len(parts) for parts in cuts] == [2, 3, 4, 5]
    for coarse, fine in itertools.pairwise(cuts):
        assert len(set(coarse) - set(fine)) == 1  # one part falls into two, the others are shared
    assert search._cuts(torch.arange(1200), [3, 4]) == [[(3,), (4,)]]


@pytest.mark.parametrize("dependent", [False, True])
def test_prometheus_is_no_worse_than_factors_where_hardly_anything_depends(dependent: bool) -> None:
    """Ten bits, of which none depend on each other, or two of them a little."""

    def bits(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = (torch.rand(2000, 10, generator=generator) < 0.4).double()
        copied = (torch.rand(2000, generator=generator) < 0.15) & dependent
        x[:, 1] = torch.where(copied, x[:, 0], x[:, 1])
        return x

    circuit, alone = (prometheus(bits(0), **options).requires_grad_(False) for options in ({}, {"max_depth": 0}))
    gain = float(circuit.log_prob(bits(1)).mean() - alone.log_prob(bits(1)).mean())
    assert gain > 0.005 if dependent else circuit.graph == alone.graph


@pytest.mark.parametrize("partitions", [1, 3])
def test_prometheus_shares_parts_of_several_partitions(partitions: int) -> None:
    circuit = prometheus(mixed_table(), partitions=partitions)
    above = Counter(c for region in circuit.graph.regions for p in region.partitions for c in p.children)
    assert (max(above.values()) > 1) == (partitions > 1)
    several = [region for region in circuit.graph.regions if len(region.partitions) > 2]
    assert bool(several) == (partitions > 1)
    found = pc.check(circuit)
    assert found.smooth and found.decomposable and found.normalised


@pytest.mark.parametrize("kind", ["hard", "mixed", "interval"])
def test_prometheus_answers_as_enumeration_does(kind: str, tmp_path: Path) -> None:
    circuit = prometheus(switched(400), min_rows=20).requires_grad_(False)
    circuit = circuit.double()
    testing.check_posterior(circuit, testing.example_evidence(circuit, kind, seed=1))
    pc.save(circuit, tmp_path)
    assert torch.equal(pc.load(tmp_path).log_prob(testing.worlds(circuit)), circuit.log_prob(testing.worlds(circuit)))


@pytest.mark.parametrize("table", [mixed_table, switched])
def test_prometheus_beats_independent_columns_and_em_goes_on_from_there(table) -> None:
    train, test = (pc.Evidence.from_nan(table(seed=seed).double()) for seed in (0, 1))
    circuit, alone = (prometheus(table(), **options).requires_grad_(False) for options in ({}, {"max_depth": 0}))
    assert len(alone.graph.regions) == 6
    score, least = (float(c.condition(test).log_evidence.mean()) for c in (circuit, alone))
    assert score > least + 0.15
    history = [float(circuit.condition(train).log_evidence.sum())]
    for _ in range(3):
        circuit.maximise(circuit.statistics(train))
        history.append(float(circuit.condition(train).log_evidence.sum()))
    assert history == sorted(history)


def test_prometheus_is_reproducible_and_takes_families_of_choice() -> None:
    table = mixed_table(400)
    families = [pc.Laplace.from_data(table[:, 0].nan_to_num()), pc.Gaussian(max_std=3.0), pc.Bernoulli()]
    families += [pc.Histogram.from_data(table[:, 3].nan_to_num()), pc.Binomial(2)]
    evidence = pc.Evidence.from_nan(table)
    one, same, other = (prometheus(table, families, clusters=3, seed=seed) for seed in (3, 3, 4))
    assert one.graph == same.graph and one.inputs == tuple(families)
    found = one.condition(evidence).log_evidence
    assert torch.equal(found, same.condition(evidence).log_evidence) and found.isfinite().all()
    assert one.graph != other.graph or not torch.equal(found, other.condition(evidence).log_evidence)


def test_prometheus_on_few_rows_and_columns() -> None:
    assert prometheus(mixed_table(10)).graph.depth == 1
    assert prometheus(mixed_table(50)[:, :1]).num_variables == 1
    assert prometheus(torch.zeros(50, 3)).graph.depth == 1  # rows that are all equal
    assert prometheus(mixed_table(100)[:, :2]).log_prob(torch.zeros(1, 2)).isfinite()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: learn_spn(torch.zeros(0, 2)), pc.ShapeError, "table"),
        (lambda: learn_spn(torch.full((3, 2), torch.inf)), pc.DataError, "finite"),
        (lambda: learn_spn(torch.full((3, 2), torch.nan)), pc.DataError, "column 0"),
        (lambda: learn_spn(torch.zeros(3, 2), [pc.Gaussian()]), pc.ParameterError, "each of 2 columns"),
        (lambda: learn_spn(torch.zeros(3, 2), clusters=0), pc.StructureError, "clusters"),
        (lambda: prometheus(torch.zeros(0, 2)), pc.ShapeError, "table"),
        (lambda: prometheus(torch.full((3, 2), torch.inf)), pc.DataError, "finite"),
        (lambda: prometheus(torch.full((3, 2), torch.nan)), pc.DataError, "column 0"),
        (lambda: prometheus(torch.zeros(3, 2), [pc.Gaussian()]), pc.ParameterError, "each of 2 columns"),
        (lambda: prometheus(torch.zeros(3, 2), partitions=0), pc.StructureError, "partitions"),
        (lambda: prometheus(torch.zeros(3, 2), max_depth=-1), pc.StructureError, "max_depth"),
        (lambda: prometheus(torch.zeros(3, 2), min_rows=1), pc.StructureError, "min_rows"),
    ],
)
def test_bad_tables(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
