"""Whole circuits by Triton kernels equal the same circuits in float64 without them."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import pcircuits as pc
from pcircuits import testing
from pcircuits.layers import SumGroup
from pcircuits.testing.enumeration import Enumeration
from pcircuits.testing.goodness import sample_p_values
from tests.kernels.launches import kernels_chosen
from tests.kernels.test_ahead_of_time import kernels

SEED = 5
UPWARD, DOWNWARD = {"sum_product_fwd_kernel"}, {"sum_product_flow_kernel", "sum_product_count_kernel"}
PRODUCTS = {"product_fwd_kernel", "product_bwd_kernel"}
CATEGORICAL = {"categorical_fwd_kernel", "segment_sum_fwd_kernel"}
BLOCKS = {"block_sparse_fwd_kernel", "block_sparse_outer_kernel"}
SOFT = {"soft_fwd_kernel", "soft_posterior_kernel", "soft_count_kernel"}


class Example(NamedTuple):
    """A circuit, its evidence, and kernels that both must launch. Evidence "top" has weights at few values, "factors"
    gates of low rank.
    """

    structure: str
    layer: str
    inputs: str
    weights: str
    evidence: str
    kernels: frozenset[str] = frozenset()

    def make(self) -> tuple[pc.Circuit, pc.Evidence]:
        circuit = testing.example_circuit(self.structure, self.layer, self.inputs, weights=self.weights, seed=SEED)
        kind = {"top": "mixed", "factors": "potentials"}.get(self.evidence, self.evidence)
        seed = SEED + (self.evidence == "factors")  # even seeds have gates of low rank
        evidence = testing.example_evidence(circuit, kind, seed=seed)
        return circuit, top(evidence) if self.evidence == "top" else evidence


def top(evidence: pc.Evidence) -> pc.Evidence:
    """The two largest weights only."""
    assert evidence.log_weights is not None
    log_weights, ids = evidence.log_weights.topk(2, -1)
    return evidence.replace(log_weights=log_weights, weighted_values=ids)


def example(*parts: str, launches: set[str]) -> Example:
    return Example(*parts, kernels=frozenset(launches))


EXAMPLES = [
    example(
        *("hmm", "cp-t", "categorical", "dense", "mixed"),
        launches={"chain_fwd_kernel", "chain_bwd_kernel", "sum_outer_kernel"} | SOFT | CATEGORICAL,
    ),
    example(
        *("hmm", "cp-t", "categorical", "dense", "potentials"),
        launches={"sum_fwd_kernel", "sum_outer_kernel"} | PRODUCTS | SOFT,
    ),
    example(
        *("hmm", "cp-t", "categorical", "dense", "factors"),
        launches={"low_rank_fwd_kernel", "sum_outer_kernel"} | PRODUCTS | SOFT,
    ),
    example(
        *("hclt", "cp-t", "categorical", "peaked", "top"),
        launches={"top_fwd_kernel", "top_posterior_kernel"} | UPWARD | DOWNWARD | CATEGORICAL,
    ),
    example(
        *("binary_tree", "cp", "mixed", "sparse", "hard"),
        launches={"gaussian_fwd_kernel", "gaussian_count_kernel"} | UPWARD | DOWNWARD | PRODUCTS,
    ),
    example(
        *("binary_tree", "tucker", "categorical", "dense", "soft"),
        launches={"sum_fwd_kernel", "sum_outer_kernel"} | SOFT,
    ),
]
MORE = [
    Example(structure, layer, inputs, weights, evidence)
    for structure in ("hclt", "rat", "quad_graph", "generalized_hmm")
    for layer in ("cp", "cp-t", "tucker")
    for inputs, weights in (("categorical", "peaked"), ("mixed", "sparse"))
    for evidence in ("observed", "interval", "potentials", "top")
    if (inputs, evidence) != ("mixed", "top")  # the same ids at all variables
]


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the kernels run."""
    if request.param == "interpreter" and torch.cuda.is_available():
        pytest.skip("kernels are compiled here")
    return torch.device("cuda" if request.param == "cuda" else "cpu")


