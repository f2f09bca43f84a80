"""Levels of few joint states, worked out once a state."""

import gc
import weakref

import pytest
import torch

import pcircuits as pc
from pcircuits import state_tables, testing
from pcircuits.evaluator import evaluate, upward
from pcircuits.semirings import Log
from pcircuits.state_tables import Lookup
from pcircuits.statistics import collect
from pcircuits.workspace import Memory

STRUCTURES = ("binary_tree", "quad_graph", "poon_domingos", "hclt", "rat", "nested")
LAYERS = ("cp", "cp-t", "tucker", "sparse")
DTYPES = (torch.float32, torch.float64)


def lookup_of(circuit: pc.Circuit, x: torch.Tensor) -> Lookup | None:
    evidence = pc.Evidence(x)
    return evaluate(circuit.plan, circuit.prepared(), evidence, circuit.dtype, summed=True).fast.lookup


def counts_by_sample(circuit: pc.Circuit, x: torch.Tensor, weights: torch.Tensor) -> dict:
    evaluation = evaluate(circuit.plan, circuit.prepared(), pc.Evidence(x), circuit.dtype)
    return collect(circuit.plan, evaluation, weights, evaluation.log_evidence).counts


def tolerance(dtype: torch.dtype) -> dict:
    return {"atol": 1e-9, "rtol": 1e-10} if dtype == torch.float64 else {"atol": 1e-4, "rtol": 1e-4}


def rat(
    num_variables: int = 12, *, inputs: pc.Categorical | None = None, dtype=torch.float64, seed: int = 0
) -> pc.Circuit:
    graph = pc.structures.rat(num_variables, 2, num_repetitions=3, seed=seed)
    return pc.Circuit(graph, inputs or pc.Categorical(2), num_units=3, layer="tucker", seed=seed, dtype=dtype)


