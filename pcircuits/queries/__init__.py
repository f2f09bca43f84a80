"""Exact questions, one a file: pure functions of an evaluation or a circuit."""

from pcircuits.queries.determinism import determinism
from pcircuits.queries.entropy import Estimate, entropy, path_entropy, row_derivatives
from pcircuits.queries.joint import joint_log_prob
from pcircuits.queries.marginal import Moments, free_marginals, marginals
from pcircuits.queries.match_marginals import Projection, match_marginals, project_marginals
from pcircuits.queries.model_count import log_model_count, model_count
from pcircuits.queries.moments import covariance, moment, moments_of
from pcircuits.queries.mpe import MPE, mpe
from pcircuits.queries.pair import mutual_information, pair_marginals
from pcircuits.queries.rsample import rsample
from pcircuits.queries.sample import sample

__all__ = [
    "MPE",
    "Estimate",
    "Moments",
    "Projection",
    "covariance",
    "determinism",
    "entropy",
    "free_marginals",
    "joint_log_prob",
    "log_model_count",
    "marginals",
    "match_marginals",
    "model_count",
    "moment",
    "moments_of",
    "mpe",
    "mutual_information",
    "pair_marginals",
    "path_entropy",
    "project_marginals",
    "row_derivatives",
    "rsample",
    "sample",
]
