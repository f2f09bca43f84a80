"""Signed and complex circuits and their squares: exact values, samples by conditionals, training, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing
from pcircuits.testing.enumeration import Enumeration

REAL_AND_COMPLEX = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])


def signed_circuit(
    structure: str = "binary_tree",
    layer: str = "cp",
    kind: str = "categorical",
    variables: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> pc.SignedCircuit:
    plain = testing.example_circuit(structure, layer, kind, num_variables=variables, num_units=2, seed=seed)
    return pc.SignedCircuit(plain.graph, plain.inputs, num_units=plain.num_units, layer=layer, seed=seed, dtype=dtype)


@st.composite
def signed_circuits(draw) -> pc.SignedCircuit:
    structure = draw(st.sampled_from(["binary_tree", "chain", "hclt", "factorized"]))
    kind = draw(st.sampled_from(["categorical", "bernoulli"]))
    return signed_circuit(
        structure,
        draw(st.sampled_from(testing.LAYERS)),
        kind,
        draw(st.integers(1, 4)),
        draw(st.integers(0, 999)),
        draw(st.sampled_from([torch.float64, torch.complex128])),
    )


def values(circuit: pc.SignedCircuit) -> torch.Tensor:
    found = circuit.value(testing.worlds(circuit))
    return (found.sign * found.log_abs.exp()).detach()


def by_hand(circuit: pc.SignedCircuit, x: torch.Tensor) -> torch.Tensor:
    """The circuit block by block in plain arithmetic: no plan levels, no scales."""
    plan, prepared, found = circuit.plan, circuit.prepared(), []
    for block, place in zip(plan.blocks, plan.places, strict=True):
        if block.kind == "input":
            group, row = place
            found.append(prepared[group].log.exp()[row].mT[x[:, block.variables[0]]].to(circuit.dtype))
            continue
        children = [found[c] for c in block.children]
        weights = None if place is None else prepared[place[0]].linear[place[1]].to(circuit.dtype)
        if block.kind == "kronecker":
            product = torch.einsum("bi,bj->bij", *children).flatten(1)
        else:
            product = math.prod(children[1:], start=children[0])
        found.append(product if weights is None else product @ weights.mT)
    return found[-1].squeeze(-1).detach()


@settings(max_examples=25)
@given(signed_circuits())
def test_a_signed_circuit_is_its_plain_arithmetic_and_its_square_is_the_pointwise_square(c: pc.SignedCircuit) -> None:
    worlds, plain = testing.worlds(c), by_hand(c, testing.worlds(c))
    assert torch.allclose(values(c), plain, atol=1e-10, rtol=1e-9)
    total = c.value_under(pc.Evidence.nothing(1, c.num_variables))
    assert (total.sign * total.log_abs.exp()).item() == pytest.approx(plain.sum().item(), abs=1e-9)
    square, squares = pc.square(c), plain.abs().square()
    want = squares / squares.sum()
    assert square.dtype == torch.float64 and square.log_partition().dtype == torch.float64
    assert math.isclose(square.log_partition().exp().item(), squares.sum().item(), rel_tol=1e-9)
    assert torch.allclose(square.log_prob(worlds).exp(), want, atol=1e-10)
    assert torch.allclose(square.condition(pc.Evidence(worlds)).log_evidence.exp(), want, atol=1e-10)


@settings(max_examples=25)
@given(signed_circuits(), st.data())
def test_posteriors_of_squares_equal_enumeration(c: pc.SignedCircuit, data) -> None:
    square, worlds = pc.square(c), testing.worlds(c)
    evidence = data.draw(testing.evidences(square, kinds=["missing", "hard", "soft", "mixed", "interval"]))
    joint = Enumeration._log_weights(_WorldsOf(square, evidence), worlds) + square.log_prob(worlds).detach()
    posterior = square.condition(evidence)
    assert torch.allclose(posterior.log_evidence.exp(), joint.logsumexp(-1).exp(), atol=1e-9)
    rows = joint.logsumexp(-1) > -12
    if not rows.any():
        return
    posterior, p = square.condition(evidence.rows(rows)), joint[rows].softmax(-1)
    marginals = posterior.marginals()
    for variable in range(c.num_variables):
        one_hot = torch.nn.functional.one_hot(worlds[:, variable], c.inputs[variable].num_categories).double()
        assert torch.allclose(marginals[:, variable], p @ one_hot, atol=1e-8)
    assert torch.allclose(posterior.moment(2), p @ worlds.double() ** 2, atol=1e-7)


class _WorldsOf:
    """What the oracle's weights of worlds are worked out from."""

    def __init__(self, circuit: pc.Circuit, evidence: pc.Evidence) -> None:
        self.circuit, self.evidence, self.edges = circuit, evidence, {}


