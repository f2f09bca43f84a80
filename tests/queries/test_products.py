"""Products of circuits equal pointwise products; inner products, distances and divergences equal their sums."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing
from pcircuits.testing.enumeration import Enumeration

EXACT = [torch.float64]
TREES = ["chain", "binary_tree", "chow_liu", "hclt", "factorized", "hmm"]


def shaken(circuit: pc.Circuit, seed: int) -> pc.Circuit:
    """The circuit with other parameters, its zeros kept."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in circuit.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter))
    return circuit


@st.composite
def factors(draw, *, number: int = 2, inputs=("categorical", "bernoulli")) -> list[pc.Circuit]:
    """Circuits over the same structure, with numbers of units and parameters of their own."""
    structure, layer = draw(st.sampled_from(TREES)), draw(st.sampled_from(testing.LAYERS))
    kind = "categorical" if structure == "chow_liu" else draw(st.sampled_from(inputs))
    variables, seed = draw(st.integers(1, 4)), draw(st.integers(0, 999))
    return [
        shaken(
            testing.example_circuit(
                structure,
                layer,
                kind,
                weights=draw(st.sampled_from(testing.WEIGHTS)),
                num_variables=variables,
                num_units=draw(st.integers(1, 3 if number == 2 else 2)),
                seed=seed,
                dtype=torch.float64,
            ),
            n,
        )
        for n in range(number)
    ]


def log_table(circuit: pc.Circuit) -> torch.Tensor:
    with torch.no_grad():
        return circuit.log_prob(testing.worlds(circuit))


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-9) -> bool:
    same = got.isneginf() == want.isneginf()
    return bool(same.all() and torch.allclose(got.exp(), want.exp(), atol=tolerance) and not got.isnan().any())


@settings(max_examples=20)
@given(factors(), st.data())
def test_a_product_is_the_pointwise_product_and_answers_all_queries(circuits: list[pc.Circuit], data) -> None:
    a, b = circuits
    product = pc.multiply(a, b)
    worlds, want = testing.worlds(a), log_table(a) + log_table(b)
    total = want.logsumexp(0)
    assert math.isclose(product.log_partition().item(), total.item(), abs_tol=1e-9) or total.isneginf()
    if total.isneginf():
        return
    assert close(product.log_prob(worlds), want - total)
    assert close(product.condition(pc.Evidence(worlds)).log_evidence, want - total)
    evidence = data.draw(testing.evidences(a, kinds=["missing", "hard", "soft", "mixed"]))
    joint = Enumeration(a, evidence)._log_weights(worlds) + want - total
    posterior = product.condition(evidence)
    assert close(posterior.log_evidence, joint.logsumexp(-1))
    possible = ~joint.logsumexp(-1).isneginf()
    if not possible.any():
        return
    posterior, p = product.condition(evidence.rows(possible)), joint[possible].softmax(-1)
    for variable in range(a.num_variables):
        one_hot = torch.nn.functional.one_hot(worlds[:, variable]).double()
        assert torch.allclose(posterior.marginals()[:, variable], p @ one_hot, atol=1e-9)
    best = posterior.mpe()
    assert best.exact.all() and torch.allclose(best.log_prob, p.amax(-1).log(), atol=1e-9)
    x = posterior.sample(5, generator=torch.Generator().manual_seed(0))
    assert not posterior.log_prob(x).isneginf().any()


@settings(max_examples=10)
@given(st.sampled_from([3, 4]).flatmap(lambda n: factors(number=n)))
def test_three_and_four_factors(circuits: list[pc.Circuit]) -> None:
    product, want = pc.multiply(*circuits), sum(log_table(c) for c in circuits)
    if want.logsumexp(0).isneginf():
        return
    got = product.condition(pc.Evidence(testing.worlds(circuits[0]))).log_evidence
    assert close(got, want - want.logsumexp(0))
    assert close(product.log_prob(testing.worlds(circuits[0])), want - want.logsumexp(0))