@pytest.fixture
def launched(device: torch.device) -> Iterator[set[str]]:
    with kernels_chosen(device) as names:
        yield names


def to(evidence: pc.Evidence, device: torch.device) -> pc.Evidence:
    return evidence._each(lambda x: x.to(device))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.detach().cpu().double(), expected.detach().double(), rtol=3e-5, atol=1e-5)


def test_every_kernel_is_reached() -> None:
    assert BLOCKS.union(*(e.kernels for e in EXAMPLES)) == kernels()


@pytest.mark.parametrize(
    "example", [*EXAMPLES, *(pytest.param(e, marks=pytest.mark.campaign) for e in MORE)], ids=lambda e: "-".join(e[:5])
)
def test_queries_and_learning(example: Example, device: torch.device, launched: set[str]) -> None:
    circuit, evidence = example.make()
    exact = copy.deepcopy(circuit).double()
    circuit.to(device)
    ours, theirs = circuit.condition(to(evidence, device)), exact.condition(evidence)
    close(ours.log_evidence, theirs.log_evidence)
    if not (possible := ~theirs.log_evidence.isneginf()).all():
        evidence = evidence.rows(possible)
        ours, theirs = circuit.condition(to(evidence, device)), exact.condition(evidence)
    same_marginals(ours, theirs)
    same_gradients(circuit, exact, evidence, device)
    same_learning(circuit, exact, evidence, device)
    assert launched and launched >= example.kernels


def same_marginals(ours: pc.Posterior, theirs: pc.Posterior) -> None:
    found, expected = ours.marginals(), theirs.marginals()
    pairs = [(found, expected)] if isinstance(found, torch.Tensor) else zip(found, expected, strict=True)
    for x, y in pairs:
        for a, b in [(x, y)] if isinstance(x, torch.Tensor) else zip(x, y, strict=True):
            close(a, b)


def same_gradients(circuit: pc.Circuit, exact: pc.Circuit, evidence: pc.Evidence, device: torch.device) -> None:
    """In the parameters, and in all numbers of the evidence."""
    found = []
    for model, its_device in ((circuit, device), (exact, torch.device("cpu"))):
        known = evidence._each(lambda x, d=its_device: x.clone().to(d))
        numbers = [x for x in (known.log_weights, known.latent, known.gates, known.gate_factors) if x is not None]
        leaves = [*model.parameters(), *(x.requires_grad_() for x in numbers)]
        found.append(torch.autograd.grad(model.condition(known).log_evidence.sum(), leaves))
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


def same_learning(circuit: pc.Circuit, exact: pc.Circuit, evidence: pc.Evidence, device: torch.device) -> None:
    """Counts, and the parameters that they lead to."""
    for model, known in ((circuit, to(evidence, device)), (exact, evidence)):
        model.maximise(model.statistics(known), pseudocount=1.0)
    for ours, theirs in zip(circuit.parameters(), exact.parameters(), strict=True):
        close(ours, theirs)


def check_any(data: st.DataObject) -> None:
    """All queries equal enumeration; gradients and EM equal those in float64."""
    circuit = data.draw(testing.circuits(dtypes=(torch.float32,), max_variables=4))
    evidence = data.draw(testing.evidences(circuit, max_batch=3))
    with kernels_chosen() as launched:
        testing.check_posterior(circuit, evidence)
        possible = ~circuit.condition(evidence).log_evidence.isneginf()
        if possible.any():
            exact, evidence = copy.deepcopy(circuit).double(), evidence.rows(possible)
            same_gradients(circuit, exact, evidence, torch.device("cpu"))
            same_learning(circuit, exact, evidence, torch.device("cpu"))
    assert launched


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")
@settings(max_examples=6)
@given(data=st.data())
def test_any_circuit_under_any_evidence(data: st.DataObject) -> None:
    check_any(data)


