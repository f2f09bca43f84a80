"""Generalised HMMs, tensor trains, random trees and the templates, against their definitions."""

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import structures
from pcircuits.structures import Region


def test_a_generalised_hmm_of_one_emission_is_a_chain() -> None:
    assert structures.generalized_hmm(4).regions == structures.chain(4).regions


def test_a_generalised_hmm_is_its_forward_recursion() -> None:
    """Two emissions at the first step, one at the second, every step with parameters of its own."""
    graph = structures.generalized_hmm(2, [[2, 0], [1]], num_units=3)
    circuit = pc.Circuit(graph, pc.Categorical(2), seed=0, dtype=torch.float64).requires_grad_(False)
    assert graph.scope(3) == (1,) and graph.scope(graph.root) == (0, 1, 2)
    x = torch.tensor([[0, 1, 1]])
    emission = {v: circuit.prepared()[circuit.plan.rows[v, ""][0]].log[circuit.plan.rows[v, ""][1]] for v in range(3)}
    weights = {r: circuit.prepared()[circuit.plan.rows[r, ""][0]].linear[circuit.plan.rows[r, ""][1]] for r in (3, 4)}
    probability = {v: emission[v].exp()[:, x[0, v]] for v in range(3)}
    later = weights[3] @ probability[1]
    exact = weights[4] @ (probability[2] * probability[0] * later)
    assert float(circuit.log_prob(x).exp()) == pytest.approx(float(exact))


def test_tied_steps_of_a_generalised_hmm_share_parameters() -> None:
    graph = structures.generalized_hmm(4, 2, num_units=3)
    inner = [i for i, region in enumerate(graph.regions) if not region.is_input]
    ties = {i: "step" for i in inner[1:-1]}
    inputs = {v: f"emission_{v % 2}" for v in range(8)}
    circuit = pc.Circuit(graph, pc.Categorical(2), seed=0, sum_ties=ties, input_ties=inputs)
    assert set(circuit.groups) >= {"step", "emission_0", "emission_1"}


def test_a_tensor_train_is_a_product_of_matrices() -> None:
    graph = structures.tensor_train(3, num_units=2)
    circuit = pc.Circuit(graph, pc.Categorical(2), seed=3, dtype=torch.float64).requires_grad_(False)
    prepared, rows = circuit.prepared(), circuit.plan.rows

    def table(region: int) -> torch.Tensor:
        group, row = rows[region, ""]
        found = prepared[group]
        return (found.log.exp() if hasattr(found, "log") and region < 3 else found.linear)[row]

    for x in torch.cartesian_prod(*[torch.arange(2)] * 3):
        core = [torch.einsum("ikj,k->ij", table(r).view(-1, 2, 2), table(v)[:, x[v]]) for r, v in ((4, 0), (3, 1))]
        exact = core[0] @ core[1] @ table(2)[:, x[2]]
        assert float(circuit.log_prob(x.view(1, -1)).exp()) == pytest.approx(float(exact))


@given(st.integers(1, 12), st.integers(0, 1000))
def test_random_trees_are_trees_over_all_variables(num_variables: int, seed: int) -> None:
    for build in (structures.random_binary_tree, structures.random_latent_tree):
        graph = build(num_variables, seed=seed)
        assert graph.is_tree and graph.num_variables == num_variables
        assert graph == build(num_variables, seed=seed)


def test_random_latent_trees_are_uniform() -> None:
    """Over three variables there are three trees, told apart by their middle."""
    seen = [structures.random_latent_tree(3, seed=seed).scope_masks for seed in range(300)]
    counts = np.array(sorted(seen.count(kind) for kind in set(seen)))
    assert len(counts) == 3 and counts.min() > 70


def test_a_sequence_is_an_hmm_and_an_image_a_quad_graph() -> None:
    assert structures.sequence(5, 2) == structures.generalized_hmm(5, 2)
    assert structures.image(4, 4) == structures.quad_graph(4, 4)


