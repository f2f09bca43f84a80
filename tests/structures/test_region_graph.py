"""Region graphs: what is valid, what is refused and why, and the two formats that they travel in."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcircuits.errors import StructureError
from pcircuits.structures import Partition, Region, RegionGraph, chain, from_networkx

X, Y, Z = (Region.input(variable) for variable in range(3))
PAIR = RegionGraph((X, Y, Region.split((0, 1))))


@st.composite
def region_graphs_as_json(draw: st.DrawFn) -> dict[str, Any]:
    """Random splits of 1 to 6 variables, with shared regions, mixtures, repetitions, single children and hints.

    Plain JSON: run-time type checks of library objects use `random`, which hypothesis refuses inside strategies.
    """
    regions: list[Any] = []
    by_scope: dict[tuple[int, ...], list[int]] = {}

    def grow(scope: tuple[int, ...], depth: int = 0) -> int:
        if scope in by_scope and draw(st.booleans()):
            return draw(st.sampled_from(by_scope[scope]))
        if len(scope) == 1 and (depth > 3 or draw(st.booleans())):
            region: Any = scope[0]
        else:
            region = [split(scope, depth) for _ in range(draw(st.integers(1, 2)))]
        regions.append(region)
        by_scope.setdefault(scope, []).append(len(regions) - 1)
        return len(regions) - 1

    def split(scope: tuple[int, ...], depth: int) -> list[int]:
        labels = draw(st.lists(st.integers(0, 2), min_size=len(scope), max_size=len(scope)))
        if len(scope) > 1 and len(set(labels)) == 1:
            labels[0] += 1
        parts = [tuple(v for v, label in zip(scope, labels, strict=True) if label == part) for part in set(labels)]
        return [grow(part, depth + 1) for part in parts]

    grow(tuple(range(draw(st.integers(1, 6)))))
    hints = {
        "num_units": draw(st.none() | st.integers(1, 64)),
        "default_layer": draw(st.sampled_from(["cp", "cp-t", "tucker"])),
        "observed_latents": draw(st.booleans()),
    }
    return {"format": "pcircuits.region_graph", "version": 1, "regions": regions} | hints


@settings(max_examples=60, deadline=None)
@given(region_graphs_as_json())
def test_random_graphs_hold_what_they_promise(json_graph: dict[str, Any]) -> None:
    graph = RegionGraph.from_json(json_graph)
    scopes = [set(graph.scope(region)) for region in range(len(graph.regions))]
    assert scopes[graph.root] == set(range(graph.num_variables))
    for index, region in enumerate(graph.regions):
        assert region.is_input == bool(region.variables)
        assert not graph.is_tree or sum(index in p.children for r in graph.regions for p in r.partitions) <= 1
        if region.is_input:
            assert scopes[index] == set(region.variables) and graph.heights[index] == 0
        for partition in region.partitions:
            assert set().union(*(scopes[child] for child in partition.children)) == scopes[index]
            assert sum(len(scopes[child]) for child in partition.children) == len(scopes[index])
            assert all(graph.heights[child] < graph.heights[index] for child in partition.children)


@settings(max_examples=60, deadline=None)
@given(region_graphs_as_json())
def test_round_trips(json_graph: dict[str, Any]) -> None:
    graph = RegionGraph.from_json(json_graph)
    assert graph.to_json() == json_graph
    for again in (RegionGraph.from_json(json.loads(json.dumps(graph.to_json()))), from_networkx(graph.to_networkx())):
        assert again == graph
        assert hash(again) == hash(graph)
        assert repr(again) == repr(graph)


@settings(max_examples=60, deadline=None)
@given(region_graphs_as_json(), st.data())
def test_any_removed_child_is_noticed(json_graph: dict[str, Any], data: st.DataObject) -> None:
    graph = RegionGraph.from_json(json_graph)
    inner = [index for index, region in enumerate(graph.regions) if len(region.partitions) == 2]
    if not inner:
        return
    index = data.draw(st.sampled_from(inner))
    first, second = graph.regions[index].partitions
    if len(second.children) == 1:
        return
    broken = Region((first, Partition(second.children[1:])))
    regions = (*graph.regions[:index], broken, *graph.regions[index + 1 :])
    with pytest.raises(StructureError, match=f"region {index}: its partitions must cover the same variables"):
        RegionGraph(regions)


def test_repr_tells_sizes_and_hints() -> None:
    assert repr(PAIR) == "RegionGraph(variables=2, regions=3, partitions=1, depth=1)"
    assert (
        repr(PAIR.with_hints(num_units=4)) == "RegionGraph(variables=2, regions=3, partitions=1, depth=1, num_units=4)"
    )


def test_scope_heights_and_root() -> None:
    graph = RegionGraph((X, Z, Y, Region.split((1, 0)), Region.split((2, 3))))
    assert [graph.scope(region) for region in range(5)] == [(0,), (2,), (1,), (0, 2), (0, 1, 2)]
    assert graph.heights == (0, 0, 0, 1, 2)
    assert (graph.root, graph.num_variables, graph.num_partitions, graph.depth) == (4, 3, 2, 2)
    with pytest.raises(StructureError, match="region must be an integer from 0 to 4, got -1"):
        graph.scope(-1)


def test_a_single_input_region_is_a_graph() -> None:
    graph = RegionGraph((X,))
    assert (graph.num_variables, graph.depth, graph.is_tree, graph.is_structured_decomposable) == (1, 0, True, True)
    assert from_networkx(graph.to_networkx()) == graph


@pytest.mark.parametrize(
    ("regions", "is_tree", "is_structured"),
    [
        ((X, Y, Region.split((0, 1))), True, True),
        ((X, Y, Region.split((0, 1), (1, 0))), False, True),  # a mixture of two partitions of equal split
        ((X, Y, Z, Region.split((0, 1)), Region.split((1, 2)), Region.split((3, 2), (0, 4))), False, False),
        ((X, Region.split((0,)), Y, Region.split((1, 2))), True, True),  # a single child splits nothing
        ((X, Y, Region.split((0, 1)), Region.split((2,))), True, True),
    ],
)
def test_properties(regions: tuple[Region, ...], is_tree: bool, is_structured: bool) -> None:
    graph = RegionGraph(regions)
    assert graph.is_tree == is_tree
    assert graph.is_structured_decomposable == is_structured


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ((), "regions must be a non-empty tuple"),
        (
            (X, Region.split((0,)), Region()),
            r"region 2 must have either variables .* got variables=\(\) and 0 partitions",
        ),
        ((X, Region((Partition((0,)),), (1,))), r"region 1 must have either variables .* variables=\(1,\) and 1 part"),
        ((X, Region((Partition(()),))), "region 1, partition 0 must be a Partition of a non-empty tuple"),
        ((X, Y, Region.split((0, 2))), "region 2, partition 0: a region cannot hold itself.* 2 -> 2"),
        ((X, Region.split((0, 2)), Region.split((1,))), "region 1, .* along the cycle 1 -> 2 -> 1"),
        (
            (X, Region.split((2,)), Y, Region.split((0, 1))),
            "child 2 must come before region 1: list the regions children",
        ),
        ((X, Region.split((7,))), "region 1, partition 0: child 7 is not a region id, an int from 0 to 1"),
        ((X, Region.split((-1,))), "child -1 is not a region id"),
        (
            (X, Y, Z, Region.split((0, 1)), Region.split((3, 1, 2))),
            "region 4, .* disjoint, but child 1 repeats variable 1",
        ),
        ((X, Y, Region.split((0, 0))), "region 2, partition 0: its children must be disjoint"),
        ((X, X, Region.split((0, 1))), "child 1 repeats variable 0"),
        ((X, Y, Z, Region.split((0, 1), (1, 2))), "region 3: .* partition 0 and partition 1 differ in variables 0, 2"),
        ((X, Y, Z, Region.split((0, 1))), "region 2 cannot be reached from the root, region 3"),
        ((X, Y), "region 0 cannot be reached"),
        ((X, Z, Region.split((0, 1))), "region 1: variable 2 must be an int below 2, the number of variables"),
        ((X, Region.input(-1), Region.split((0, 1))), "region 1: variable -1"),
        (
            (X, Z, X, Region.split((0,), (2,)), Region.split((3, 1))),
            "region 4, the root, .* but variable 1 has no input",
        ),
        ((Region.input(10**30),), "region 0: variable 1000"),
        ((Region.input(0, 1, 0),), "region 0: an input region holds a variable once, but 0 is repeated"),
        ((Region.input(0, 1), Y, Region.split((0, 1))), "region 2, partition 0: .* child 1 repeats variable 1"),
    ],
)
def test_invalid_graphs_are_refused(regions: tuple[Region, ...], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        RegionGraph(regions)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"num_units": 0}, "num_units must be an integer of at least 1, got 0"),
        ({"default_layer": "dense"}, "default_layer must be one of cp, cp-t, tucker, sparse, got 'dense'"),
        ({"units": 3, "layer": "cp"}, "hints are num_units, default_layer, observed_latents, got layer, units"),
    ],
)
def test_bad_hints_are_refused(hints: dict[str, object], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        PAIR.with_hints(**hints)


def test_immutable_and_compared_by_value() -> None:
    with pytest.raises(FrozenInstanceError):
        PAIR.num_units = 3  # type: ignore[misc]
    assert replace(PAIR) == PAIR
    assert PAIR.with_hints(num_units=2) != PAIR
    assert PAIR.with_hints(num_units=2).with_hints(num_units=None) == PAIR
    assert len({PAIR, replace(PAIR), PAIR.with_hints(default_layer="tucker")}) == 2


def test_json_is_compact() -> None:
    data = PAIR.with_hints(num_units=3).to_json()
    assert data["regions"] == [0, 1, [[0, 1]]]
    assert (data["num_units"], data["default_layer"], data["observed_latents"]) == (3, "cp", False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "'format' is 'pcircuits.region_graph'"),
        ({"version": 99}, "reads version 1 .* got 99"),
        ({"regions": {}}, "'regions' must be a list"),
        ({"regions": []}, "non-empty tuple"),
        ({"regions": [0, "a"]}, "region 1 must be a variable .* or a list of lists of children, got 'a'"),
        ({"regions": [0, True]}, "region 1 must be a variable"),
        ({"regions": [0, [0]]}, "region 1 must be a variable"),
        ({"regions": [0, []]}, "region 1 must have either"),
        ({"regions": [0, [[]]]}, "region 1, partition 0"),
        ({"regions": [0, [[1]]]}, "cannot hold itself"),
        ({"num_units": 0}, "num_units must be an integer"),
        ({"colour": "red"}, "unknown keys: colour"),
    ],
)
def test_bad_json_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        RegionGraph.from_json(PAIR.to_json() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": [0, [[0.0]]]}, "child 0.0 is not a region id"),
        ({"regions": [0, [[[0]]]]}, "is not a region id"),
        ({"num_units": "many"}, "num_units must be an integer"),
        ({"observed_latents": 1}, "observed_latents must be True or False"),
    ],
)
def test_json_of_wrong_types_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises((StructureError, TypeError)) as refusal:  # TypeError where annotations are checked at run time
        RegionGraph.from_json(PAIR.to_json() | change)
    assert isinstance(refusal.value, TypeError) or message in str(refusal.value)


def test_networkx_without_partition_nodes() -> None:
    tree = nx.DiGraph([("root", "b"), ("root", "ac"), ("ac", "a"), ("ac", "c")], num_units=5)
    nx.set_node_attributes(tree, {"a": 0, "b": 1, "c": 2}, "variable")
    graph = from_networkx(tree)
    assert graph == RegionGraph((Y, X, Z, Region.split((1, 2)), Region.split((0, 3))), num_units=5)


def test_networkx_with_partition_nodes() -> None:
    digraph = nx.DiGraph([("root", "p"), ("root", "q"), ("p", "x"), ("p", "y"), ("q", "x"), ("q", "y")])
    nx.set_node_attributes(digraph, {"x": {"variable": 0}, "y": {"variable": 1}})
    nx.set_node_attributes(digraph, {"p": True, "q": True}, "partition")
    assert from_networkx(digraph).regions[-1] == Region.split((0, 1), (0, 1))


@pytest.mark.parametrize(
    ("edges", "variables", "partitions", "message"),
    [
        ([], {}, [], "non-empty networkx DiGraph"),
        ([("r", "a"), ("a", "r")], {}, [], "without cycles, got 'r' -> 'a' ->"),
        ([("r", "a"), ("s", "a")], {"a": 0}, [], r"one region without predecessors, the root, got \['r', 's'\]"),
        ([("r", "a")], {"a": 0}, ["r"], "one region without predecessors"),
        ([("r", "a")], {}, [], "region node 'a' must have a variable, or successors"),
        ([("r", "a"), ("a", "b")], {"a": 0, "b": 1}, [], "node 'a' has a variable, so it must have no successors"),
        ([("r", "a")], {"a": -1}, [], "node 'a': variable must be an integer of at least 0, got -1"),
        ([("r", "a")], {"a": "x"}, [], "node 'a': variable must be an integer of at least 0, got 'x'"),
        ([("r", "p")], {}, ["p"], "partition node 'p' must have regions as successors"),
        ([("r", "p"), ("p", "q"), ("q", "a")], {"a": 0}, ["p", "q"], "partition node 'p' must have regions"),
        (
            [("r", "p"), ("r", "a"), ("p", "a")],
            {"a": 0},
            ["p"],
            "all partitions or all regions, got 1 partitions and 1",
        ),
        ([("r", "a"), ("r", "b")], {"a": 0, "b": 0}, [], "child 1 repeats variable 0 .*region 0 is 'a', 1 is 'b'"),
    ],
)
def test_bad_networkx_is_refused(
    edges: list[tuple[str, str]], variables: dict[str, object], partitions: list[str], message: str
) -> None:
    digraph = nx.DiGraph(edges)
    nx.set_node_attributes(digraph, variables, "variable")
    nx.set_node_attributes(digraph, dict.fromkeys(partitions, True), "partition")
    with pytest.raises(StructureError, match=message):
        from_networkx(digraph)


def test_long_chains_travel_too() -> None:
    graph = chain(3_000)
    assert RegionGraph.from_json(graph.to_json()) == graph
    assert from_networkx(graph.to_networkx()) == graph
