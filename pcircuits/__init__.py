"""Probabilistic circuits on torch: exact evidence, marginals, samples and learning."""

from pcircuits import files, interop, learning, plot, structures, types
from pcircuits.circuit import Circuit
from pcircuits.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    Exponential,
    External,
    Gamma,
    Gaussian,
    Geometric,
    Histogram,
    Indicator,
    InputFamily,
    Laplace,
    Literal,
    LogNormal,
    NegativeBinomial,
    PiecewiseLinear,
    Poisson,
    TorchDistribution,
    Uniform,
    draw,
)
from pcircuits.errors import (
    DataError,
    EvidenceError,
    FormatError,
    ParameterError,
    PCircuitsError,
    ShapeError,
    StaleError,
    StructureError,
)
from pcircuits.evidence import Evidence
from pcircuits.hmm import HMM
from pcircuits.io import load, save
from pcircuits.learning import EM, Adam, Anemone, MiniBatchEM, fit
from pcircuits.posterior import Posterior
from pcircuits.properties import Properties, check
from pcircuits.queries import MPE, Estimate, Moments, Projection, match_marginals, project_marginals
from pcircuits.statistics import Statistics
from pcircuits.structures import RegionGraph
from pcircuits.torch_distribution import CircuitDistribution

__version__ = "0.1.0"
from pcircuits.workspace import Workspace

__all__ = [
    "EM",
    "HMM",
    "MPE",
    "Adam",
    "Anemone",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Circuit",
    "CircuitDistribution",
    "DataError",
    "DiscretizedLogistic",
    "Estimate",
    "Evidence",
    "EvidenceError",
    "Exponential",
    "External",
    "FormatError",
    "Gamma",
    "Gaussian",
    "Geometric",
    "Histogram",
    "Indicator",
    "InputFamily",
    "Laplace",
    "Literal",
    "LogNormal",
    "MiniBatchEM",
    "Moments",
    "NegativeBinomial",
    "PCircuitsError",
    "ParameterError",
    "PiecewiseLinear",
    "Poisson",
    "Posterior",
    "Projection",
    "Properties",
    "RegionGraph",
    "ShapeError",
    "StaleError",
    "Statistics",
    "StructureError",
    "TorchDistribution",
    "Uniform",
    "Workspace",
    "check",
    "draw",
    "files",
    "fit",
    "interop",
    "learning",
    "load",
    "match_marginals",
    "plot",
    "project_marginals",
    "save",
    "structures",
    "types",
]