@REAL_AND_COMPLEX
def test_samples_of_squares_fit_the_exact_distribution(dtype: torch.dtype) -> None:
    square = pc.square(signed_circuit("chain", "cp-t", "categorical", 3, seed=5, dtype=dtype))
    worlds = testing.worlds(square)
    observed = torch.tensor([[False, False, False], [False, True, False]])
    evidence = pc.Evidence(torch.ones(2, 3, dtype=torch.long), observed=observed)
    posterior = square.condition(evidence)
    x = posterior.sample(3000, generator=torch.Generator().manual_seed(0))
    assert x.shape == (3000, 2, 3) and (x[:, 1, 1] == 1).all()
    index = (x * torch.tensor([9, 3, 1])).sum(-1)
    for row in range(2):
        p = posterior.log_prob(worlds.unsqueeze(1).expand(-1, 2, -1)).exp()[:, row].detach()
        counts = torch.bincount(index[:, row], minlength=27).double()
        assert not counts[p < 1e-12].any()
        kept = p * 3000 > 5
        statistic = ((counts - 3000 * p).square() / (3000 * p))[kept].sum()
        assert statistic < kept.sum() + 5 * (2 * kept.sum()).sqrt()
    far = posterior.log_prob(worlds.unsqueeze(1).expand(-1, 2, -1))[:, 0].exp()
    assert (far - 1 / 27).abs().max() > 0.05, "a uniform sampler must not pass"


@REAL_AND_COMPLEX
def test_gaussian_squares_integrate_as_quadrature_and_sample_by_their_distribution_function(dtype: torch.dtype) -> None:
    square = pc.square(signed_circuit("factorized", "cp-t", "gaussian", 2, seed=3, dtype=dtype))
    grid = torch.linspace(-9, 9, 401, dtype=torch.float64)
    with torch.no_grad():
        density = square.log_prob(torch.cartesian_prod(grid, grid)).exp().view(401, 401)
    assert torch.trapezoid(torch.trapezoid(density, grid), grid).item() == pytest.approx(1.0, abs=1e-8)
    first = torch.trapezoid(density, grid)
    mean = torch.trapezoid(first * grid, grid)
    moments = square.marginals()[0]
    assert moments.mean.item() == pytest.approx(mean.item(), abs=1e-7)
    x = square.sample(4000, generator=torch.Generator().manual_seed(0))[:, 0]
    below = torch.cumulative_trapezoid(first, grid)
    for quantile in (0.1, 0.5, 0.9):
        place = grid[1:][below >= quantile][0]
        assert abs((x < place).double().mean() - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / 4000) + 0.01


@pytest.mark.parametrize("ends", [(-0.5, 1.2), (0.3, math.inf), (-math.inf, -2.0), (14.0, 15.0)])
def test_gaussian_squares_within_intervals_are_quadrature(ends: tuple[float, float]) -> None:
    square = pc.square(signed_circuit("factorized", "cp-t", "gaussian", 2, seed=3)).requires_grad_(False)
    grid = torch.linspace(max(ends[0], -11.0), min(ends[1], 11.0 if ends[0] < 11 else 16.0), 40001, dtype=torch.float64)
    density = square.log_prob(torch.stack([grid, torch.full_like(grid, 0.4)], 1)).exp()
    mass = torch.trapezoid(density, grid)
    x, observed = torch.tensor([[0.0, 0.4]], dtype=torch.float64), torch.tensor([[False, True]])
    posterior = square.condition(pc.Evidence(x, observed=observed, interval=ends))
    assert posterior.log_evidence.item() == pytest.approx(mass.log().item(), abs=1e-5)
    for order in (1, 2):
        moment = torch.trapezoid(density * grid**order, grid) / mass
        assert posterior.moment(order)[0, 0].item() == pytest.approx(moment.item(), rel=1e-4)
    drawn = posterior.sample(2000, generator=torch.Generator().manual_seed(0))[:, 0]
    assert ((drawn[:, 0] >= ends[0]) & (drawn[:, 0] <= ends[1])).all() and (drawn[:, 1] == 0.4).all()
    below = torch.cumulative_trapezoid(density, grid) / mass
    for quantile in (0.2, 0.5, 0.8):
        place = grid[1:][below >= quantile][0]
        assert abs((drawn[:, 0] < place).double().mean() - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / 2000)


