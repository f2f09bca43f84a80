"""Signed circuits of monomial inputs are polynomials, and their squares densities on a box."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pcircuits as pc
from pcircuits import structures

LOW, HIGH = -1.0, 2.0


def polynomial(dtype: torch.dtype = torch.float64, units: int = 3, seed: int = 0) -> pc.SignedCircuit:
    """`sum_k w_k p_k(x) p_k(y)` with the densities p_k of degree k."""
    inputs = pc.Monomial(LOW, HIGH)
    return pc.SignedCircuit(structures.factorized(2), inputs, num_units=units, layer="cp-t", seed=seed, dtype=dtype)


def by_hand(circuit: pc.SignedCircuit, x: torch.Tensor) -> torch.Tensor:
    weights = next(group.weights for _, group in circuit.named_groups() if hasattr(group, "weights")).flatten().detach()
    degree = torch.arange(len(weights), dtype=torch.float64)
    powers = (degree + 1) / (HIGH - LOW) * ((x.unsqueeze(-1) - LOW) / (HIGH - LOW)) ** degree
    return (weights * powers.prod(1)).sum(-1)


def points(n: int = 40) -> torch.Tensor:
    x = LOW + (HIGH - LOW) * torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cat([x, torch.tensor([[LOW, LOW], [HIGH, HIGH], [LOW, HIGH]], dtype=torch.float64)])


def table(circuit: pc.Circuit, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return circuit.log_prob(torch.cartesian_prod(x, y)).exp().view(len(x), len(y))


def legendre(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights that integrate polynomials of degree 23 exactly."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(12))
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_values_and_integrals_are_those_of_the_polynomial(dtype: torch.dtype) -> None:
    c, x = polynomial(dtype), points()
    found = c.requires_grad_(False).value(x)
    assert torch.allclose(found.sign * found.log_abs.exp(), by_hand(c, x), atol=1e-12)
    (a, wa), (b, wb) = legendre(LOW, HIGH), legendre(-0.5, 1.5)
    values = by_hand(c, torch.cartesian_prod(a, b)).view(len(a), len(b))
    exact = wa.to(dtype) @ values @ wb.to(dtype)
    ends = torch.tensor([[[-math.inf, math.inf], [-0.5, 1.5]]], dtype=torch.float64)
    total = c.value_under(pc.Evidence(torch.zeros(1, 2, dtype=torch.float64), interval=ends))
    assert (total.sign * total.log_abs.exp()).item() == pytest.approx(exact.item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_squares_are_densities_on_the_box(dtype: torch.dtype) -> None:
    c, x = polynomial(dtype, units=4, seed=1), points()
    square, (nodes, weights) = pc.square(c).requires_grad_(False), legendre(LOW, HIGH)
    density = table(square, nodes, nodes)
    assert (weights @ density @ weights).item() == pytest.approx(1.0, abs=1e-12)
    squares = by_hand(c, x).abs().square()
    ratio = square.log_prob(x).exp() / squares
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-9)
    first = density @ weights
    for order in (1, 2):
        found = square.condition(pc.Evidence.nothing(1, 2)).moment(order)[0, 0]
        assert found.item() == pytest.approx((weights @ (nodes**order * first)).item(), abs=1e-10)


@pytest.mark.parametrize("ends", [(LOW, HIGH), (-0.4, 0.9)])
def test_samples_of_squares_follow_their_distribution_functions(ends: tuple[float, float]) -> None:
    square = pc.square(polynomial(units=4, seed=1)).requires_grad_(False)
    x, observed = torch.tensor([[0.0, 0.7]], dtype=torch.float64), torch.tensor([[False, True]])
    posterior = square.condition(pc.Evidence(x, observed=observed, interval=ends))
    nodes, weights = legendre(*ends)
    whole = weights @ table(square, nodes, x[0, 1:])
    assert posterior.log_evidence.item() == pytest.approx(whole.log().item(), abs=1e-9)

    def below(value: float) -> float:
        inner, widths = legendre(ends[0], value)
        return (widths @ table(square, inner, x[0, 1:]) / whole).item()

    drawn = posterior.sample(600, generator=torch.Generator().manual_seed(0))[:, 0]
    assert (drawn[:, 1] == 0.7).all() and drawn[:, 0].min() >= ends[0] and drawn[:, 0].max() <= ends[1]
    assert stats.kstest(sorted(map(below, drawn[:, 0].tolist())), "uniform").pvalue > 1e-3


def test_products_mixtures_and_conditionals_of_plain_monomials() -> None:
    a, b = (
        pc.Circuit(structures.factorized(2), pc.Monomial(LOW, HIGH), num_units=3, seed=n, dtype=torch.float64)
        for n in (0, 1)
    )
    product, (nodes, weights), x = pc.multiply(a, b).requires_grad_(False), legendre(LOW, HIGH), points()
    both = table(a, nodes, nodes) * table(b, nodes, nodes)
    total = weights @ both @ weights
    assert product.log_partition().exp().item() == pytest.approx(total.item(), rel=1e-12)
    assert torch.allclose(table(product, nodes, nodes), both / total, rtol=1e-10)
    conditional, marginal = pc.condition(product, {0: 0.3}), pc.marginalize(product, [1])
    given = table(product, torch.tensor([0.3], dtype=torch.float64), nodes)[0]
    assert torch.allclose(conditional.log_prob(nodes.unsqueeze(1)).exp(), given / (given @ weights), rtol=1e-10)
    assert torch.allclose(marginal.log_prob(nodes.unsqueeze(1)).exp(), weights @ both / total, rtol=1e-10)
    mixed = pc.mixture([pc.square(polynomial()), a], [1.0, 2.0])
    want = (pc.square(polynomial()).log_prob(x).exp() + 2 * a.log_prob(x).exp()) / 3
    assert torch.allclose(mixed.log_prob(x).exp(), want, rtol=1e-10)
    with pytest.raises(pc.StructureError, match="no closed form"):
        pc.multiply(a, pc.Circuit(structures.factorized(2), pc.Monomial(), num_units=3, seed=0))


def test_gradients_shape_a_density_with_a_hole() -> None:
    c = pc.SignedCircuit(structures.factorized(1), pc.Monomial(), num_units=3, seed=0)
    square, data = pc.square(c), torch.cat([torch.linspace(0, 0.2, 50), torch.linspace(0.8, 1, 50)]).double()[:, None]
    before = square.log_prob(data).mean().item()
    pc.fit(square, data, learner=pc.Adam(0.05), epochs=100, progress=False)
    assert square.log_prob(data).mean().item() > max(before, 0.3)
    assert square.log_prob(torch.tensor([[0.5]], dtype=torch.float64)).item() < -1.0


def test_high_degrees_and_the_ends_of_the_interval_have_no_nan() -> None:
    circuit = pc.Circuit(structures.factorized(1), pc.Monomial(), num_units=200, seed=0)
    x = torch.tensor([[0.0], [1e-30], [0.5], [1.0]], requires_grad=True)
    log_prob = circuit.log_prob(x)
    (slope,) = torch.autograd.grad(log_prob.sum(), x)
    assert log_prob.isfinite().all() and slope.isfinite().all()
    ends = pc.Evidence(torch.zeros(3, 1), interval=torch.tensor([[[0.0, 1e-9]], [[0.2, 0.2]], [[1 - 1e-6, 1.0]]]))
    assert circuit.condition(ends).log_evidence.exp()[1] == 0 and not circuit.condition(ends).log_evidence.isnan().any()
