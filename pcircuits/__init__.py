"""Probabilistic circuits on torch: exact evidence, marginals, samples and learning."""

from pcircuits import files, interop, learning, plot, structures, types
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
    "Categorical",
    "Circuit",
    "CircuitDistribution",
    "DataError",
    "Estimate",
    "Evidence",
    "EvidenceError",
    "FormatError",
    "Gaussian",
    "MiniBatchEM",
    "Moments",
    "PCircuitsError",
    "ParameterError",
    "Posterior",
    "Projection",
    "Properties",
    "RegionGraph",
    "ShapeError",
    "StaleError",
    "Statistics",
    "StructureError",
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
