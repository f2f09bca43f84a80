"""Every query equals enumeration: each structure, layer, input family, kind of evidence and semiring path."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing
from pcircuits.evaluator import Evaluation, upward
from pcircuits.queries import mpe as mpe_module_function
from pcircuits.semirings import Log, Scaled
from pcircuits.testing import EVIDENCE, INPUTS, LAYERS, STRUCTURES, WEIGHTS

PATHS = {"scaled float32": torch.float32, "scaled float64": torch.float64, "log": torch.float32}


class Case(NamedTuple):
    structure: str
    layer: str
    inputs: str

    def __str__(self) -> str:
        return "-".join(self)


FEWER_INPUTS = {
    "chow_liu": ("categorical",),
    "quad_graph": ("categorical", "mixed"),
    "quad_tree": ("mixed",),
    "poon_domingos": ("mixed",),
    "nested": ("mixed",),
}
CASES = [
    Case(structure, layer, inputs)
    for structure in STRUCTURES
    for layer in LAYERS
    for inputs in FEWER_INPUTS.get(structure, INPUTS)
    if layer != "sparse" or inputs == "mixed"
]
LONG = [pytest.mark.campaign]  # what "mixed" inputs and dense layers have too, on the other paths
COMBINATIONS = [
    pytest.param(
        case,
        path,
        id=f"{case}-{path}",
        marks=LONG if path != "scaled float64" and (case.inputs != "mixed" or case.layer == "sparse") else (),
    )
    for case in CASES
    for path in PATHS
]
DISCRETE_CASES = [case for case in CASES if case.inputs == "categorical"]


def evaluate_in_log_space(plan, prepared, evidence, dtype, memory, *, recompute=False, summed=False) -> Evaluation:
    """What `evaluate` does where no row can be trusted: all rows once more in log space."""
    rows = torch.arange(evidence.batch_size)
    exact = upward(plan, prepared, evidence, Log(), recompute=recompute)
    return Evaluation(upward(plan, prepared, evidence, Scaled(dtype), recompute=recompute), exact, rows)


@pytest.fixture
def use_path(monkeypatch: pytest.MonkeyPatch):
    def use(path: str) -> torch.dtype:
        if path == "log":
            monkeypatch.setattr("pcircuits.circuit.evaluate", evaluate_in_log_space)
        return PATHS[path]

    return use


@pytest.fixture
def only_max_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPE without the enumeration of few completions."""
    monkeypatch.setattr(sys_module_of(mpe_module_function), "MOST_COMPLETIONS", 0)


def sys_module_of(function) -> object:
    import sys

    return sys.modules[function.__module__]


def evidence_of_every_kind(circuit: pc.Circuit, seed: int) -> Iterator[pc.Evidence]:
    discrete = any(family.is_discrete for family in circuit.inputs)
    kinds = [kind for kind in EVIDENCE if discrete or kind not in ("soft", "mixed", "impossible")]
    for kind in kinds:
        evidence = testing.example_evidence(circuit, kind, seed=seed)
        assert testing.has_kind(circuit, evidence, kind), f"this evidence was to be {kind}"
        yield evidence


def seed_of(case: Case, path: str) -> int:
    return 7 * CASES.index(case) + list(PATHS).index(path)


@pytest.mark.parametrize(("case", "path"), COMBINATIONS)
def test_every_combination_equals_enumeration(case: Case, path: str, use_path) -> None:
    dtype, seed = use_path(path), seed_of(case, path)
    weights = WEIGHTS[seed % len(WEIGHTS)]
    circuit = testing.example_circuit(*case, weights=weights, seed=seed, dtype=dtype)
    for evidence in evidence_of_every_kind(circuit, seed):
        if path == "log":
            assert circuit.condition(evidence)._evaluation.exact is not None
        testing.check_posterior(circuit, evidence, seed=seed)


def test_every_combination_is_there() -> None:
    assert {case.structure for case in CASES} == set(STRUCTURES)
    kinds = [FEWER_INPUTS.get(structure, INPUTS) for structure in STRUCTURES]
    fewer = [set(inputs) & {"mixed"} for inputs in kinds]
    expected = (len(LAYERS) - 1) * sum(map(len, kinds)) + sum(map(len, fewer))
    assert len(set(CASES)) == len(CASES) == expected >= 100
    seen = {(case, path, WEIGHTS[seed_of(case, path) % len(WEIGHTS)]) for case in CASES for path in PATHS}
    assert {weights for _, _, weights in seen} == set(WEIGHTS)


@pytest.mark.parametrize("inputs", ["bernoulli", "gaussian", "mixed"])
def test_chow_liu_refuses_inputs_that_cannot_be_indicators(inputs: str) -> None:
    with pytest.raises(pc.StructureError, match=r"Categorical\(3\)"):
        testing.example_circuit("chow_liu", "cp-t", inputs)


