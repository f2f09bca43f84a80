"""Gradients from expected counts are those of the evaluation, for every layer, family and kind of evidence."""

from collections.abc import Callable

import pytest
import torch

import pcircuits as pc
from pcircuits import count_gradients
from pcircuits.evaluator import evaluate
from pcircuits.workspace import Memory

BATCH = 6
FAMILIES = {
    "categorical": pc.Categorical(3),
    "bernoulli": pc.Bernoulli(),
    "binomial": pc.Binomial(3),
    "logistic": pc.DiscretizedLogistic(4),
}


def recorded(circuit: pc.Circuit, evidence: pc.Evidence) -> torch.Tensor:
    """The log evidence by operations that autograd records."""
    return evaluate(circuit.plan, circuit.prepared(), evidence, circuit.dtype, Memory()).log_evidence


def gradients(value: torch.Tensor, circuit: pc.Circuit, **options: bool) -> tuple[torch.Tensor, ...]:
    weights = torch.linspace(-1, 2, len(value), dtype=value.dtype)
    return torch.autograd.grad((value * weights).sum(), list(circuit.parameters()), **options)


def circuit_of(layer: str, family: object, **options: object) -> pc.Circuit:
    return pc.Circuit(pc.structures.rat(6, 2, num_repetitions=2, seed=0), family, num_units=3, layer=layer, **options)


