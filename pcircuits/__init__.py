"""Probabilistic circuits on torch: exact evidence, marginals, samples and learning."""

from pcircuits import structures
from pcircuits.circuit import Circuit
from pcircuits.distributions import Bernoulli, Categorical, Gaussian, draw
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
from pcircuits.posterior import Posterior
from pcircuits.queries import MPE, Moments, match_marginals
from pcircuits.statistics import Statistics
from pcircuits.structures import RegionGraph

__version__ = "0.1.0"

__all__ = [
    "HMM",
    "MPE",
    "Bernoulli",
    "Categorical",
    "Circuit",
    "DataError",
    "Evidence",
    "EvidenceError",
    "FormatError",
    "Gaussian",
    "Moments",
    "PCircuitsError",
    "ParameterError",
    "Posterior",
    "RegionGraph",
    "ShapeError",
    "StaleError",
    "Statistics",
    "StructureError",
    "draw",
    "match_marginals",
    "structures",
]
