"""Pictures with matplotlib (the `plot` extra), one a file; each function returns its axes."""

from pcircuits.plot.conditionals import conditionals
from pcircuits.plot.marginals import marginals
from pcircuits.plot.samples import samples
from pcircuits.plot.structure import structure

__all__ = ["conditionals", "marginals", "samples", "structure"]