def evidence_of(kind: str, circuit: pc.Circuit) -> pc.Evidence:
    x = circuit.sample(BATCH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(x.shape, generator=generator) < 0.5
    values = circuit.inputs[0].num_categories
    given: dict[str, Callable[[], torch.Tensor]] = {
        "log_weights": lambda: torch.randn(*x.shape, values, generator=generator, dtype=torch.float64),
        "latent": lambda: torch.randn(*x.shape, circuit.num_units, generator=generator, dtype=torch.float64),
    }
    if kind == "hard":
        return pc.Evidence(x)
    return pc.Evidence(x, observed=seen, **({} if kind == "missing" else {kind: given[kind]()}))


def assert_same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["hard", "missing", "log_weights", "latent"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", ["cp", "cp-t", "tucker"])
def test_they_are_those_of_the_evaluation(layer: str, family: str, kind: str) -> None:
    circuit = circuit_of(layer, FAMILIES[family], seed=2).double()
    evidence = evidence_of(kind, circuit)
    found = circuit.condition(evidence).log_evidence
    assert found.grad_fn is not None
    assert_same(gradients(found, circuit), gradients(recorded(circuit, evidence), circuit))


def test_tied_and_restricted_parameters_have_theirs() -> None:
    circuit = pc.HMM(num_states=4, num_categories=3, length=5, seed=0).double()
    support = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    support[..., 0] = True
    circuit.group("emission").restrict(support)
    x = circuit.sample(BATCH, generator=torch.Generator().manual_seed(0))
    expected = gradients(recorded(circuit, pc.Evidence(x)), circuit)
    assert_same(gradients(circuit.log_prob(x), circuit), expected)


def test_rows_that_are_impossible_have_none() -> None:
    circuit = pc.Circuit(pc.structures.factorized(2), pc.Categorical(2), num_units=1, seed=0)
    (name,) = [name for name, group in circuit.named_groups() if hasattr(group, "family")]
    circuit.group(name).restrict(torch.tensor([[[True, False]], [[True, True]]]))
    x = torch.tensor([[1, 0], [0, 1]])
    found = circuit.log_prob(x)
    assert found[0] == -torch.inf and found[1] > -torch.inf
    (alone,) = [circuit.log_prob(x[1:])]
    parameters = list(circuit.parameters())
    together = torch.autograd.grad(found.sum(), parameters)
    assert_same(together, torch.autograd.grad(alone.sum(), parameters))


def test_rows_that_underflow_are_right() -> None:
    circuit = pc.HMM(num_states=2, num_categories=2, length=60, seed=0)
    emission, transition = circuit.group("emission"), circuit.group("transition")
    emission.set_parameters({"logits": torch.tensor([[[0.0, -60.0], [-60.0, 0.0]]])})
    transition.set_probabilities(torch.tensor([[[1.0, 1e-30], [1e-30, 1.0]]]))
    x = torch.arange(60).remainder(2).unsqueeze(0)
    double = pc.HMM(num_states=2, num_categories=2, length=60, seed=0).double()
    double.load_state_dict({name: value.double() for name, value in circuit.state_dict().items()})
    expected = gradients(recorded(double, pc.Evidence(x)), double)
    for one, other in zip(gradients(circuit.log_prob(x), circuit), expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_a_graph_may_be_gone_through_twice_and_differentiated() -> None:
    circuit = circuit_of("tucker", pc.Categorical(2), seed=0).double()
    evidence = evidence_of("missing", circuit)
    found = circuit.condition(evidence).log_evidence
    assert_same(gradients(found, circuit, retain_graph=True), gradients(found, circuit, retain_graph=True))
    second = [
        torch.autograd.grad(sum(g.square().sum() for g in gradients(value, circuit, create_graph=True)), p)
        for value in (found, recorded(circuit, evidence))
        for p in [list(circuit.parameters())]
    ]
    assert_same(*second)


def test_transforms_of_functions_find_the_same() -> None:
    circuit = circuit_of("cp", pc.Categorical(2), seed=0).double()
    x = circuit.sample(BATCH, generator=torch.Generator().manual_seed(0))
    parameters = dict(circuit.named_parameters())
    found = torch.func.grad(lambda p: torch.func.functional_call(circuit, p, (x,)).sum())(parameters)
    expected = torch.autograd.grad(circuit.log_prob(x).sum(), list(parameters.values()))
    assert_same(tuple(found.values()), expected)


def test_parameters_that_need_none_get_none() -> None:
    circuit = circuit_of("cp", pc.Categorical(2), seed=0)
    first, *others = circuit.parameters()
    first.requires_grad_(False)
    circuit.log_prob(circuit.sample(BATCH)).sum().backward()
    assert first.grad is None and all(p.grad is not None for p in others)


def test_other_queries_of_the_same_posterior_are_differentiable() -> None:
    circuit = circuit_of("cp", pc.Categorical(2), seed=0).double()
    posterior = circuit.condition(evidence_of("missing", circuit))
    first = next(iter(circuit.parameters()))
    with torch.no_grad():
        assert not posterior.log_evidence.isinf().any()
    (gradient,) = torch.autograd.grad(posterior.marginals()[:, :, 0].square().sum(), first)
    assert gradient.abs().max() > 0


def test_it_is_used_where_counts_are_gradients_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = count_gradients.log_evidence
    monkeypatch.setattr("pcircuits.posterior.log_evidence", lambda *a: asked.append(a) or original(*a))
    discrete, gaussian = circuit_of("cp", pc.Categorical(2), seed=0), circuit_of("cp", pc.Gaussian(), seed=0)
    latent = torch.zeros(1, 6, 3, requires_grad=True)
    x = torch.zeros(1, 6, dtype=torch.long)
    for circuit, evidence in [(gaussian, pc.Evidence(x.double())), (discrete, pc.Evidence(x, latent=latent))]:
        circuit.condition(evidence).log_evidence.sum().backward()
    with torch.no_grad():
        discrete.log_prob(x)
    assert not asked
    discrete.log_prob(x).sum().backward()
    assert len(asked) == 1


def test_counts_and_scores_of_one_group_add_up() -> None:
    family, generator = pc.Categorical(4), torch.Generator().manual_seed(0)
    parameters = family.initialise(2, 3, generator)
    counts, other = (torch.rand(2, 3, 4, generator=generator) for _ in range(2))
    prepared = family.prepare(parameters, None)

    def gradient(**statistics: torch.Tensor) -> torch.Tensor:
        return family.gradient(parameters, prepared, statistics, None)["logits"]

    scores = gradient(counts=other)
    assert torch.equal(gradient(scores=scores), scores)
    torch.testing.assert_close(gradient(counts=counts, scores=scores), gradient(counts=counts + other))
