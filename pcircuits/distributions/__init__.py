"""Input distributions, one family a file."""

from pcircuits.distributions.bernoulli import Bernoulli
from pcircuits.distributions.binomial import Binomial
from pcircuits.distributions.categorical import Categorical
from pcircuits.distributions.chow_liu_tree import ChowLiuTree
from pcircuits.distributions.discretized_logistic import DiscretizedLogistic
from pcircuits.distributions.draw import draw
from pcircuits.distributions.exponential import Exponential
from pcircuits.distributions.external import External
from pcircuits.distributions.family import LEAST_PROBABILITY, InputFamily, Picks, Smoothing
from pcircuits.distributions.gamma import Gamma
from pcircuits.distributions.gaussian import Gaussian
from pcircuits.distributions.geometric import Geometric
from pcircuits.distributions.histogram import Histogram
from pcircuits.distributions.indicator import Indicator
from pcircuits.distributions.laplace import Laplace
from pcircuits.distributions.literal import Literal
from pcircuits.distributions.log_normal import LogNormal
from pcircuits.distributions.monomial import Monomial
from pcircuits.distributions.multivariate_gaussian import MultivariateGaussian
from pcircuits.distributions.negative_binomial import NegativeBinomial
from pcircuits.distributions.per_sample import PerSample
from pcircuits.distributions.piecewise_linear import PiecewiseLinear
from pcircuits.distributions.poisson import Poisson
from pcircuits.distributions.torch_distribution import TorchDistribution
from pcircuits.distributions.uniform import Uniform
from pcircuits.distributions.univariate import Univariate

FAMILIES: dict[str, type[InputFamily]] = {
    kind.name: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, InputFamily) and hasattr(kind, "name")
}

__all__ = [
    "FAMILIES",
    "LEAST_PROBABILITY",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ChowLiuTree",
    "DiscretizedLogistic",
    "Exponential",
    "External",
    "Gamma",
    "Gaussian",
    "Geometric",
    "Histogram",
    "Indicator",
    "InputFamily",
    "Laplace",
    "Literal",
    "LogNormal",
    "Monomial",
    "MultivariateGaussian",
    "NegativeBinomial",
    "PerSample",
    "Picks",
    "PiecewiseLinear",
    "Poisson",
    "Smoothing",
    "TorchDistribution",
    "Uniform",
    "Univariate",
    "draw",
]