def data(circuit: pc.Circuit, rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(circuit.num_categories or 2, (rows, circuit.num_variables), generator=generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("structure", STRUCTURES)
@torch.no_grad()
def test_log_evidence_and_counts_are_those_of_all_samples(structure: str, layer: str, dtype: torch.dtype) -> None:
    for weights in ("dense", "peaked", "sparse"):
        circuit = testing.example_circuit(structure, layer, "categorical", weights=weights, seed=3, dtype=dtype)
        x = data(circuit, 4 * circuit.num_categories**3)
        exact = upward(circuit.plan, circuit.prepared(), pc.Evidence(x), Log()).log_evidence
        torch.testing.assert_close(circuit.log_prob(x), exact - circuit.log_partition(), **tolerance(dtype))
        possible = x[exact.isfinite()]
        sample_weights = torch.rand(len(possible), dtype=torch.float64) + 0.1
        found = circuit.statistics(possible, sample_weights=sample_weights).counts
        torch.testing.assert_close(found, counts_by_sample(circuit, possible, sample_weights), **tolerance(dtype))


def test_tables_are_used_where_samples_outnumber_states_and_evidence_is_complete() -> None:
    circuit = rat()  # leaves of 3 variables have 8 states
    with torch.no_grad():
        lookup = lookup_of(circuit, data(circuit, 16))
        assert lookup is not None and {circuit.plan.states[n].count for n in lookup.read} == {8}
        assert lookup_of(circuit, data(circuit, 15)) is None
        deep = lookup_of(circuit, data(circuit, 128))
        assert deep is not None and {circuit.plan.states[n].count for n in deep.read} == {64}
        some = pc.Evidence(data(circuit, 64), observed=torch.rand(64, 12) < 0.9)
        assert evaluate(circuit.plan, circuit.prepared(), some, circuit.dtype, summed=True).fast.lookup is None
        latent = pc.Evidence(data(circuit, 64), latent=torch.zeros(64, 12, 3))
        assert evaluate(circuit.plan, circuit.prepared(), latent, circuit.dtype, summed=True).fast.lookup is None


@torch.no_grad()
def test_a_chain_whose_steps_are_all_tabled_is_no_segment() -> None:
    circuit = pc.Circuit(pc.structures.chain(3), pc.Categorical(3), num_units=1, layer="cp-t", seed=0)
    assert circuit.plan.chains
    x = data(circuit, 60)
    lookup = lookup_of(circuit, x)
    assert lookup is not None and circuit.plan.chains[0].start in lookup
    exact = upward(circuit.plan, circuit.prepared(), pc.Evidence(x), Log()).log_evidence
    torch.testing.assert_close(circuit.log_prob(x), exact, atol=1e-5, rtol=1e-5)
    ones = torch.ones(len(x), dtype=torch.float64)
    torch.testing.assert_close(
        circuit.statistics(x).counts, counts_by_sample(circuit, x, ones), **tolerance(circuit.dtype)
    )


def test_a_region_that_is_read_by_state_and_by_sample_is_not_tabled_twice() -> None:
    circuit = testing.example_circuit("quad_graph", "cp", "categorical", seed=0)
    plan = circuit.plan
    for most in (4, 16, 64, 256, 4096):
        levels, read = state_tables.tabled(plan, most)
        for n in levels:
            readers = plan.readers[n]
            assert readers.isdisjoint(levels) if n in read else readers <= set(levels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_those_of_the_recorded_evaluation(dtype: torch.dtype) -> None:
    circuit = rat(dtype=dtype)
    x = data(circuit, 64)
    found = torch.autograd.grad(circuit.log_prob(x).sum(), list(circuit.parameters()))
    recorded = evaluate(circuit.plan, circuit.prepared(), pc.Evidence(x), circuit.dtype, Memory()).log_evidence
    torch.testing.assert_close(
        found, torch.autograd.grad(recorded.sum(), list(circuit.parameters())), **tolerance(dtype)
    )


@torch.no_grad()
def test_tables_follow_the_parameters() -> None:
    circuit = rat()
    x = data(circuit, 64)
    first, again = lookup_of(circuit, x), lookup_of(circuit, x)
    assert first is not None and again is not None and first.tables is again.tables
    before = circuit.log_prob(x)
    circuit.maximise(circuit.statistics(x))
    after = circuit.log_prob(x)
    assert after.sum() > before.sum()
    exact = upward(circuit.plan, circuit.prepared(), pc.Evidence(x), Log()).log_evidence
    torch.testing.assert_close(after, exact, **tolerance(circuit.dtype))


@torch.no_grad()
def test_what_is_kept_is_freed_with_its_circuit() -> None:
    """Without a search for garbage: nothing that is kept refers to who keeps it."""
    circuit = rat()
    x = data(circuit, 64)
    circuit.log_prob(x)
    circuit.sample(3)
    before = weakref.ref(circuit.prepared()["sum_1"].linear)
    gc.disable()
    try:
        circuit.group("sum_1").log_weights.mul_(1.5)
        circuit.log_prob(x)
        assert before() is None
        gone = weakref.ref(circuit)
        del circuit
        assert gone() is None
    finally:
        gc.enable()


@torch.no_grad()
def test_states_that_underflow_are_left_to_log_space() -> None:
    circuit = rat(dtype=torch.float32)
    for _, group in circuit.named_groups():
        for name, parameter in group.named_parameters():
            if name == "logits":
                parameter[..., 1] = -60.0
                parameter[..., 0] = 0.0
            else:
                parameter[...] = torch.where(torch.rand(parameter.shape) < 0.5, 0.0, -80.0)
    x = data(circuit, 64)
    assert lookup_of(circuit, x) is None
    exact = upward(circuit.plan, circuit.prepared(), pc.Evidence(x), Log()).log_evidence
    torch.testing.assert_close(circuit.log_prob(x), exact, atol=1e-2, rtol=1e-5)


@torch.no_grad()
def test_tied_inputs_and_sums_count_together() -> None:
    graph = pc.structures.binary_tree(8)
    leaves = [n for n, region in enumerate(graph.regions) if region.is_input]
    pairs = [
        n
        for n, region in enumerate(graph.regions)
        if len(region.partitions) and set(region.partitions[0].children) <= set(leaves)
    ]
    circuit = pc.Circuit(
        graph,
        pc.Categorical(3),
        num_units=2,
        layer="cp-t",
        seed=0,
        dtype=torch.float64,
        input_ties=dict.fromkeys(leaves, "leaf"),
        sum_ties=dict.fromkeys(pairs, "pair"),
    )
    x = data(circuit, 40)
    assert lookup_of(circuit, x) is not None
    ones = torch.ones(40, dtype=torch.float64)
    torch.testing.assert_close(circuit.statistics(x).counts, counts_by_sample(circuit, x, ones))


@torch.no_grad()
def test_a_posterior_of_complete_evidence_answers_everything() -> None:
    circuit = rat()
    x = data(circuit, 64)
    posterior = circuit.condition(pc.Evidence(x))
    assert posterior.log_evidence.shape == (64,)
    torch.testing.assert_close(posterior.marginals().argmax(-1), x)
    assert torch.equal(posterior.sample(2, generator=torch.Generator().manual_seed(0)), x.expand(2, -1, -1))


@pytest.mark.parametrize("as_type", [torch.int8, torch.int32, torch.int64, torch.float32, torch.float64])
@torch.no_grad()
def test_values_of_any_type_are_looked_up(as_type: torch.dtype) -> None:
    circuit = rat()
    x = data(circuit, 64)
    torch.testing.assert_close(circuit.log_prob(x.to(as_type)), circuit.log_prob(x), atol=0, rtol=0)
