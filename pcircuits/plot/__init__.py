"""Pictures with matplotlib (the `plot` extra), one a file, whose functions return their axes; `dot` returns text and
needs nothing.
"""

from pcircuits.plot.conditionals import conditionals
from pcircuits.plot.dot import dot
from pcircuits.plot.marginals import marginals
from pcircuits.plot.samples import samples
from pcircuits.plot.structure import structure

__all__ = ["conditionals", "dot", "marginals", "samples", "structure"]