@pytest.mark.campaign
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")
@given(data=st.data())
def test_many_circuits(data: st.DataObject) -> None:
    check_any(data)


def test_a_chain_is_one_operation_up_and_one_down(device: torch.device, launched: set[str]) -> None:
    circuit = testing.example_circuit("hmm", "cp-t", "categorical", seed=SEED)
    exact, x = copy.deepcopy(circuit).double(), torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    close(circuit.to(device).log_prob(x.to(device)), exact.log_prob(x))
    assert "chain_fwd_kernel" in launched and "chain_bwd_kernel" not in launched
    launched.clear()
    close(circuit.statistics(x.to(device)).log_likelihood, exact.statistics(x).log_likelihood)
    assert {"chain_fwd_kernel", "chain_bwd_kernel", "sum_outer_kernel"} <= launched


@pytest.mark.parametrize("structure", ["hmm", "binary_tree"])
def test_sums_of_blocks(structure: str, device: torch.device, launched: set[str]) -> None:
    """Supports of blocks of 16 x 16 on the diagonal, and some zeros in them."""
    circuit = testing.example_circuit(structure, "cp-t", "categorical", num_units=32, seed=SEED)
    blocks = torch.block_diag(*torch.ones(2, 16, 16)).bool()
    for _, group in circuit.named_groups():
        if isinstance(group, SumGroup) and group.log_weights.shape[1:] == blocks.shape:
            group.restrict((blocks & ~torch.eye(32, dtype=torch.bool)).expand_as(group.log_weights).clone())
    exact, evidence = copy.deepcopy(circuit).double(), testing.example_evidence(circuit, "mixed", seed=SEED)
    circuit.to(device)
    ours, theirs = circuit.condition(to(evidence, device)), exact.condition(evidence)
    close(ours.log_evidence, theirs.log_evidence)
    same_marginals(ours, theirs)
    same_gradients(circuit, exact, evidence, device)
    same_learning(circuit, exact, evidence, device)
    assert launched >= BLOCKS


def test_samples(device: torch.device, launched: set[str]) -> None:
    circuit = testing.example_circuit("rat", "cp", "categorical", seed=SEED)
    evidence = testing.example_evidence(circuit, "soft", seed=SEED)
    oracle = Enumeration(circuit, evidence)
    circuit.to(device)
    generator = torch.Generator(device).manual_seed(0)
    drawn = circuit.condition(to(evidence, device)).sample(2_000, generator=generator)
    assert min(sample_p_values(drawn.cpu(), oracle)) > testing.contracts.LEAST_P_VALUE
    assert launched


@pytest.mark.parametrize(
    "example",
    [
        Example("hmm", "cp-t", "categorical", "dense", "soft"),
        Example("hclt", "cp-t", "categorical", "dense", "soft"),
        *(pytest.param(e._replace(weights="dense"), marks=pytest.mark.campaign) for e in EXAMPLES),
    ],
    ids=lambda e: "-".join(e[:5]),
)
def test_training_through_marginals(example: Example, device: torch.device, launched: set[str]) -> None:
    """The downward pass is differentiated: by kernels, and by the definition where its own graph is asked for."""
    circuit, evidence = example.make()
    exact = copy.deepcopy(circuit).double()
    circuit.to(device)
    for model, known in ((circuit, to(evidence, device)), (exact, evidence)):
        found = model.condition(known).marginals()
        parts = (
            [found] if isinstance(found, torch.Tensor) else [x if isinstance(x, torch.Tensor) else x[0] for x in found]
        )
        gradients = torch.autograd.grad(
            sum(x.square().sum() for x in parts), list(model.parameters()), create_graph=True
        )
        sum(g.square().sum() for g in gradients).backward()
    for ours, theirs in zip(circuit.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=1e-3, atol=1e-4)
    assert launched