@settings(max_examples=12)
@given(factors())
def test_inner_products_distances_and_divergences_are_their_sums(circuits: list[pc.Circuit]) -> None:
    a, b = circuits
    p, q = log_table(a).exp(), log_table(b).exp()
    inner = (p * q).sum()
    assert torch.allclose(pc.inner_product(a, b), inner, atol=1e-12)
    assert torch.allclose(pc.l2_distance(a, b), (p - q).square().sum().sqrt(), atol=1e-7)
    assert pc.l2_distance(a, a) <= 1e-7
    want = -(inner / (p.square().sum() * q.square().sum()).sqrt()).log()
    assert torch.allclose(pc.cauchy_schwarz_divergence(a, b), want, atol=1e-9)
    assert pc.cauchy_schwarz_divergence(a, a) <= 1e-12


@pytest.mark.parametrize("layer", testing.LAYERS)
def test_products_of_gaussian_circuits_integrate_as_quadrature(layer: str) -> None:
    a, b = (
        shaken(testing.example_circuit("binary_tree", layer, "gaussian", num_variables=2, dtype=torch.float64), n)
        for n in range(2)
    )
    grid = torch.linspace(-12, 12, 301, dtype=torch.float64)
    with torch.no_grad():
        table = (a.log_prob(torch.cartesian_prod(grid, grid)) + b.log_prob(torch.cartesian_prod(grid, grid))).exp()
    density = table.view(301, 301)
    total = torch.trapezoid(torch.trapezoid(density, grid), grid)
    product = pc.multiply(a, b)
    assert math.isclose(product.log_partition().exp().item(), total.item(), rel_tol=1e-9)
    first = torch.trapezoid(density, grid) / total
    mean = torch.trapezoid(first * grid, grid)
    moments = product.marginals()[0]
    assert math.isclose(moments.mean.item(), mean.item(), abs_tol=1e-9)
    variance = torch.trapezoid(first * (grid - mean).square(), grid)
    assert math.isclose(moments.variance.item(), variance.item(), abs_tol=1e-9)
    x = product.sample(5_000, generator=torch.Generator().manual_seed(0))
    assert abs(x[:, 0].mean() - mean) < 5 * (variance / 5_000).sqrt()


def test_products_of_gaussian_circuits_far_from_zero_lose_no_digits() -> None:
    """In single precision, where squares of the means have rounding errors of several nats."""
    far = pc.Gaussian(loc=1000.0, scale=0.1)
    circuits = [pc.Circuit(pc.structures.binary_tree(2), far, num_units=2, seed=n) for n in range(2)]
    exact = [copy.deepcopy(circuit).double() for circuit in circuits]
    product, wanted, x = pc.multiply(*circuits), pc.multiply(*exact), circuits[0].sample(5)
    assert torch.allclose(product.log_partition(), wanted.log_partition(), atol=1e-5)
    assert torch.allclose(product.log_prob(x), wanted.log_prob(x.double()), atol=1e-5)
    slopes = [pc.differentiate(of, 0).value(x.to(of.dtype)) for of in (circuits[0], exact[0], product, wanted)]
    for single, double in (slopes[:2], slopes[2:]):
        assert torch.allclose(single.log_abs, double.log_abs, atol=1e-3) and torch.equal(single.sign, double.sign)


def test_products_of_gaussian_circuits_know_intervals() -> None:
    a, b = (testing.example_circuit(inputs="gaussian", num_variables=1, seed=n, dtype=torch.float64) for n in range(2))
    product, grid = pc.multiply(a, b).requires_grad_(False), torch.linspace(-0.5, 1.0, 20_001, dtype=torch.float64)
    density = product.log_prob(grid.unsqueeze(1)).exp()
    posterior = product.condition(pc.Evidence(torch.zeros(1, 1, dtype=torch.float64), interval=(-0.5, 1.0)))
    mass, first = torch.trapezoid(density, grid), torch.trapezoid(density * grid, grid)
    assert posterior.log_evidence.item() == pytest.approx(mass.log().item(), abs=1e-8)
    assert posterior.moment(1).item() == pytest.approx((first / mass).item(), abs=1e-8)
    drawn = posterior.sample(2000, generator=torch.Generator().manual_seed(0)).flatten()
    assert drawn.min() >= -0.5 and drawn.max() <= 1.0
    assert abs(drawn.mean() - first / mass) < 5 * drawn.std() / 2000**0.5


