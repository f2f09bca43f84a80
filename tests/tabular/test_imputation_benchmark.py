"""The benchmark of imputation: its scores on cells whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import imputation


@pytest.fixture
def complete() -> pd.DataFrame:
    random = np.random.default_rng(0)
    kind = random.random(60) < 0.5
    number = np.where(kind, 1.0, -1.0) + 0.1 * random.standard_normal(60)
    return pd.DataFrame({"number": number, "twin": number + 0.01, "kind": np.where(kind, "a", "b")})


@pytest.mark.parametrize("method", imputation.METHODS)
def test_every_method_fills_every_cell(complete: pd.DataFrame, method: str) -> None:
    hidden = imputation.hide(complete, 0.2, np.random.default_rng(1))
    filled, logs = imputation.FILLERS[method](complete.mask(hidden), complete, hidden, 0)
    assert not filled.isna().any().any()
    assert (filled.to_numpy() == complete.to_numpy())[~hidden].mean() > 0.99
    if logs is not None:
        assert np.isfinite(logs[hidden]).all()
        assert np.isnan(logs[~hidden]).all()
    found = imputation.score(filled, logs, complete, hidden)
    assert found.error_numbers < (1.5 if method == "mean or mode" else 0.5)


def test_scores_of_known_answers(complete: pd.DataFrame) -> None:
    hidden = np.ones(complete.shape, dtype=bool)
    assert imputation.score(complete, None, complete, hidden) == (0.0, 0.0, None)
    mean = complete.assign(
        number=complete["number"].mean(),
        twin=complete["twin"].mean(),
        kind=complete["kind"].map({"a": "b", "b": "a"}),
    )
    assert imputation.score(mean, None, complete, hidden)[:2] == pytest.approx((np.sqrt(59 / 60), 1.0))


def test_where_it_loses_is_said() -> None:
    good, bad = imputation.Score(0.1, 0.1, -1.0), imputation.Score(0.5, 0.5, -2.0)
    assert imputation.losses({"t": {"circuit": [good], "k nearest": [bad], "mean or mode": [bad]}}) == []
    assert len(imputation.losses({"t": {"circuit": [bad], "k nearest": [good], "mean or mode": [good]}})) == 3