def test_values_of_signed_circuits_add_up_over_intervals() -> None:
    c, worlds = signed_circuit(variables=2), testing.worlds(signed_circuit(variables=2))
    found = c.value_under(pc.Evidence(worlds[:1], interval=(1, 2)))
    inside = (worlds >= 1).all(1)
    assert (found.sign * found.log_abs.exp()).item() == pytest.approx(values(c)[inside].sum().item(), abs=1e-12)


@REAL_AND_COMPLEX
def test_a_square_learns_by_adam_and_trains_the_signed_circuit(dtype: torch.dtype) -> None:
    c = signed_circuit("binary_tree", "cp", "categorical", 3, seed=1, dtype=dtype)
    square, data = pc.square(c), torch.tensor([[0, 1, 2], [0, 1, 2], [2, 0, 1]] * 4)
    before, weights = square.log_prob(data).mean().item(), next(iter(c.parameters())).clone()
    pc.fit(square, data, learner=pc.Adam(lr=0.05), epochs=30, progress=False)
    assert square.log_prob(data).mean().item() > before + 0.5
    assert not torch.equal(weights, next(iter(c.parameters())))
    assert abs(square.log_prob(testing.worlds(square)).logsumexp(0).item()) < 1e-9


@REAL_AND_COMPLEX
def test_products_of_a_square_with_a_circuit_are_distributions_and_with_a_signed_one_are_not(
    dtype: torch.dtype,
) -> None:
    c, plain = signed_circuit(dtype=dtype), testing.example_circuit(num_variables=3, dtype=torch.float64)
    product, worlds = pc.multiply(pc.square(c), plain), testing.worlds(plain)
    want = values(c).abs().square() * plain.log_prob(worlds).exp().detach()
    assert torch.allclose(product.log_prob(worlds).exp(), want / want.sum(), atol=1e-10)
    posterior = product.condition(pc.Evidence(worlds[:1], observed=torch.tensor([[True, False, False]])))
    first = worlds[:, 0] == 0
    assert posterior.log_evidence.exp().item() == pytest.approx((want[first].sum() / want.sum()).item(), abs=1e-10)
    function = pc.multiply(c, plain)
    found = function.value(worlds)
    assert torch.allclose(found.sign * found.log_abs.exp(), values(c) * plain.log_prob(worlds).exp(), atol=1e-10)
    with pytest.raises(pc.StructureError, match=r"square\(circuit\) is one"):
        function.condition(pc.Evidence(worlds))


def test_conjugates_have_conjugate_values_and_multiply_to_the_squared_modulus() -> None:
    c, d = (signed_circuit("chain", seed=n, dtype=torch.complex128) for n in (0, 1))
    conjugate, worlds = pc.conjugate(c), testing.worlds(c)
    assert torch.allclose(values(conjugate), values(c).conj(), atol=1e-12) and values(c).imag.abs().max() > 0.01
    assert pc.conjugate(conjugate) is c and conjugate.num_parameters == c.num_parameters
    assert pc.conjugate(signed := signed_circuit()) is signed and pc.conjugate(square := pc.square(c)) is square
    assert torch.allclose(values(pc.multiply(c, d)), values(c) * values(d), atol=1e-12)
    for function in (pc.multiply(c, c), pc.multiply(conjugate, conjugate), pc.multiply(conjugate, d)):
        with pytest.raises(pc.StructureError, match="no distribution"):
            function.log_prob(worlds)
    assert torch.allclose(values(pc.multiply(conjugate, conjugate)), values(c).conj().square(), atol=1e-12)
    for product in (pc.multiply(c, conjugate), pc.multiply(conjugate, c), pc.multiply(pc.conjugate(c), c)):
        assert torch.allclose(product.log_prob(worlds), square.log_prob(worlds), atol=1e-12)


