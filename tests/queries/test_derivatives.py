"""Derivative circuits of any order, of plain, signed and complex circuits, are those of autograd; derivatives by
indicators are values under evidence.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import structures, testing

FAMILIES = {"gaussian": pc.Gaussian(), "monomial": pc.Monomial(-1.0, 2.0)}
KINDS = ("plain", "signed", "complex", "square", "complex square", "product", "mixture")


def example(kind: str, inputs: str, layer: str = "cp", seed: int = 0) -> pc.Circuit:
    graph, families = structures.binary_tree(3), [FAMILIES[inputs], pc.Categorical(2), FAMILIES[inputs]]
    options = {"num_units": 4, "layer": layer}
    if kind in ("plain", "mixture", "product"):
        a, b = (pc.Circuit(graph, families, seed=seed + n, dtype=torch.float64, **options) for n in (0, 1))
        return {"plain": a, "mixture": pc.mixture([a, b], [1.0, 2.0]), "product": pc.multiply(a, b)}[kind]
    dtype = torch.complex128 if "complex" in kind else torch.float64
    signed = pc.SignedCircuit(graph, families, seed=seed, dtype=dtype, **options)
    return pc.square(signed) if "square" in kind else signed


def points(n: int = 5, seed: int = 0) -> torch.Tensor:
    x = 0.1 + 1.5 * torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[:, 1] = (torch.arange(n) % 2).double()
    return x


def value_of(circuit: pc.Circuit, x: torch.Tensor) -> torch.Tensor:
    """What the circuit computes at x."""
    if hasattr(circuit, "value"):
        found = circuit.value(x)
        return found.sign * found.log_abs.exp()
    return circuit.log_prob(x).exp() * circuit.log_partition().exp()


def by_autograd(circuit: pc.Circuit, x: torch.Tensor, variables: list[int]) -> torch.Tensor:
    x = x.clone().requires_grad_()
    found = value_of(circuit, x)
    parts = [found.real, found.imag] if found.is_complex() else [found]
    for variable in variables:
        parts = [torch.autograd.grad(part.sum(), x, create_graph=True)[0][:, variable] for part in parts]
    return (torch.complex(*parts) if found.is_complex() else parts[0]).detach()


@settings(max_examples=40)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(list(FAMILIES)),
    st.sampled_from(testing.LAYERS),
    st.lists(st.sampled_from([0, 2]), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_derivatives_of_any_order_are_autograds(
    kind: str, inputs: str, layer: str, variables: list[int], seed: int
) -> None:
    circuit, x = example(kind, inputs, layer, seed), points(seed=seed)
    found = circuit
    for variable in variables:
        found = pc.differentiate(found, variable)
    want = by_autograd(circuit, x, variables)
    assert torch.allclose(value_of(found, x).detach(), want, rtol=1e-8, atol=1e-9 * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize("inputs", FAMILIES)
def test_an_order_is_so_many_derivatives(inputs: str) -> None:
    circuit, x = example("signed", inputs), points()
    third = pc.differentiate(circuit, 2, order=3)
    assert torch.allclose(value_of(third, x), by_autograd(circuit, x, [2, 2, 2]), rtol=1e-9)
    mixed = [pc.differentiate(pc.differentiate(circuit, a), b) for a, b in ((0, 2), (2, 0))]
    assert torch.allclose(value_of(mixed[0], x), value_of(mixed[1], x), rtol=1e-10)
    for order in (0, -1):
        with pytest.raises(pc.ParameterError, match="`order` must be a positive integer"):
            pc.differentiate(circuit, 2, order=order)
    with pytest.raises(pc.StructureError, match="Gaussian and Monomial"):
        pc.differentiate(circuit, 1)


def test_monomials_of_lower_degree_vanish() -> None:
    circuit, x = example("signed", "monomial"), points()
    assert value_of(pc.differentiate(circuit, 0, order=3), x).abs().min() > 0
    assert (value_of(pc.differentiate(circuit, 0, order=4), x) == 0).all()
    assert (value_of(pc.differentiate(circuit, 0, order=5), x) == 0).all()


@pytest.mark.parametrize("kind", ["plain", "complex"])
@pytest.mark.parametrize("inputs", FAMILIES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_integrals_of_derivatives_are_differences_at_the_ends(kind: str, inputs: str, order: int) -> None:
    circuit, x = example(kind, inputs), points()
    ends, observed = torch.tensor([0.2, 1.4], dtype=torch.float64), torch.arange(3).expand(5, 3) > 0
    lower = circuit if order == 1 else pc.differentiate(circuit, 0, order=order - 1)
    at = [value_of(lower, torch.cat([end.expand(5, 1), x[:, 1:]], 1)) for end in ends]
    derivative = pc.differentiate(circuit, 0, order=order)
    found = derivative.value_under(pc.Evidence(x, observed=observed, interval=(float(ends[0]), float(ends[1]))))
    assert torch.allclose(found.sign * found.log_abs.exp(), at[1] - at[0], atol=1e-10)
    free = derivative.value_under(pc.Evidence(x, observed=observed))
    if inputs == "gaussian":
        assert free.log_abs.isneginf().all()
        half = derivative.value_under(pc.Evidence(x, observed=observed, interval=(float(ends[0]), float("inf"))))
        assert torch.allclose(half.sign * half.log_abs.exp(), -at[0], atol=1e-10)
    else:
        low, high = (value_of(lower, torch.cat([torch.full((5, 1), e), x[:, 1:]], 1)) for e in FAMILIES[inputs].domain)
        assert torch.allclose(free.sign * free.log_abs.exp(), high - low, atol=1e-10)


@pytest.mark.parametrize("inputs", FAMILIES)
def test_tied_inputs_are_differentiated_one_by_one(inputs: str) -> None:
    graph = structures.chain(3)
    ties = {n: "shared" for n, region in enumerate(graph.regions) if region.is_input}
    circuit = pc.Circuit(graph, FAMILIES[inputs], num_units=3, seed=0, dtype=torch.float64, input_ties=ties)
    found = pc.differentiate(pc.differentiate(circuit, 1), 2)
    assert torch.allclose(value_of(found, points()), by_autograd(circuit, points(), [1, 2]), rtol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "complex"])
def test_derivatives_by_indicators_are_values_under_evidence(kind: str) -> None:
    """By weights w of the values of a variable: `d c(e, w) / d w_v` is c under e with the variable observed to be v."""
    inputs = [pc.Categorical(3)] * 3
    options = {"num_units": 2, "seed": 0}
    plain = pc.Circuit(structures.chain(3), inputs, dtype=torch.float64, **options)
    circuit = plain if kind == "plain" else pc.SignedCircuit(plain.graph, inputs, dtype=torch.complex128, **options)
    observed, x = torch.tensor([[True, False, True]]), torch.tensor([[2, 0, 1]])
    log_weights = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)

    def value_under(evidence: pc.Evidence) -> torch.Tensor:
        if kind == "plain":
            return circuit.condition(evidence).log_evidence.exp()
        found = circuit.value_under(evidence)
        return found.sign * found.log_abs.exp()

    weighted = value_under(pc.Evidence(x, observed=observed, log_weights=log_weights.expand(1, 3, 3)))
    parts = [weighted.real, weighted.imag] if kind == "complex" else [weighted]
    slopes = [torch.autograd.grad(part.sum(), log_weights, retain_graph=True)[0] / log_weights.exp() for part in parts]
    for value in range(3):
        point = value_under(pc.Evidence(torch.tensor([[2, value, 1]]))).detach()
        want = [point.real, point.imag] if kind == "complex" else [point]
        assert [s[value].item() for s in slopes] == pytest.approx([w.item() for w in want], abs=1e-12)
    if kind == "plain":
        posterior = circuit.condition(pc.Evidence(x, observed=observed))
        flows = posterior.marginals()[0, 1] * posterior.log_evidence.exp()
        assert torch.allclose(flows, slopes[0], atol=1e-12)
