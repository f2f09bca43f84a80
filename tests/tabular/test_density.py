"""The scikit-learn estimator: its contract, its answers against the circuit's, mixed columns and missing values."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import trapezoid
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

import pcircuits as pc
from pcircuits.tabular import CircuitDensity


@parametrize_with_checks([CircuitDensity(n_units=2, max_iter=3, random_state=0)])
def test_scikit_learn_accepts_it(estimator, check) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def customers() -> pd.DataFrame:
    """Two kinds of customer; the kind sets everything else."""
    random = np.random.default_rng(0)
    kind = random.random(400) < 0.4
    frame = pd.DataFrame(
        {
            "age": np.where(kind, 30.0, 60.0) + 4 * random.standard_normal(400),
            "spent": np.where(kind, 2000.0, 800.0) + 150 * random.standard_normal(400),
            "plan": pd.Categorical(np.where(random.random(400) < np.where(kind, 0.9, 0.1), "gold", "basic")),
            "visits": random.poisson(np.where(kind, 1.0, 4.0)),
            "active": random.random(400) < np.where(kind, 0.8, 0.3),
        }
    )
    return frame


@pytest.fixture(scope="module")
def incomplete(customers: pd.DataFrame) -> pd.DataFrame:
    holes = np.random.default_rng(1).random(customers.shape) < 0.2
    return customers.astype({"visits": "Int64", "active": "boolean"}).mask(holes)


@pytest.fixture(scope="module")
def fitted(incomplete: pd.DataFrame) -> CircuitDensity:
    return CircuitDensity(n_units=4, max_iter=30, random_state=0).fit(incomplete)


def test_columns_are_told_apart(fitted: CircuitDensity) -> None:
    kinds = {column.label: column.categories is None for column in fitted.table_.columns}
    assert kinds == {"age": True, "spent": True, "plan": False, "visits": False, "active": False}
    assert fitted.categories("plan").tolist() == ["basic", "gold"]


def test_density_integrates_to_one_in_the_tables_units(fitted: CircuitDensity, incomplete: pd.DataFrame) -> None:
    grid = np.linspace(-20, 120, 4001)
    rows = pd.DataFrame(None, index=range(len(grid)), columns=incomplete.columns).astype(incomplete.dtypes)
    rows["age"] = grid
    assert trapezoid(np.exp(fitted.score_samples(rows)), grid) == pytest.approx(1.0, abs=1e-6)


def test_probabilities_are_ratios_of_scores(fitted: CircuitDensity, incomplete: pd.DataFrame) -> None:
    rows = incomplete.head(20).reset_index(drop=True)
    probabilities = fitted.predict_proba(rows, "plan")
    scores = np.stack(
        [fitted.score_samples(rows.assign(plan=pd.Categorical([value] * 20))) for value in fitted.categories("plan")], 1
    )
    expected = np.exp(scores - np.logaddexp.reduce(scores, 1, keepdims=True))
    np.testing.assert_allclose(probabilities, expected, atol=1e-10)
    best = fitted.categories("plan")[probabilities.argmax(1)]
    assert (fitted.predict(rows, "plan") == best).all()


@pytest.mark.parametrize("method", ["mean", "mpe", "sample"])
def test_imputation_keeps_what_is_known(
    fitted: CircuitDensity, incomplete: pd.DataFrame, customers: pd.DataFrame, method: str
) -> None:
    filled = fitted.impute(incomplete, method=method, random_state=0)
    assert list(filled.columns) == list(incomplete.columns)
    assert not filled.isna().any().any()
    known = ~incomplete.isna()
    for name in incomplete.columns:
        assert (filled[name][known[name]].to_numpy() == incomplete[name][known[name]].to_numpy()).all()
    if method == "mean":
        missing = ~known["spent"]
        error = np.abs(filled["spent"] - customers["spent"])[missing].mean()
        assert error < 0.5 * np.abs(customers["spent"].mean() - customers["spent"])[missing].mean()


def test_samples_look_like_the_data(fitted: CircuitDensity, customers: pd.DataFrame) -> None:
    sampled = fitted.sample(4000, random_state=0)
    assert sampled["plan"].dtype == customers["plan"].dtype
    for name in ("age", "spent"):
        assert sampled[name].mean() == pytest.approx(customers[name].mean(), rel=0.05)
        assert sampled[name].std() == pytest.approx(customers[name].std(), rel=0.1)
    gold = (sampled["plan"] == "gold").to_numpy()
    assert sampled["spent"][gold].mean() > sampled["spent"][~gold].mean() + 500  # columns are drawn jointly
    assert fitted.sample(3, random_state=1).equals(fitted.sample(3, random_state=1))


def test_arrays_come_back_as_arrays() -> None:
    x, y = load_iris(return_X_y=True)
    rows = np.column_stack([x, y])
    rows[::7, 2] = np.nan
    estimator = CircuitDensity(n_units=4, max_iter=20, random_state=0).fit(rows)
    assert estimator.impute(rows).dtype == np.float64
    correct = estimator.predict(rows, 4) == y
    assert correct.mean() > 0.85
    mixed = np.array([["a", 1.5], ["b", 2.5], [None, 3.5], ["a", np.nan]] * 5, dtype=object)
    assert CircuitDensity(2, max_iter=2, random_state=0).fit(mixed).impute(mixed)[2, 0] in ("a", "b")


def test_the_circuit_answers_the_rest(fitted: CircuitDensity, incomplete: pd.DataFrame) -> None:
    assert isinstance(fitted.circuit_, pc.Circuit)
    encoded, _ = fitted.table_.encode(incomplete)
    log_scale = sum(column.log_scale for column in fitted.table_.columns)
    whole = ~encoded.isnan().any(1)
    expected = fitted.circuit_.log_prob(encoded[whole]) - log_scale
    np.testing.assert_allclose(fitted.score_samples(incomplete)[whole.numpy()], expected.detach(), atol=1e-9)


def test_same_seed_same_circuit(incomplete: pd.DataFrame) -> None:
    first = CircuitDensity(n_units=2, max_iter=2, random_state=3).fit(incomplete)
    second = clone(first).fit(incomplete)
    for a, b in zip(first.circuit_.parameters(), second.circuit_.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_was_never_seen(fitted: CircuitDensity, incomplete: pd.DataFrame) -> None:
    rows = incomplete.head(2).reset_index(drop=True)
    rows["plan"] = ["platinum", "gold"]
    scores = fitted.score_samples(rows)
    assert scores[0] == -np.inf
    assert np.isfinite(scores[1])
    assert fitted.predict_proba(rows, "plan").shape == (2, 2)  # its own value is not read
    with pytest.raises(ValueError, match="row 0: column 'plan' holds a category"):
        fitted.impute(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categorical_features": ["nothing"]}, "names 'nothing', which is no column"),
        ({"categorical_features": "some"}, 'must be "auto" or a list'),
        ({"validation_fraction": 1.5}, "must be in"),
    ],
)
def test_settings_that_do_not_fit(incomplete: pd.DataFrame, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CircuitDensity(**change).fit(incomplete)


def test_columns_that_do_not_fit(fitted: CircuitDensity, incomplete: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="column 'age' has no value"):
        CircuitDensity().fit(incomplete.assign(age=np.nan))
    with pytest.raises(ValueError, match="must be one of"):
        fitted.predict(incomplete, "height")
    with pytest.raises(ValueError, match="continuous and has no categories"):
        fitted.predict_proba(incomplete, "age")
    with pytest.raises(ValueError, match="`method` must be"):
        fitted.impute(incomplete, method="mode")
    with pytest.raises(ValueError, match="not numbers"):
        CircuitDensity(categorical_features=[]).fit(incomplete)


def test_several_circuits_are_their_mixture(incomplete: pd.DataFrame) -> None:
    rows = incomplete.head(60)
    model = CircuitDensity(n_units=2, n_circuits=3, max_iter=2, random_state=0).fit(rows)
    assert isinstance(model.circuit_, pc.MixtureCircuit) and len(model.circuit_.sources) == 3
    encoded, _ = model.table_.encode(rows)
    each = torch.stack([c.condition(pc.Evidence.from_nan(encoded)).log_evidence for c in model.circuit_.sources])
    scale = sum(c.log_scale * rows[c.label].notna().to_numpy() for c in model.table_.columns)
    np.testing.assert_allclose(model.score_samples(rows), each.exp().mean(0).log().detach().numpy() - scale, atol=1e-8)
    assert not model.impute(rows).isna().any().any() and len(model.sample(5)) == 5
    for bad in (0, 1.5, "three"):
        with pytest.raises(pc.DataError, match="`n_circuits` must be a positive integer"):
            CircuitDensity(n_circuits=bad).fit(rows)