def test_circuits_that_split_finer_are_compatible() -> None:
    fine = testing.example_circuit("factorized", "cp-t", num_variables=4, dtype=torch.float64)
    coarse = testing.example_circuit("binary_tree", "cp", num_variables=4, dtype=torch.float64)
    for pair in ((fine, coarse), (coarse, fine)):
        want = log_table(fine) + log_table(coarse)
        assert close(pc.multiply(*pair).log_prob(testing.worlds(fine)), want - want.logsumexp(0))
        got = pc.multiply(*pair).condition(pc.Evidence(testing.worlds(fine))).log_evidence
        assert close(got, want - want.logsumexp(0))


def test_what_is_not_compatible_is_refused_with_the_reason() -> None:
    tree = testing.example_circuit("binary_tree", "cp")
    chain = testing.example_circuit("chain", "cp", num_variables=4)
    rat = testing.example_circuit("rat", "cp", num_variables=6)
    mixed = testing.example_circuit("binary_tree", "cp", "gaussian")
    assert pc.check_compatible(tree, tree) == pc.Compatibility(True, None)
    for pair in ((tree, chain), (rat, rat)):
        found = pc.check_compatible(*pair)
        assert not found and "not compatible: one has a product over the variables" in found.reason
        with pytest.raises(pc.StructureError, match="not compatible"):
            pc.multiply(*pair)
    with pytest.raises(pc.StructureError, match="no closed form"):
        pc.multiply(tree, mixed)
    with pytest.raises(pc.StructureError, match="the same variables"):
        pc.multiply(tree, testing.example_circuit("binary_tree", "cp", num_variables=3))
    with pytest.raises(pc.StructureError, match="two to four"):
        pc.multiply(tree, tree, tree, tree, tree)
    tucker = testing.example_circuit("binary_tree", "tucker")
    with pytest.raises(pc.StructureError, match="do not multiply"):
        pc.multiply(tree, tucker)


def test_a_product_trains_its_factors_and_refuses_em() -> None:
    a, b = (testing.example_circuit("hmm", "cp-t", num_variables=3, seed=n, dtype=torch.float64) for n in (1, 2))
    product = pc.multiply(a, b)
    assert product.num_parameters == a.num_parameters + b.num_parameters
    data = torch.tensor([[0, 1, 2], [0, 1, 1], [2, 2, 2]] * 4)
    before = product.log_prob(data).mean().item(), a.log_prob(data).mean().item()
    posterior = product.condition(pc.Evidence.nothing(1, 3))
    pc.fit(product, data, learner=pc.Adam(lr=0.05), epochs=15, progress=False)
    assert product.log_prob(data).mean().item() > before[0] + 0.5
    assert a.log_prob(data).mean().item() != before[1]
    assert abs(log_table(product).logsumexp(0).item()) < 1e-9
    with pytest.raises(pc.StaleError):
        posterior.marginals()
    with pytest.raises(pc.StructureError, match="train it with Adam"):
        product.statistics(data)
    with pytest.raises(pc.StructureError, match="derived circuit"):
        product.condition(pc.Evidence(data, latent=torch.zeros(12, 3, 3)))


def test_gradients_of_a_product_are_finite_differences() -> None:
    a, b = (testing.example_circuit("binary_tree", "cp", num_variables=2, seed=n, dtype=torch.float64) for n in (1, 2))
    product, x = pc.multiply(a, b), torch.tensor([[0, 1]])
    parameter = next(iter(a.parameters()))
    product.log_prob(x).sum().backward()
    index, step = (0,) * parameter.ndim, 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[index] += sign * step
            values.append(product.condition(pc.Evidence(x)).log_evidence.item())
            parameter[index] -= sign * step
    assert parameter.grad[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)