@pytest.mark.usefixtures("only_max_product")
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("case", DISCRETE_CASES, ids=str)
def test_max_product_is_a_lower_bound_and_exact_where_it_says_so(case: Case, weights: str) -> None:
    circuit = testing.example_circuit(*case, weights=weights, seed=CASES.index(case))
    for evidence in evidence_of_every_kind(circuit, seed=CASES.index(case)):
        testing.check_posterior(circuit, evidence)


@pytest.mark.usefixtures("only_max_product")
def test_max_product_says_exact_for_deterministic_circuits_and_for_no_others() -> None:
    certain = testing.example_circuit("chow_liu", "cp-t")
    doubtful = testing.example_circuit("hclt", "cp-t")
    for evidence in evidence_of_every_kind(certain, seed=1):
        possible = evidence.rows(~certain.condition(evidence).log_evidence.isneginf())
        assert certain.condition(possible).mpe().exact.all()
        found = doubtful.condition(possible).mpe()  # exact only where the bound meets the assignment
        assert found.upper is not None
        assert torch.equal(found.exact, found.upper == found.log_prob)


def test_few_completions_are_enumerated_and_many_are_not() -> None:
    circuit = pc.Circuit(pc.structures.binary_tree(13), pc.Bernoulli(), num_units=2, seed=0)
    observed = torch.tensor([[True] + [False] * 12, [False] * 13])
    assert circuit.condition(pc.Evidence(torch.zeros(2, 13), observed=observed)).mpe().exact.tolist() == [True, False]


@settings(max_examples=40)
@given(st.data())
def test_drawn_circuits_and_evidence_equal_enumeration(data: st.DataObject) -> None:
    circuit = data.draw(testing.circuits())
    testing.check_posterior(circuit, data.draw(testing.evidences(circuit)))


@settings(max_examples=25)
@given(st.data(), st.sampled_from(EVIDENCE))
def test_each_kind_of_evidence_is_really_drawn(data: st.DataObject, kind: str) -> None:
    circuit = data.draw(testing.circuits(inputs=["categorical", "mixed"]))
    evidence = data.draw(testing.evidences(circuit, kinds=[kind]))
    assert testing.has_kind(circuit, evidence, kind) or circuit.num_variables * evidence.batch_size < 6
    impossible = circuit.condition(evidence).log_evidence.isneginf()
    assert impossible[0] or kind != "impossible"


@settings(max_examples=25)
@given(testing.circuits(inputs=["categorical", "bernoulli"]))
def test_a_circuit_sums_to_one_over_all_worlds(circuit: pc.Circuit) -> None:
    total = circuit.log_prob(testing.worlds(circuit)).logsumexp(0)
    assert abs(total.item()) <= 1e-5 if circuit.dtype == torch.float32 else abs(total.item()) <= 1e-10


@settings(max_examples=15)
@given(testing.circuits(weights=["sparse", "deterministic"], max_variables=4))
def test_drawn_circuits_keep_all_laws(circuit: pc.Circuit) -> None:
    supports = [group.support for group in circuit.groups.values() if hasattr(group, "log_weights")]
    assert all(support is not None for support in supports)
    testing.check_circuit(circuit)


def test_impossible_rows_are_named_and_the_others_have_their_log_evidence() -> None:
    circuit = testing.example_circuit()
    log_weights = torch.zeros(4, 4, 3)
    log_weights[[1, 3], 2] = -torch.inf
    posterior = circuit.condition(pc.Evidence(log_weights=log_weights))
    assert posterior.log_evidence.isneginf().tolist() == [False, True, False, True]
    x = torch.zeros(4, 4, dtype=torch.long)
    queries = (posterior.marginals, posterior.sample, posterior.mpe, lambda: posterior.log_prob(x))
    for query in (*queries, lambda: circuit.statistics(posterior.evidence)):
        with pytest.raises(pc.EvidenceError, match=r"rows \[1, 3\]"):
            query()


def test_4096_worlds() -> None:
    circuit = testing.example_circuit("rat", "tucker", "bernoulli", num_variables=12, weights="peaked")
    assert len(testing.worlds(circuit)) == 4096
    testing.check_posterior(circuit, testing.example_evidence(circuit, "mixed"))
    too_many = testing.example_circuit("rat", "cp", "bernoulli", num_variables=13)
    with pytest.raises(pc.StructureError, match="8192 worlds"):
        testing.worlds(too_many)


@pytest.mark.campaign
@settings(max_examples=2000)
@given(st.data())
def test_campaign_equals_enumeration(data: st.DataObject) -> None:
    circuit = data.draw(testing.circuits(max_variables=6))
    testing.check_posterior(circuit, data.draw(testing.evidences(circuit)))


@pytest.mark.campaign
@settings(max_examples=300)
@given(testing.circuits())
def test_campaign_keeps_all_laws(circuit: pc.Circuit) -> None:
    testing.check_circuit(circuit)
