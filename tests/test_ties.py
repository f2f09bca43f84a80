"""Tied parameters: regions that share a group must fit it, and names must be usable."""

import pytest
import torch

import pcircuits as pc
from pcircuits.structures import binary_tree
from pcircuits.testing import example_circuit

# regions 0..3 are inputs, 4 and 5 sums over two of them, 6 the root, which has one unit
MIXED = [pc.Categorical(3), pc.Gaussian(), pc.Categorical(3), pc.Gaussian()]
WRONG = {
    "unequal units": ({"sum_ties": {4: "a", 6: "a"}}, "equal shapes"),
    "unequal families": ({"input_ties": {0: "a", 1: "a"}}, "families"),
    "a sum and an input": ({"sum_ties": {4: "a"}, "input_ties": {0: "a"}}, "tied as 'a'"),
    "a name that the plan uses": ({"sum_ties": {4: "input_0"}}, "input_0"),
    "a name of torch": ({"sum_ties": {4: "keys"}}, "keys"),
    "an attribute of torch": ({"sum_ties": {4: "training"}}, "training"),
    "a dot": ({"sum_ties": {4: "a.b"}}, "a.b"),
    "no name": ({"sum_ties": {4: ""}}, "identifier"),
    "no such region": ({"sum_ties": {99: "a"}}, "99"),
    "not a sum": ({"sum_ties": {0: "a"}}, "not a sum region"),
    "not an input": ({"input_ties": {4: "a"}}, "not an input region"),
}


@pytest.mark.parametrize("case", WRONG)
def test_ties_that_do_not_fit(case: str) -> None:
    ties, words = WRONG[case]
    with pytest.raises(pc.StructureError, match=words):
        pc.Circuit(binary_tree(4), MIXED, num_units=2, layer="cp-t", seed=0, **ties)


def test_ties_that_fit() -> None:
    ties = {"sum_ties": {4: "a", 5: "a"}, "input_ties": {0: "b", 2: "b", 1: "c", 3: "c"}}
    circuit = pc.Circuit(binary_tree(4), MIXED, num_units=2, layer="cp-t", seed=0, **ties)
    assert {"a", "b", "c"} < set(circuit.groups)
    assert pc.check(circuit).normalised


@pytest.mark.parametrize("layer", ["cp", "cp-t", "tucker"])
@pytest.mark.parametrize("structure", ["rat", "hmm", "binary_tree"])
def test_every_row_of_parameters_is_that_of_a_region(structure: str, layer: str) -> None:
    circuit = example_circuit(structure, layer, "mixed")
    rows = list(circuit.plan.rows.values())
    assert set(rows) == {(name, row) for name, spec in circuit.plan.groups.items() for row in range(spec.rows)}
    assert len(set(rows)) == len(rows) or circuit.ties["sum"], "without ties, no two share a row"
    for (region, part), (group, _) in circuit.plan.rows.items():
        tie = {**circuit.ties["sum"], **circuit.ties["input"]}.get(region)
        assert group == tie + part if tie else group not in set(circuit.ties["sum"].values())


def test_a_region_finds_its_own_parameters() -> None:
    circuit = pc.Circuit(binary_tree(4), MIXED, num_units=2, layer="cp-t", seed=0)
    x = pc.Evidence(torch.zeros(1, 4), observed=torch.tensor([[False, False, True, False]]))
    changes = {}
    for region in (0, 2):
        name, row = circuit.plan.rows[region, ""]
        before = circuit.condition(x).log_evidence
        with torch.no_grad():
            circuit.group(name).get_parameter("logits")[row, :, 0] += 1.0
        changes[region] = (circuit.condition(x).log_evidence - before).item()
    assert changes[0] == pytest.approx(0.0, abs=1e-6) and changes[2] > 0.1
