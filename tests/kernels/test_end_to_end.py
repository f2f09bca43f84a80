"""Whole circuits by Triton kernels equal the same circuits in float64 without them."""

import copy
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")

import pcircuits as pc
from pcircuits import testing
from pcircuits.kernels import choice
from pcircuits.kernels.chain import triton as triton_chain
from pcircuits.kernels.dense_sum import triton as triton_sum
from pcircuits.testing.enumeration import Enumeration
from pcircuits.testing.goodness import sample_p_values
from pcircuits.workspace import Memory

EXAMPLES = [  # structure, layer, inputs, weights, evidence
    ("hmm", "cp-t", "categorical", "dense", "potentials"),
    ("binary_tree", "tucker", "categorical", "dense", "mixed"),
    ("rat", "cp", "mixed", "sparse", "hard"),
]
MORE = [
    (structure, layer, inputs, weights, evidence)
    for structure in ("hclt", "rat", "quad_graph")
    for layer in ("cp", "cp-t", "tucker")
    for inputs, weights in (("categorical", "peaked"), ("gaussian", "dense"))
    for evidence in ("observed", "hard", "potentials")
]
SEED = 5


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where the kernels run, and that they do."""
    calls = []
    for name in ("_sum", "_outer"):
        run = getattr(triton_sum, name)
        monkeypatch.setattr(triton_sum, name, lambda *args, run=run: (calls.append(run), run(*args))[1])
    if request.param == "interpreter":
        if torch.cuda.is_available():
            pytest.skip("kernels are compiled here")
        monkeypatch.setattr(choice, "on_triton", lambda args: args[0].dtype == torch.float32)
        monkeypatch.setattr(pc.Circuit, "_memory", lambda *_: Memory())  # what CUDA devices have
    yield torch.device("cuda" if request.param == "cuda" else "cpu")
    assert calls


def to(evidence: pc.Evidence, device: torch.device) -> pc.Evidence:
    return evidence._each(lambda x: x.to(device))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found.detach().cpu().double(), expected.detach().double(), rtol=3e-5, atol=1e-5)


@pytest.mark.parametrize("example", [*EXAMPLES, *(pytest.param(e, marks=pytest.mark.campaign) for e in MORE)])
def test_queries_and_learning(example: tuple[str, str, str, str, str], device: torch.device) -> None:
    *parts, weights, kind = example
    circuit = testing.example_circuit(*parts, weights=weights, seed=SEED)
    exact, evidence = copy.deepcopy(circuit).double(), testing.example_evidence(circuit, kind, seed=SEED)
    circuit.to(device)
    ours, theirs = circuit.condition(to(evidence, device)), exact.condition(evidence)
    close(ours.log_evidence, theirs.log_evidence)
    if parts[2] == "categorical":
        close(ours.marginals(), theirs.marginals())
    check_gradients(circuit, exact, evidence, device)
    check_learning(circuit, exact, evidence, device)


def check_gradients(circuit: pc.Circuit, exact: pc.Circuit, evidence: pc.Evidence, device: torch.device) -> None:
    for model, given in ((circuit, to(evidence, device)), (exact, evidence)):
        model.zero_grad()
        model.condition(given).log_evidence.sum().backward()
    for ours, theirs in zip(circuit.parameters(), exact.parameters(), strict=True):
        close(ours.grad, theirs.grad)


def check_learning(circuit: pc.Circuit, exact: pc.Circuit, evidence: pc.Evidence, device: torch.device) -> None:
    """Counts, and the parameters that they lead to."""
    for model, given in ((circuit, to(evidence, device)), (exact, evidence)):
        model.maximise(model.statistics(given), pseudocount=1.0)
    for ours, theirs in zip(circuit.parameters(), exact.parameters(), strict=True):
        close(ours, theirs)


def test_a_chain_is_one_operation(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, run = [], triton_chain._steps
    monkeypatch.setattr(triton_chain, "_steps", lambda *args: (calls.append(args), run(*args))[1])
    circuit = testing.example_circuit("hmm", "cp-t", "categorical", seed=SEED)
    exact, x = copy.deepcopy(circuit).double(), torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    close(circuit.to(device).log_prob(x.to(device)), exact.log_prob(x))
    assert len(calls) == 1


def test_samples(device: torch.device) -> None:
    circuit = testing.example_circuit("rat", "cp", "categorical", seed=SEED)
    evidence = testing.example_evidence(circuit, "soft", seed=SEED)
    oracle = Enumeration(circuit, evidence)
    circuit.to(device)
    generator = torch.Generator(device).manual_seed(0)
    drawn = circuit.condition(to(evidence, device)).sample(2_000, generator=generator)
    assert min(sample_p_values(drawn.cpu(), oracle)) > testing.contracts.LEAST_P_VALUE


def test_training_through_marginals(device: torch.device) -> None:
    """The downward pass is differentiated: by kernels, and by the definition where its own graph is asked for."""
    circuit = testing.example_circuit("hmm", "cp-t", "categorical", seed=SEED)
    exact, evidence = copy.deepcopy(circuit).double(), testing.example_evidence(circuit, "soft", seed=SEED)
    circuit.to(device)
    for model, given in ((circuit, to(evidence, device)), (exact, evidence)):
        loss = model.condition(given).marginals().square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        sum(g.square().sum() for g in gradients).backward()
    for ours, theirs in zip(circuit.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.cpu().double(), theirs.grad, rtol=1e-3, atol=1e-4)
