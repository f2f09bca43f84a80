"""One row a family: an example of it, unit parameters, and the scipy distribution that they are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from pcircuits import distributions as d

EDGES = (-1.0, 0.0, 0.5, 3.0)


class Row(NamedTuple):
    family: d.InputFamily
    outside: float  # a value that is not of its domain
    parameters: dict[str, Any]  # of one unit
    scipy: Callable[[], Any] | None


def row(family: d.InputFamily, outside: float, scipy: Callable[[], Any] | None, **parameters: Any) -> Row:
    return Row(family, outside, parameters, scipy)


def inverse_softplus(x: float) -> float:
    return float(np.log(np.expm1(x)))


class Triangles(stats.rv_continuous):
    """Linear between (-1, .5), (0, 1), (.5, 0), (3, .2), up to a constant."""

    area = 0.75 + 0.25 + 0.25

    def _pdf(self, x: np.ndarray) -> np.ndarray:
        return np.interp(x, EDGES, [0.5, 1.0, 0.0, 0.2]) / self.area


def hat_weights() -> list[float]:
    heights, areas = np.array([0.5, 1.0, 0.0, 0.2]), np.array([0.5, 0.75, 1.5, 1.25])
    return np.log(np.maximum(heights * areas, 1e-300)).tolist()


ROWS = {
    "gaussian": row(
        d.Gaussian(0.5, 2.0), np.inf, lambda: stats.norm(0.3, 0.8), mean=0.3, raw_std=inverse_softplus(0.8 - 1e-3)
    ),
    "exponential": row(d.Exponential(2.0), -0.5, lambda: stats.expon(scale=1 / 0.7), log_rate=np.log(0.7)),
    "poisson": row(d.Poisson(3.0), 1.5, lambda: stats.poisson(4.2), log_rate=np.log(4.2)),
    "geometric": row(d.Geometric(2.0), -1.0, lambda: stats.geom(0.3, loc=-1), log_rate=np.log(0.3 / 0.7)),
    "gamma": row(
        d.Gamma(2.0, 3.0), 0.0, lambda: stats.gamma(0.6, scale=1 / 1.5), log_shape=np.log(0.6), log_rate=np.log(1.5)
    ),
    "negative_binomial": row(
        d.NegativeBinomial(3.0, 2.0),
        0.5,
        lambda: stats.nbinom(2.5, 0.4),
        log_shape=np.log(2.5),
        log_rate=np.log(0.4 / 0.6),
    ),
    "log_normal": row(
        d.LogNormal(0.0, 0.5),
        -1.0,
        lambda: stats.lognorm(0.6, scale=np.exp(0.2)),
        mean=0.2,
        raw_std=inverse_softplus(0.599),
    ),
    "laplace": row(d.Laplace(1.0, 2.0), -np.inf, lambda: stats.laplace(0.4, 1.3), location=0.4, log_scale=np.log(1.3)),
    "uniform": row(d.Uniform(-1.0, 3.0), 3.5, lambda: stats.uniform(-0.5, 2.0), lower=-0.5, upper=1.5),
    "monomial": row(d.Monomial(-1.0, 3.0), 3.5, lambda: stats.powerlaw(3.0, loc=-1.0, scale=4.0), degree=2.0),
    "histogram": row(
        d.Histogram(EDGES),
        3.1,
        lambda: stats.rv_histogram((np.array([0.2, 0.5, 0.3]), np.array(EDGES)), density=False),
        logits=np.log([0.2, 0.5, 0.3]).tolist(),
    ),
    "piecewise_linear": row(d.PiecewiseLinear(EDGES), -1.1, lambda: Triangles(a=-1.0, b=3.0), logits=hat_weights()),
    "binomial": row(d.Binomial(5), 6.0, lambda: stats.binom(5, 0.3), logit=np.log(0.3 / 0.7)),
    "discretized_logistic": row(d.DiscretizedLogistic(6), 2.5, None, mean=2.2, log_scale=np.log(0.9)),
    "indicator": row(d.Indicator(3), 3.0, None, value=1.0),
    "literal": row(d.Literal(), 2.0, None, value=1.0),
    "categorical": row(d.Categorical(3), 3.0, None, logits=[0.0, 1.0, -1.0]),
    "bernoulli": row(d.Bernoulli(), -1.0, lambda: stats.bernoulli(0.3), logit=np.log(0.3 / 0.7)),
    "torch_distribution": row(
        d.TorchDistribution("Weibull", {"scale": 2.0, "concentration": 4.0}),
        -0.1,
        lambda: stats.weibull_min(1.7, scale=0.8),
        raw_scale=np.log(0.8),
        raw_concentration=np.log(1.7),
    ),
}


def prepared_unit(entry: Row) -> Any:
    """One unit of a family, (1, 1), in float64."""
    return entry.family.prepare({name: parameter(value) for name, value in entry.parameters.items()}, None)


def parameter(value: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)[None, None]