@settings(max_examples=15)
@given(st.integers(0, 999), st.integers(1, 4), st.sampled_from(["chow_liu", "factorized"]), st.booleans())
def test_cross_entropy_and_kl_divergence_are_their_sums(seed: int, variables: int, structure: str, zeros: bool) -> None:
    units = 3 if structure == "chow_liu" else 1
    a, b = (
        shaken(
            testing.example_circuit(
                structure,
                "cp-t",
                weights="sparse" if zeros and n == 0 else "dense",
                num_variables=variables,
                num_units=units,
                seed=seed,
                dtype=torch.float64,
            ),
            n,
        )
        for n in range(2)
    )
    p, log_q = log_table(a).exp(), log_table(b)
    crossed = -torch.where(p > 0, p * log_q, 0.0).sum()
    own = -torch.where(p > 0, p * p.log(), 0.0).sum()
    assert torch.allclose(pc.cross_entropy(a, b), crossed, atol=1e-9)
    assert torch.allclose(pc.kl_divergence(a, b), crossed - own, atol=1e-9)
    assert pc.kl_divergence(a, a) <= 1e-9
    q, log_p = log_q.exp(), log_table(a)
    if bool(((log_p.isneginf()) & (q > 1e-9)).any()):
        assert pc.cross_entropy(b, a).isposinf() and pc.kl_divergence(b, a).isposinf()


def test_gaussian_cross_entropy_is_the_closed_form() -> None:
    a, b = (
        pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=1, seed=n, dtype=torch.float64) for n in (0, 1)
    )
    normals = [
        [
            torch.distributions.Normal(c.prepared()["input_0"].mean[v, 0], c.prepared()["input_0"].std[v, 0])
            for v in (0, 1)
        ]
        for c in (a, b)
    ]
    want = sum(torch.distributions.kl_divergence(p, q) for p, q in zip(*normals, strict=True))
    assert pc.kl_divergence(a, b).item() == pytest.approx(want.item(), abs=1e-9)


def test_estimates_of_divergences_and_refusals() -> None:
    p, q = (testing.example_circuit("hclt", "cp-t", seed=n, dtype=torch.float64) for n in (1, 2))
    tables = log_table(p), log_table(q)
    want = (tables[0].exp() * (tables[0] - tables[1])).sum()
    found = pc.estimate_kl_divergence(p, q, 4000, generator=torch.Generator().manual_seed(0))
    assert abs(found.value - want) < 4 * found.standard_error
    crossed = pc.estimate_cross_entropy(p, q, 4000, generator=torch.Generator().manual_seed(0))
    assert abs(crossed.value + (tables[0].exp() * tables[1]).sum()) < 4 * crossed.standard_error
    certain = testing.example_circuit("chow_liu", "cp-t", dtype=torch.float64)
    with pytest.raises(pc.StructureError, match="estimate_cross_entropy"):
        pc.cross_entropy(certain, q)
    with pytest.raises(pc.StructureError, match="estimate_kl_divergence"):
        pc.kl_divergence(q, certain)
    with pytest.raises(pc.ShapeError, match="at least 2"):
        pc.estimate_cross_entropy(p, q, 1)
    with pytest.raises(pc.ShapeError, match="4 and 3 variables"):
        pc.estimate_kl_divergence(p, testing.example_circuit(num_variables=3), 10)


def test_a_product_that_is_zero_everywhere_has_impossible_evidence_and_no_nan() -> None:
    def always(value: int) -> pc.Circuit:
        circuit = pc.Circuit(pc.structures.factorized(2), pc.Categorical(2), num_units=1, dtype=torch.float64)
        for name, group in circuit.named_groups():
            if name.startswith("input"):
                group.restrict((torch.arange(2) == value).expand(group.logits.shape))
        return circuit.requires_grad_(False)

    nowhere, x = pc.multiply(always(0), always(1)), torch.cartesian_prod(torch.arange(2), torch.arange(2))
    signed = pc.SignedCircuit(pc.structures.factorized(2), pc.Categorical(2), num_units=2).requires_grad_(False)
    for name, weights in signed.named_parameters():
        if name.endswith("weights"):
            weights.zero_()
    for circuit in (nowhere, pc.square(signed), pc.multiply(nowhere, always(0))):
        assert circuit.log_partition() == -math.inf and (circuit.log_prob(x) == -math.inf).all()
        posterior = circuit.condition(pc.Evidence.nothing(1, 2))
        assert posterior.log_evidence == -math.inf
        for query in (posterior.marginals, posterior.sample):
            with pytest.raises(pc.EvidenceError, match="impossible"):
                query()
    assert pc.inner_product(nowhere, always(0)) == 0
    somewhere = pc.multiply(always(0), always(0))
    assert torch.allclose(pc.mixture([nowhere, somewhere]).log_prob(x), somewhere.log_prob(x))
