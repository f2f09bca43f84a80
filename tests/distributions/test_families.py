"""Every input family: the contract, scipy's densities and distribution functions, EM, samples, gradients, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.distributions import FAMILIES, Picks, Smoothing, Univariate
from pcircuits.workspace import Memory
from tests.distributions.families import ROWS, Row, parameter, prepared_unit

ONE = torch.zeros(1, dtype=torch.long)
WITH_SCIPY = [name for name, entry in ROWS.items() if entry.scipy]
UNIVARIATE = [name for name, entry in ROWS.items() if isinstance(entry.family, Univariate)]
BY_EM = [name for name, entry in ROWS.items() if entry.family.learns_by_em and not entry.family.fixed]


def test_every_family_has_a_row() -> None:
    assert set(ROWS) == set(FAMILIES) - {"external", "per_sample", "multivariate_gaussian", "chow_liu_tree"}
    assert all(entry.family.name == name for name, entry in ROWS.items())


@pytest.mark.parametrize("name", [n for n in ROWS if n not in ("categorical", "bernoulli")])
def test_contract(name: str) -> None:
    testing.check_input_family(ROWS[name].family)


def interval(low: list[float], high: list[float]) -> pc.Evidence:
    ends = (torch.tensor(end, dtype=torch.float64).view(-1, 1) for end in (low, high))
    return pc.Evidence(torch.zeros(len(low), 1), interval=tuple(ends))


def log_values(entry: Row, evidence: pc.Evidence) -> np.ndarray:
    given = evidence.weighing_intervals([entry.family.num_categories]).of_variables((0,))
    return entry.family.log_values(prepared_unit(entry), ONE, given, False)[0, :, 0].detach().numpy()


def is_counted(entry: Row) -> bool:
    return entry.family.is_discrete or entry.family.is_integer


@pytest.mark.parametrize("name", WITH_SCIPY)
def test_log_probabilities_are_scipys(name: str) -> None:
    entry, law = ROWS[name], ROWS[name].scipy()
    shares = np.linspace(0.01, 0.99, 17)
    x = law.ppf(shares) if name != "piecewise_linear" else np.linspace(-0.99, 2.99, 17)
    found = log_values(entry, pc.Evidence(torch.from_numpy(x).view(-1, 1)))
    exact = law.logpmf(x) if is_counted(entry) else law.logpdf(x)
    assert found == pytest.approx(exact, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", WITH_SCIPY)
def test_intervals_are_differences_of_scipys_distribution_functions(name: str) -> None:
    entry, law = ROWS[name], ROWS[name].scipy()
    points = [-math.inf, *np.unique(law.ppf([0.1, 0.35, 0.5, 0.8, 0.97])).tolist(), math.inf]
    low, high = points[:-1], points[1:]
    step = 1.0 if is_counted(entry) else 0.0
    exact = [law.cdf(b) - law.cdf(a - step) for a, b in zip(low, high, strict=True)]
    assert np.exp(log_values(entry, interval(low, high))) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("name", [n for n in WITH_SCIPY if n in UNIVARIATE])
def test_moments_within_intervals_are_scipys(name: str) -> None:
    entry, law = ROWS[name], ROWS[name].scipy()
    points = np.unique(law.ppf([0.1, 0.5, 0.9])).tolist()
    ends = [(-math.inf, math.inf), (-math.inf, points[0] + 1.0), (points[1], math.inf), (points[0], points[-1])]
    given = interval([a for a, _ in ends], [b for _, b in ends]).of_variables((0,))
    flows = torch.ones(1, len(ends), 1, dtype=torch.float64)
    found = entry.family.posterior(prepared_unit(entry), ONE, given, flows, True)[0]
    tolerance = 1e-2 if name == "torch_distribution" else 1e-6  # averages over quantiles
    for ends_of_row, moments in zip(ends, found.tolist(), strict=True):
        low, high = np.clip(ends_of_row, *law.support())
        if is_counted(entry):
            grid = np.arange(low, min(high, law.ppf(1 - 1e-15) + 50) + 1)
            weights = law.pmf(grid) / law.pmf(grid).sum()
            wanted = [float(weights @ grid), float(weights @ grid**2)]
        else:
            within = {"lb": low, "ub": high, "conditional": True}
            wanted = [law.expect(lambda x: x, **within), law.expect(lambda x: x * x, **within)]
        assert moments == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize("name", [n for n in UNIVARIATE if n != "torch_distribution"])
def test_expected_log_density_is_minus_the_entropy(name: str) -> None:
    entry, nothing = ROWS[name], pc.Evidence.nothing(1, 1).of_variables((0,))
    found = entry.family.expected_log(prepared_unit(entry), ONE, nothing)
    # where the density is zero, at a knot or at the edge of a user's family, its logarithm is not smooth
    accuracy = 2e-5 if name in ("piecewise_linear", "rayleigh") else 1e-6
    assert float(found[0, 0, 0]) == pytest.approx(-float(entry.scipy().entropy()), rel=accuracy, abs=1e-7)


@pytest.mark.parametrize("name", UNIVARIATE)
@pytest.mark.parametrize("bounded", [False, True])
def test_samples(name: str, bounded: bool) -> None:
    entry, law = ROWS[name], ROWS[name].scipy()
    n, (low, high) = 3000, np.sort(law.ppf([0.3, 0.75]))
    low, high = (low, high + float(is_counted(entry))) if bounded else (-math.inf, math.inf)
    given = interval([low], [high]).of_variables((0,))
    picks = Picks(torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long))
    generator = torch.Generator().manual_seed(3)
    drawn = entry.family.sample(prepared_unit(entry), ONE, given, picks, 1.0, generator).numpy()
    assert ((drawn >= low) & (drawn <= high)).all()
    if is_counted(entry):
        values = np.arange(max(low, 0), min(high, law.ppf(1 - 1e-9)) + 1)
        probabilities = torch.from_numpy(law.pmf(values) / law.pmf(values).sum())
        counts = torch.tensor([(drawn == v).sum() for v in values]).double()
        assert testing.p_value(counts, probabilities) > 1e-4
        return
    below, above = law.cdf(low), law.cdf(high)
    assert stats.kstest(drawn, lambda x: (law.cdf(x) - below) / (above - below)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "low"), [("gaussian", -8.0), ("laplace", -8.0), ("poisson", 0.0), ("histogram", -1.0)]
)
def test_temperature_raises_the_density_to_a_power(name: str, low: float) -> None:
    entry, law, n = ROWS[name], ROWS[name].scipy(), 4000
    nothing = pc.Evidence.nothing(1, 1).of_variables((0,))
    picks = Picks(*(torch.zeros(n, dtype=torch.long) for _ in range(3)))
    drawn = entry.family.sample(prepared_unit(entry), ONE, nothing, picks, 0.5, torch.Generator().manual_seed(0))
    grid = np.arange(0, 60.0) if name == "poisson" else np.linspace(low, 12, 9001)
    power = (law.pmf(grid) if name == "poisson" else law.pdf(grid)) ** 2
    mean = (power * grid).sum() / power.sum()
    std = math.sqrt((power * (grid - mean) ** 2).sum() / power.sum())
    assert float(drawn.double().mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(n))


@pytest.mark.parametrize("name", BY_EM)
def test_em_on_complete_data_of_one_unit_is_maximum_likelihood(name: str) -> None:
    entry = ROWS[name]
    circuit = pc.Circuit(structures.factorized(1), entry.family, num_units=1, seed=1, dtype=torch.float64)
    x = circuit.sample(400, generator=torch.Generator().manual_seed(1)).double()
    steps = {"laplace": 60, "negative_binomial": 60, "piecewise_linear": 60}.get(name, 1)
    scores = []
    for _ in range(steps):
        found = circuit.statistics(x)
        circuit.maximise(found)
        scores.append(float(found.log_likelihood))
    final = circuit.log_prob(x).sum()
    assert np.diff([*scores, float(final.detach())]).min() >= -1e-6
    gradients = torch.autograd.grad(final, [p for n, p in circuit.named_parameters() if "log_weights" not in n])
    flat = torch.cat([g.flatten() for g in gradients])
    if name == "laplace":  # its likelihood has a kink at the median
        assert float(circuit.marginals()[0].mean.detach()) == pytest.approx(float(x.median()), abs=0.05)
    else:
        assert float(flat.abs().max()) < (0.5 if steps > 1 else 1e-4 * len(x))


@pytest.mark.parametrize("name", BY_EM)
def test_statistics_under_no_evidence_leave_the_parameters(name: str) -> None:
    entry = ROWS[name]
    prepared = prepared_unit(entry)
    flows = torch.full((1, 1, 1), 7.0, dtype=torch.float64)
    nothing = pc.Evidence.nothing(1, 1).of_variables((0,))
    found = entry.family.statistics(prepared, ONE, nothing, flows, True, Memory())
    after = entry.family.maximise(prepared, found, Smoothing(0.0, False, 1.0), None)
    again = entry.family.prepare(after, None)
    for before, now in zip(prepared, again, strict=True):
        if isinstance(before, torch.Tensor) and before.is_floating_point():
            assert torch.allclose(now.exp(), before.exp(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in UNIVARIATE if not ROWS[n].family.fixed and n != "torch_distribution"])
def test_gradients_of_values_and_intervals(name: str) -> None:
    entry, law = ROWS[name], ROWS[name].scipy()
    x = law.ppf([0.3, 0.7])
    values = pc.Evidence(torch.tensor(x).view(-1, 1)).of_variables((0,))
    between = interval([x[0], -math.inf], [x[1] + 1, x[0]]).of_variables((0,))
    names = list(entry.parameters)
    start = [parameter(entry.parameters[n]).requires_grad_() for n in names]

    def both(*parameters: torch.Tensor) -> torch.Tensor:
        prepared = entry.family.prepare(dict(zip(names, parameters, strict=True)), None)
        return torch.cat([entry.family.log_values(prepared, ONE, given, False) for given in (values, between)], 1)

    assert torch.autograd.gradcheck(both, start, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_values_outside_the_domain_are_refused(name: str) -> None:
    circuit = pc.Circuit(structures.factorized(2), ROWS[name].family, num_units=2, seed=0)
    good = circuit.sample(1, generator=torch.Generator().manual_seed(0)).float()
    good[0, 1] = ROWS[name].outside
    with pytest.raises(pc.EvidenceError, match=r"variable 1 is .* in batch rows \[0\]"):
        circuit.log_prob(good)
    good[0, 1] = math.nan
    with pytest.raises(pc.EvidenceError, match="NaN"):
        circuit.log_prob(good)


@pytest.mark.parametrize(
    "build",
    [
        lambda: pc.Exponential(0.0),
        lambda: pc.Gamma(1.0, -1.0),
        lambda: pc.Poisson(math.inf),
        lambda: pc.Laplace(scale=0.0),
        lambda: pc.LogNormal(loc=math.nan),
        lambda: pc.Uniform(1.0, 1.0),
        lambda: pc.Monomial(1.0, 1.0),
        lambda: pc.Monomial(0.0, math.inf),
        lambda: pc.Histogram((1.0,)),
        lambda: pc.Histogram((1.0, 0.0)),
        lambda: pc.PiecewiseLinear((0.0, math.inf)),
        lambda: pc.Binomial(0),
        lambda: pc.DiscretizedLogistic(1),
        lambda: pc.Indicator(0),
        lambda: pc.Literal(3),
        lambda: pc.TorchDistribution("Weibul"),
        lambda: pc.TorchDistribution("MultivariateNormal"),
        lambda: pc.TorchDistribution("Gumbel", {"rate": 1.0}),
        lambda: pc.External.from_data(torch.zeros(3)),
    ],
)
def test_bad_specifications(build) -> None:
    with pytest.raises(pc.ParameterError):
        build()


@pytest.mark.parametrize("name", [n for n in UNIVARIATE if n != "torch_distribution"])
def test_from_data_lies_where_the_data_does(name: str) -> None:
    entry = ROWS[name]
    x = torch.from_numpy(np.asarray(entry.scipy().ppf(np.random.default_rng(0).random(500)), dtype="float64"))
    family = type(entry.family).from_data(x)
    circuit = pc.Circuit(structures.factorized(1), family, num_units=1, seed=0, dtype=torch.float64)
    mean, variance = circuit.requires_grad_(False).marginals()[0]
    assert abs(float(mean - x.mean())) < 3 * float(x.std())
    assert circuit.log_prob(x.view(-1, 1)).isfinite().all() and variance.isfinite()
