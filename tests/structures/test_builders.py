"""Every builder: the structure that its paper describes, and the arguments that it refuses."""

import itertools
import math
from collections.abc import Callable
from random import Random

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcircuits import structures
from pcircuits.errors import DataError, ShapeError, StructureError
from pcircuits.structures import Region, RegionGraph

sizes = st.integers(1, 40)
sides = st.integers(1, 9)


def draw_data(seed: int, num_rows: int, num_variables: int, num_categories: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, num_categories, (num_rows, num_variables), generator=generator)


def draw_from_tree(tree: nx.DiGraph, num_rows: int, num_categories: int, seed: int) -> torch.Tensor:
    """Rows in which each variable copies its parent with probability 0.7 and is uniform otherwise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, num_categories, (num_rows, len(tree)), generator=generator)
    for parent, child in nx.bfs_edges(tree, next(nx.topological_sort(tree))):
        copies = torch.rand(num_rows, generator=generator) < 0.7
        x[copies, child] = x[copies, parent]
    return x


def spanning_trees(num_nodes: int) -> list[nx.Graph]:
    codes = itertools.product(range(num_nodes), repeat=num_nodes - 2)
    return [nx.from_prufer_sequence(list(code)) for code in codes]


def enumerated_mutual_information(
    x: torch.Tensor, i: int, j: int, weights: torch.Tensor, num_categories: int, smoothing: float
) -> float:
    joint = np.full((num_categories, num_categories), smoothing / num_categories**2)
    for row, weight in zip(x.tolist(), weights.tolist(), strict=True):
        joint[row[i], row[j]] += weight
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint * np.log(np.where(joint > 0, joint, 1) / np.where(joint > 0, independent, 1))).sum())


def test_chain_is_the_structure_of_an_hmm() -> None:
    graph = structures.chain(3, num_units=7)
    inputs = (Region.input(0), Region.input(1), Region.input(2))
    sums = (Region.split((2,)), Region.split((1, 3)), Region.split((0, 4)))
    assert graph == RegionGraph(inputs + sums, default_layer="cp-t", num_units=7)
    assert graph.scope(4) == (1, 2)


@given(sizes)
def test_chain_is_a_tree_of_depth_d(num_variables: int) -> None:
    graph = structures.chain(num_variables)
    assert graph.is_tree and graph.is_structured_decomposable
    assert (graph.num_variables, graph.depth, graph.num_partitions) == (num_variables,) * 3


def test_long_chain_builds() -> None:
    graph = structures.chain(10_000)
    assert graph.depth == graph.num_variables == 10_000 and graph.is_tree
    assert len(graph.scope(graph.root - 1)) == 9_999


@given(sizes)
def test_factorized_has_one_partition(num_variables: int) -> None:
    graph = structures.factorized(num_variables)
    assert graph.regions[-1] == Region.split(range(num_variables))
    assert len(graph.regions) == num_variables + 1 and graph.is_tree


@given(sizes, st.randoms(use_true_random=False))
def test_binary_tree_is_balanced(num_variables: int, random: Random) -> None:
    order = list(range(num_variables))
    random.shuffle(order)
    graph = structures.binary_tree(num_variables, order, num_units=2)
    assert graph.is_tree and graph.num_units == 2
    assert graph.depth == max(1, (num_variables - 1).bit_length())
    assert graph.num_partitions == max(1, num_variables - 1)
    assert all(len(p.children) == min(2, num_variables) for region in graph.regions for p in region.partitions)


def test_binary_tree_follows_its_order() -> None:
    graph = structures.binary_tree(4, [2, 0, 3, 1])
    assert [graph.scope(region) for region in (4, 5)] == [(0, 2), (1, 3)]
    assert structures.binary_tree(4) == structures.binary_tree(4, range(4))


def test_latent_tree_keeps_the_tree() -> None:
    tree = nx.DiGraph([(1, 0), (1, 2), (2, 3)])
    graph = structures.latent_tree(tree)
    sums = {graph.regions[i].partitions[0].children[0]: set(graph.scope(i)) for i in range(4, 8)}
    assert sums == {v: {v} | nx.descendants(tree, v) for v in tree}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (nx.DiGraph(), "at least one node"),
        (nx.DiGraph([("a", "b")]), r"nodes of tree must be the variables 0..1, got \['a', 'b'\]"),
        (
            nx.DiGraph([(0, 1), (1, 0)]),
            "one tree whose edges lead away .* 2 nodes, 2 edges and 0 nodes without a parent",
        ),
        (nx.DiGraph([(0, 1), (2, 1)]), "2 nodes without a parent"),
    ],
)
def test_latent_tree_refuses_other_graphs(tree: nx.DiGraph, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        structures.latent_tree(tree)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: structures.chain(0), "num_variables must be an integer of at least 1, got 0"),
        (lambda: structures.chain(-2), "num_variables must be an integer of at least 1, got -2"),
        (lambda: structures.chain(3, num_units=0), "num_units must be an integer of at least 1, got 0"),
        (lambda: structures.factorized(0), "num_variables must be"),
        (lambda: structures.binary_tree(0), "num_variables must be"),
        (
            lambda: structures.binary_tree(3, [0, 1]),
            "order must hold each variable 0..2 once, got 2 entries, 2 of them",
        ),
        (lambda: structures.binary_tree(3, [0, 1, 1]), "got 3 entries, 2 of them distinct"),
        (lambda: structures.binary_tree(3, [0, 1, 3]), r"order\[2\] must be an integer from 0 to 2, got 3"),
        (lambda: structures.rat(8, 4, num_repetitions=1, seed=0), "depth must be an integer from 0 to 3, got 4"),
        (lambda: structures.rat(8, -1, num_repetitions=1, seed=0), "depth must be"),
        (lambda: structures.rat(0, 0, num_repetitions=1, seed=0), "num_variables must be"),
        (lambda: structures.rat(8, 1, num_repetitions=0, seed=0), "num_repetitions must be"),
        (lambda: structures.rat(8, 1, num_repetitions=1, seed=-1), "seed must be an integer from 0"),
        (lambda: structures.quad_tree(0, 3), "height must be an integer of at least 1, got 0"),
        (lambda: structures.quad_tree(3, 3, arity=3), "arity must be 2 or 4, got 3"),
        (lambda: structures.quad_graph(3, 0), "width must be an integer of at least 1, got 0"),
        (lambda: structures.poon_domingos(3, 3, delta=0), "delta must be an integer of at least 1, got 0"),
    ],
)
def test_bad_sizes_are_refused(build: Callable[[], RegionGraph], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        build()


@pytest.mark.parametrize("size", [2.0, "3", None, True])
def test_sizes_must_be_integers(size: object) -> None:
    with pytest.raises((StructureError, TypeError)):  # TypeError where annotations are checked at run time
        structures.chain(size)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(sizes, st.data())
def test_rat_mixes_fresh_repetitions(num_variables: int, data: st.DataObject) -> None:
    depth = data.draw(st.integers(0, num_variables.bit_length() - 1))
    num_repetitions = data.draw(st.integers(1, 4))
    graph = structures.rat(num_variables, depth, num_repetitions=num_repetitions, seed=data.draw(st.integers(0, 99)))
    assert len(graph.regions[-1].partitions) == num_repetitions
    assert sum(region.is_input for region in graph.regions) == num_repetitions * num_variables
    children = [child for region in graph.regions for p in region.partitions for child in p.children]
    assert sorted(children) == list(range(graph.root))  # every region but the root has one parent: nothing is shared
    assert graph.depth in (max(depth, 1), depth + 1)


def split_sizes(graph: RegionGraph, region: int) -> list[list[int]]:
    """The number of variables of each child of each partition."""
    return [[len(graph.scope(child)) for child in p.children] for p in graph.regions[region].partitions]


@given(sides, sides, st.sampled_from([2, 4]))
def test_quad_tree_halves_both_sides(height: int, width: int, arity: int) -> None:
    graph = structures.quad_tree(height, width, arity=arity, num_units=3)
    assert graph.is_tree and (graph.num_variables, graph.num_units) == (height * width, 3)
    assert all(
        2 <= len(sizes) <= arity for r in range(height * width, len(graph.regions)) for sizes in split_sizes(graph, r)
    ) or (height * width == 1)
    levels = (max(height, width) - 1).bit_length()
    assert graph.depth <= max(1, levels * (1 if arity == 4 else 2))
    assert arity == 2 or graph.depth == max(1, levels)


def test_quad_tree_is_aligned_to_powers_of_two() -> None:
    graph = structures.quad_tree(3, 5)
    assert split_sizes(graph, graph.root) == [[12, 3]]  # columns 0-3 | 4
    square, strip = graph.regions[graph.root].partitions[0].children
    assert split_sizes(graph, square) == [[4, 4, 2, 2]] and split_sizes(graph, strip) == [[2, 1]]
    assert graph.scope(graph.regions[square].partitions[0].children[1]) == (2, 3, 7, 8)


def test_quad_graph_splits_squares_in_both_ways() -> None:
    graph = structures.quad_graph(4, 4)
    assert split_sizes(graph, graph.root) == [[8, 8], [8, 8]]
    upper, left = (p.children[0] for p in graph.regions[graph.root].partitions)
    assert (graph.scope(upper), graph.scope(left)) == (tuple(range(8)), (0, 1, 4, 5, 8, 9, 12, 13))
    shared = [set(graph.regions[half].partitions[0].children) for half in (upper, left)]
    assert [graph.scope(region) for region in shared[0] & shared[1]] == [(0, 1, 4, 5)]
    assert not graph.is_structured_decomposable
    assert len(graph.regions) == 16 + 4 * 5 + 5


@given(sides, sides)
def test_quad_graph_shares_every_region(height: int, width: int) -> None:
    graph = structures.quad_graph(height, width)
    assert len(set(graph.scope_masks)) == len(graph.regions) - (height * width == 1)
    assert all(len(region.partitions) <= 2 for region in graph.regions)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 7))
def test_poon_domingos_holds_every_rectangle_of_the_grid(height: int, width: int, delta: int) -> None:
    graph = structures.poon_domingos(height, width, delta=delta)

    def intervals(size: int) -> int:
        cells = -(-size // delta)
        return cells * (cells + 1) // 2

    ends = [size % delta == 1 or delta == 1 for size in (height, width)]
    single_pixels = math.prod(
        -(-size // delta) if delta == 1 else int(end) for size, end in zip((height, width), ends, strict=True)
    )
    assert len(graph.regions) == height * width + intervals(height) * intervals(width) - single_pixels + (
        height * width == 1
    )


def test_poon_domingos_cuts_everywhere() -> None:
    graph = structures.poon_domingos(2, 3, delta=1)
    assert sorted(map(tuple, split_sizes(graph, graph.root))) == [(2, 4), (3, 3), (4, 2)]
    coarse = structures.poon_domingos(4, 6, delta=3)
    assert sorted(map(tuple, split_sizes(coarse, coarse.root))) == [(12, 12), (18, 6)]
    assert split_sizes(coarse, coarse.regions[coarse.root].partitions[0].children[0])[0] == [9, 9]


def test_rat_splits_into_halves() -> None:
    graph = structures.rat(13, 2, num_repetitions=3, seed=5)
    for partition in graph.regions[-1].partitions:
        assert sorted(len(graph.scope(child)) for child in partition.children) == [6, 7]
        for half in partition.children:
            assert {len(graph.scope(quarter)) for quarter in graph.regions[half].partitions[0].children} <= {3, 4}


def test_rat_is_determined_by_its_seed() -> None:
    def build(seed: int | torch.Generator) -> RegionGraph:
        return structures.rat(16, 3, num_repetitions=2, seed=seed)

    state = torch.get_rng_state()
    assert build(3) == build(3) == build(torch.Generator().manual_seed(3))
    assert build(3) != build(4)
    generator = torch.Generator().manual_seed(3)
    assert build(generator) != build(generator)  # a generator goes on
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 30),
    st.integers(1, 5),
    st.sampled_from([1, 2, 3, 16, 17, 40]),
    st.just(0.0) | st.floats(1e-3, 5),
)
@pytest.mark.parametrize("weighted", [False, True])
def test_mutual_information_equals_enumeration(
    weighted: bool, seed: int, num_rows: int, num_variables: int, num_categories: int, smoothing: float
) -> None:
    x = draw_data(seed, num_rows, num_variables, num_categories)
    weights = torch.rand(num_rows, generator=torch.Generator().manual_seed(seed)) + 0.1
    information = structures.mutual_information(
        x, num_categories=num_categories, smoothing=smoothing, weights=weights if weighted else None
    )
    counted = weights.double() if weighted else torch.ones(num_rows)
    for i, j in itertools.combinations(range(num_variables), 2):
        expected = enumerated_mutual_information(x, i, j, counted, num_categories, smoothing)
        assert information[i, j].item() == pytest.approx(expected, abs=1e-9)
        assert information[i, j] == information[j, i]
    if smoothing == 0:
        for i in range(num_variables):
            entropy = enumerated_mutual_information(x, i, i, counted, num_categories, 0.0)
            assert information[i, i].item() == pytest.approx(entropy, abs=1e-9)


@pytest.mark.parametrize("num_categories", [3, 20])
def test_blocks_do_not_change_the_result(num_categories: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = __import__("pcircuits.structures.mutual_information", fromlist=["_CELLS"])
    x = draw_data(1, 200, 7, num_categories)
    whole = structures.mutual_information(x)
    monkeypatch.setattr(module, "_CELLS", 4 * max(num_categories**2, 200))  # blocks of two variables
    torch.testing.assert_close(structures.mutual_information(x), whole, rtol=0, atol=1e-12)


def test_weights_count_rows() -> None:
    x = draw_data(2, 30, 4, 3)
    counts = torch.arange(30) % 4
    repeated = structures.mutual_information(x.repeat_interleave(counts, dim=0), num_categories=3)
    weighted = structures.mutual_information(x, num_categories=3, weights=counts)
    torch.testing.assert_close(weighted, repeated, rtol=0, atol=1e-12)


def test_any_integer_type_and_numpy_are_data() -> None:
    x = draw_data(3, 50, 4, 2)
    expected = structures.mutual_information(x)
    for same in (x.bool(), x.to(torch.uint8), x.int(), x.numpy(), x.numpy().astype(np.int16)):
        assert torch.equal(structures.mutual_information(same), expected)


@pytest.mark.parametrize("build", [structures.hclt, structures.chow_liu, structures.mutual_information])
@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (torch.rand(4, 3), {}, DataError, "integer categories without missing values, got torch.float32"),
        (torch.full((4, 3), torch.nan), {}, DataError, "integer categories"),
        (torch.tensor([[0, -1]]), {}, DataError, "categories from 0 to 4095, got values from -1 to 0"),
        (torch.tensor([[0, 5000]]), {}, DataError, "got values from 0 to 5000"),
        (torch.zeros(0, 3, dtype=torch.long), {}, DataError, "at least one row and one column"),
        (torch.zeros(3, 0, dtype=torch.long), {}, DataError, "at least one row and one column"),
        (torch.zeros(3, dtype=torch.long), {}, ShapeError, r"x must have shape \(B, D\), got \(3,\)"),
        (torch.zeros(2, 3, dtype=torch.long), {"smoothing": -1.0}, DataError, "smoothing must be a finite number"),
        (torch.zeros(2, 3, dtype=torch.long), {"smoothing": float("nan")}, DataError, "smoothing must be"),
        (
            torch.zeros(2, 3, dtype=torch.long),
            {"weights": torch.ones(3)},
            ShapeError,
            r"weights must have shape \(2,\)",
        ),
        (torch.zeros(2, 3, dtype=torch.long), {"weights": torch.zeros(2)}, DataError, "not all zero"),
        (torch.zeros(2, 3, dtype=torch.long), {"weights": torch.tensor([1.0, -1.0])}, DataError, "not negative"),
        (torch.zeros(2, 3, dtype=torch.long), {"weights": torch.tensor([1.0, torch.nan])}, DataError, "finite"),
    ],
)
def test_bad_data_are_refused(
    build: Callable[..., object], x: torch.Tensor, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(x, **options)


def test_bad_options_are_refused() -> None:
    x = draw_data(0, 5, 3, 4)
    with pytest.raises(StructureError, match="root must be an integer from 0 to 2, got 3"):
        structures.hclt(x, root=3)
    with pytest.raises(StructureError, match="num_units must be"):
        structures.hclt(x, num_units=0)
    with pytest.raises(DataError, match="categories from 0 to 1, got values from 0 to 3"):
        structures.chow_liu(x, num_categories=2)
    with pytest.raises(StructureError, match="num_categories must be an integer from 1 to 4096, got 0"):
        structures.chow_liu(x, num_categories=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(2, 5), st.integers(2, 4))
def test_chow_liu_tree_is_the_best_of_all_trees(seed: int, num_variables: int, num_categories: int) -> None:
    x = draw_data(seed, 25, num_variables, num_categories)
    information = structures.mutual_information(x)
    tree = structures.chow_liu_tree(x)
    assert nx.is_arborescence(tree)
    best = max(sum(information[i, j].item() for i, j in t.edges) for t in spanning_trees(num_variables))
    assert sum(information[i, j].item() for i, j in tree.edges) == pytest.approx(best, abs=1e-9)
    assert tree.size(weight="weight") == pytest.approx(best, abs=1e-9)


def test_chow_liu_tree_weighs_as_much_as_networkx_finds() -> None:
    x = draw_data(7, 60, 40, 3)
    complete = nx.from_numpy_array(structures.mutual_information(x).fill_diagonal_(0).numpy())
    expected = nx.maximum_spanning_tree(complete)
    assert {frozenset(edge) for edge in structures.chow_liu_tree(x).edges} == {frozenset(e) for e in expected.edges}


@pytest.mark.parametrize("seed", range(4))
def test_chow_liu_recovers_a_known_tree(seed: int) -> None:
    known = nx.bfs_tree(nx.random_labeled_tree(12, seed=seed), seed)
    x = draw_from_tree(known, 3_000, 3, seed)
    assert set(structures.chow_liu_tree(x, root=seed).edges) == set(known.edges)
    assert structures.hclt(x, num_units=8, root=seed) == structures.latent_tree(
        structures.chow_liu_tree(x, root=seed), num_units=8
    )


def test_the_default_root_is_the_centre() -> None:
    x = draw_from_tree(nx.path_graph(9, create_using=nx.DiGraph), 4_000, 2, 0)
    assert next(nx.topological_sort(structures.chow_liu_tree(x))) == 4
    assert structures.hclt(x).depth == 5
    assert structures.hclt(x, root=0).depth == 9


def test_chow_liu_has_the_graph_of_hclt_with_observed_latents() -> None:
    x = draw_data(4, 80, 6, 5)
    graph = structures.chow_liu(x, smoothing=1.0)
    assert graph == structures.hclt(x, 5, smoothing=1.0).with_hints(observed_latents=True)
    assert structures.chow_liu(x, num_categories=9).num_units == 9
    assert RegionGraph.from_json(graph.to_json()).observed_latents


def test_one_variable_and_one_category() -> None:
    for x in (torch.zeros(5, 1, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)):
        assert structures.hclt(x).num_variables == x.shape[1]
        assert structures.chow_liu(x).num_units == 1


@pytest.mark.parametrize(
    "graph",
    [
        structures.chain(1),
        structures.factorized(1),
        structures.binary_tree(1),
        structures.rat(1, 0, num_repetitions=1, seed=0),
        structures.quad_tree(1, 1),
        structures.quad_graph(1, 1),
        structures.poon_domingos(1, 1, delta=1),
        structures.hclt(torch.zeros(2, 1, dtype=torch.long)),
    ],
)
def test_one_variable_still_has_a_sum(graph: RegionGraph) -> None:
    assert graph.regions == (Region.input(0), Region.split((0,)))