def test_channels_of_an_image_meet_in_their_pixel() -> None:
    graph = structures.image(2, 3, channels=3, num_units=4)
    assert graph.num_variables == 18 and graph.num_units == 4
    pixels = [graph.scope(i) for i, r in enumerate(graph.regions) if not r.is_input and graph.heights[i] == 1]
    assert pixels == [(p, p + 6, p + 12) for p in range(6)]
    circuit = pc.Circuit(graph, pc.Binomial(7), seed=0)
    assert pc.check(circuit).normalised


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_parts_keep_their_splits_over_their_variables(num_parts: int, size: int, seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(num_parts * size).reshape(num_parts, size).tolist()
    outer = structures.random_binary_tree(num_parts, seed=seed, num_units=3)
    parts = [structures.random_latent_tree(size, seed=seed + g) for g in range(num_parts)]
    graph = structures.nested(outer, parts, groups)
    assert graph.num_units == 3 and graph.default_layer == outer.default_layer

    def splits(of: pc.RegionGraph, names: list[tuple[int, ...]]) -> list[list[list[int]]]:
        """The scopes of each partition's children, were variable v the set `names[v]`."""

        def scope(region: int) -> list[int]:
            return sorted(x for v in of.scope(region) for x in names[v])

        return [sorted(scope(child) for child in p.children) for r in of.regions for p in r.partitions]

    inner = [s for part, group in zip(parts, groups, strict=True) for s in splits(part, [(v,) for v in group])]
    everything = splits(graph, [(v,) for v in range(num_parts * size)])
    assert sorted(everything) == sorted([*inner, *splits(outer, list(map(tuple, groups)))])


def test_nested_parts_take_variables_in_turn_and_each_input_region_has_its_own_copy() -> None:
    outer = pc.RegionGraph((Region.input(0), Region.input(0), Region.input(1), Region.split((0, 2), (1, 2))))
    graph = structures.nested(outer, [structures.factorized(2), structures.factorized(1)])
    assert [r.variables for r in graph.regions if r.is_input] == [(0,), (1,), (0,), (1,), (2,)]
    assert [graph.scope(c) for p in graph.regions[-1].partitions for c in p.children] == [(0, 1), (2,)] * 2
    joint = structures.nested(structures.chain(2), [structures.grouped(structures.chain(1), [[1, 0]])] * 2)
    assert [r.variables for r in joint.regions if r.is_input] == [(1, 0), (3, 2)]


def test_a_nested_circuit_is_the_composition_by_hand() -> None:
    """Two hidden trees below a product: each a mixture over its own latent, mixed again above."""
    graph = structures.nested(structures.factorized(2), [structures.factorized(2), structures.factorized(1)])
    circuit = pc.Circuit(graph, pc.Categorical(2), num_units=3, layer="cp-t", seed=0, dtype=torch.float64)
    prepared, rows = circuit.requires_grad_(False).prepared(), circuit.plan.rows

    def read(region: int, name: str) -> torch.Tensor:
        group, row = rows[region, ""]
        return getattr(prepared[group], name)[row]

    for x in torch.cartesian_prod(*[torch.arange(2)] * 3):
        table = {r: read(r, "log").exp()[:, x[v]] for r, v in ((0, 0), (1, 1), (3, 2))}
        first, second = read(2, "linear") @ (table[0] * table[1]), read(4, "linear") @ table[3]
        exact = read(5, "linear") @ (first * second)
        assert float(circuit.log_prob(x.view(1, -1)).exp()) == pytest.approx(float(exact), abs=1e-14)


def test_a_table_joins_columns_that_depend_on_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = torch.randn(400, 2, generator=generator).unbind(1)
    b, d = a + 0.1 * torch.randn(400, generator=generator), (c > 0.3).float()
    x = torch.stack([a, c, b, d], 1)
    x[::7, 2] = torch.nan
    graph = structures.table(x, num_units=4)
    tree = nx.Graph()
    leaves = {i: set(p.children) for i, r in enumerate(graph.regions) for p in r.partitions}
    owner = {i: next(v for v in children if v < 4) for i, children in leaves.items()}
    tree.add_edges_from((owner[i], owner[c]) for i, children in leaves.items() for c in children if c >= 4)
    assert tree.has_edge(0, 2) and tree.has_edge(1, 3)
    assert structures.table(x, num_units=4, smoothing=5.0).num_variables == 4


def test_smoothing_of_a_table_distrusts_many_values() -> None:
    """Columns 0 and 3 have a value of their own in each of twelve rows, 1 and 2 truly go together."""
    b = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    many = torch.arange(12.0)[torch.randperm(12, generator=torch.Generator().manual_seed(1))]
    x = torch.stack([many, b, b, torch.arange(12.0)], 1)

    def edge_of_the_two(smoothing: float) -> bool:
        graph = structures.table(x, bins=12, smoothing=smoothing)
        owner = {i: r.partitions[0].children[0] for i, r in enumerate(graph.regions) if r.partitions}
        pairs = {
            frozenset((v, owner[c])) for i, v in owner.items() for c in graph.regions[i].partitions[0].children[1:]
        }
        return frozenset((1, 2)) in pairs

    assert edge_of_the_two(50.0) and not edge_of_the_two(0.0)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: structures.generalized_hmm(2, [[0]]), pc.StructureError, "each of 2 steps"),
        (lambda: structures.generalized_hmm(2, [[0], [0]]), pc.StructureError, "once"),
        (lambda: structures.generalized_hmm(0), pc.StructureError, "num_steps"),
        (lambda: structures.tensor_train(0), pc.StructureError, "num_variables"),
        (lambda: structures.random_latent_tree(3, seed=-1), pc.StructureError, "seed"),
        (lambda: structures.image(2, 2, 0), pc.StructureError, "channels"),
        (lambda: structures.nested(structures.chain(2), [structures.chain(1)]), pc.StructureError, "got 1 parts"),
        (lambda: structures.nested(structures.chain(1), ["chain"]), (pc.StructureError, TypeError), "chain"),
        (
            lambda: structures.nested(structures.chain(1), [structures.chain(2)], [[0]]),
            pc.StructureError,
            r"\[2\]; got \[1\]",
        ),
        (
            lambda: structures.nested(structures.chain(1), [structures.chain(2)], [[0, 2]]),
            pc.StructureError,
            r"groups\[1\]",
        ),
        (
            lambda: structures.nested(structures.grouped(structures.chain(1), [[0, 1]]), [structures.chain(1)] * 2),
            pc.StructureError,
            "one variable each",
        ),
        (
            lambda: structures.nested(structures.chain(1), [structures.chow_liu(torch.eye(2).long())]),
            pc.StructureError,
            "observed latents",
        ),
        (lambda: structures.table(torch.zeros(0, 2)), pc.ShapeError, "table"),
        (lambda: structures.table(torch.full((2, 2), torch.inf)), pc.DataError, "finite"),
    ],
)
def test_bad_arguments(build, error: type[Exception] | tuple[type[Exception], ...], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_one_variable() -> None:
    assert structures.tensor_train(1).regions == (Region.input(0), Region.split((0,)))