def test_the_squared_modulus_is_the_mixture_of_the_squares_of_real_and_imaginary_part() -> None:
    c = signed_circuit("chain", "cp-t", variables=4, dtype=torch.complex128)
    parts = [values(c).real.square(), values(c).imag.square()]
    totals = torch.stack([part.sum() for part in parts])
    mixed = sum(share * part / total for share, part, total in zip(totals / totals.sum(), parts, totals, strict=True))
    assert torch.allclose(pc.square(c).log_prob(testing.worlds(c)).exp(), mixed, atol=1e-12)


def test_gradients_of_a_complex_square_are_finite_differences() -> None:
    c = signed_circuit("chain", "cp-t", variables=2, dtype=torch.complex128)
    square, x = pc.square(c), torch.tensor([[0, 1], [2, 2]])
    group = next(group for _, group in c.named_groups() if hasattr(group, "weights"))
    start = torch.view_as_real(group.weights.detach().clone())
    square.log_prob(x).sum().backward()
    found = torch.view_as_real(group.weights.grad)
    for place in [(0, 0, 0, 0), (0, 0, 1, 1)]:
        either = []
        for step in (1e-6, -1e-6):
            moved = start.clone()
            moved[place] += step
            with torch.no_grad():
                group.weights.copy_(torch.view_as_complex(moved))
                either.append(square.log_prob(x).sum().item())
        assert found[place].item() == pytest.approx((either[0] - either[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_a_complex_circuit_says_what_it_is() -> None:
    c = signed_circuit(dtype=torch.complex64)
    assert c.dtype == torch.complex64 and c.is_complex and not signed_circuit().is_complex
    assert pc.square(c).dtype == torch.float32 and "complex64" in str(c) and "complex: no distribution" in str(c)
    assert pc.square(c).log_prob(testing.worlds(c)).logsumexp(0).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(pc.ParameterError, match=r"torch\.float32 or torch\.float64, got torch\.complex128"):
        testing.example_circuit(dtype=torch.complex128)
    with pytest.raises(pc.ParameterError, match=r"torch\.complex128, got torch\.float16"):
        signed_circuit(dtype=torch.float16)


@REAL_AND_COMPLEX
def test_what_needs_non_negative_weights_is_refused_by_name(dtype: torch.dtype) -> None:
    c = signed_circuit(dtype=dtype)
    square, x = pc.square(c), torch.zeros(1, 3, dtype=torch.long)
    gaussian = signed_circuit("factorized", kind="gaussian", dtype=dtype)
    queries = (lambda: c.log_prob(x), c.sample, c.marginals, c.mpe, lambda: c.statistics(x))
    for query in (*queries, lambda: pc.condition(gaussian, {0: 0.5})):
        with pytest.raises(pc.StructureError, match="may be negative"):
            query()
    posterior = square.condition(pc.Evidence.nothing(1, 3))
    for query in (posterior.mpe, posterior.covariance, posterior.entropy, posterior.rsample):
        with pytest.raises(pc.StructureError, match="signed"):
            query()
    with pytest.raises(pc.StructureError, match="train it with Adam"):
        square.statistics(x)
    for operation in (lambda: pc.marginalize(square, [0]), lambda: pc.kl_divergence(square, square)):
        with pytest.raises(pc.StructureError, match="non-negative weights"):
            operation()
    with pytest.raises(pc.StructureError, match="a mixture needs distributions"):
        pc.mixture([c])
    with pytest.raises(pc.StructureError, match="inner products are of distributions"):
        pc.inner_product(c, c)
    with pytest.raises(pc.StructureError, match="temperatures"):
        posterior.sample(temperature=0.5)
    assert not pc.check(c).normalised


@pytest.mark.parametrize("layer", testing.LAYERS)
def test_the_derivative_circuit_is_autograd(layer: str) -> None:
    circuit = testing.example_circuit("binary_tree", layer, "mixed", seed=2, dtype=torch.float64)
    x = testing.example_evidence(circuit, "observed", seed=1).values.clone().requires_grad_()
    (want,) = torch.autograd.grad(circuit.log_prob(x).exp().sum(), x)
    derivative = pc.differentiate(circuit, 1)
    found = derivative.value(x.detach())
    assert torch.allclose(found.sign * found.log_abs.exp(), want[:, 1], atol=1e-12)
    nothing = derivative.value_under(pc.Evidence.nothing(1, 4))
    assert nothing.log_abs.isneginf().all()
    with pytest.raises(pc.StructureError, match="Gaussian"):
        pc.differentiate(circuit, 0)
    with pytest.raises(pc.ShapeError, match="variables are"):
        pc.differentiate(circuit, 9)
