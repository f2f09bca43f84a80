"""Input distributions, one family a file."""

from pcircuits.distributions.bernoulli import Bernoulli
from pcircuits.distributions.categorical import Categorical
from pcircuits.distributions.draw import draw
from pcircuits.distributions.family import LEAST_PROBABILITY, InputFamily, Picks, Smoothing
from pcircuits.distributions.gaussian import Gaussian

FAMILIES: dict[str, type[InputFamily]] = {family.name: family for family in (Bernoulli, Categorical, Gaussian)}

__all__ = [
    "FAMILIES",
    "LEAST_PROBABILITY",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "InputFamily",
    "Picks",
    "Smoothing",
    "draw",
]
