"""Folding: what is alike is one level, and what lies side by side is read without a copy."""

import gc

import pytest
import torch

import pcircuits as pc
from pcircuits import structures
from pcircuits.plan import gives_what_it_is_given

ORDERED = {
    "hmm": lambda: pc.HMM(2, 3, 6),
    "chain, untied": lambda: pc.Circuit(structures.chain(5), pc.Categorical(3), num_units=2, layer="cp-t"),
    "factorized": lambda: pc.Circuit(structures.factorized(4), pc.Gaussian(), num_units=2, layer="cp-t"),
}


def test_a_balanced_tree_has_a_level_a_depth() -> None:
    circuit = pc.Circuit(structures.binary_tree(8), pc.Categorical(3), num_units=2, layer="cp-t")
    assert str(circuit.plan).splitlines() == [
        "   0  input   Categorical(num_categories=3) x 8, 2 units, parameters input_0",
        "   1  hadamard  of 2 x 4, 2 units, sum sum_1",
        "   2  hadamard  of 2 x 2, 2 units, sum sum_2",
        "   3  hadamard  of 2 x 1, 1 units, sum sum_3",
    ]


def test_partitions_of_a_region_are_mixed_and_other_families_fold_apart() -> None:
    inputs = [pc.Categorical(3), pc.Gaussian(), pc.Categorical(3), pc.Gaussian()]
    circuit = pc.Circuit(structures.rat(4, 2, num_repetitions=2, seed=0), inputs, num_units=3, layer="tucker")
    assert str(circuit.plan).splitlines()[-2:] == [
        f"{len(circuit.plan.levels) - 2:4d}  kronecker of 2 x 2, 1 units, sum sum_{len(circuit.plan.levels) - 2}",
        f"{len(circuit.plan.levels) - 1:4d}  mixing    of 2 x 1, 1 units, sum sum_{len(circuit.plan.levels) - 1}",
    ]
    assert [level.family for level in circuit.plan.levels[:2]] == inputs[:2]


@pytest.mark.parametrize("make", ORDERED)
def test_rows_in_order_are_neither_copied_nor_permuted(make: str) -> None:
    plan = ORDERED[make]().plan
    for level in plan.levels:
        for gather in getattr(level, "children", ()):
            assert gather.order is None
            assert all(isinstance(part.index, slice) and part.rows is None for part in gather.parts)
        weights = getattr(level, "weights", None)
        assert weights is None or weights.rows is None
    assert all(incoming.target is None for incoming in plan.incoming)
    assert make == "factorized" or all(incoming.index is None for incoming in plan.incoming)


def test_flows_pass_over_products_without_sums() -> None:
    plan = pc.Circuit(structures.quad_graph(4, 4), pc.Categorical(3), num_units=2, layer="cp").plan
    products = {n for n, level in enumerate(plan.levels) if gives_what_it_is_given(level)}
    assert products and all(plan.readers[n] for n in products)
    assert not products & {source.level for incoming in plan.incoming for source in incoming.sources}


def test_flows_of_rows_that_several_read_add_up() -> None:
    circuit = pc.Circuit(pc.structures.quad_graph(4, 4), pc.Categorical(2), num_units=2, layer="cp", seed=0)
    plan = circuit.plan
    rows = plan.added_up(1)
    assert rows is not None and rows.tolist() == plan.levels[1].rows_of_one[1].tolist()
    assert len(rows) > plan.levels[0].num_rows
    assert all(plan.added_up(n) is None for n in (0, 2, 5))


def test_index_tensors_move_with_the_circuit() -> None:
    inputs = [pc.Categorical(3), pc.Gaussian()]
    circuit = pc.Circuit(structures.binary_tree(4), inputs * 2, num_units=2, layer="cp-t")
    moved = circuit.plan.to(torch.device("meta"))
    assert {t.device.type for t in tensors_of(moved)} == {"meta"}
    assert {t.device.type for t in tensors_of(circuit.plan)} == {"cpu"}
    assert str(moved) == str(circuit.plan)


def tensors_of(item: object) -> list[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        return [item]
    parts = item if isinstance(item, tuple) else getattr(item, "__dict__", {}).values()
    return [tensor for part in parts for tensor in tensors_of(part)]


@pytest.mark.parametrize("enabled", [True, False])
def test_building_leaves_the_garbage_collector_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        pc.Circuit(pc.structures.chain(3), pc.Categorical(2), num_units=2)
        with pytest.raises(pc.StructureError):
            pc.Circuit(pc.structures.chain(3), pc.Categorical(2), num_units=2, layer="none")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
