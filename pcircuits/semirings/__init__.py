"""What product and sum mean, one semiring a file."""

from pcircuits.semirings.bound import Bound
from pcircuits.semirings.gumbel import Gumbel
from pcircuits.semirings.log import Log
from pcircuits.semirings.max import Max
from pcircuits.semirings.scaled import Scaled, Steps
from pcircuits.semirings.semiring import Semiring, Values
from pcircuits.semirings.signed import Signed
from pcircuits.semirings.weights import Chosen, Gates, SumWeights

__all__ = [
    "Bound",
    "Chosen",
    "Gates",
    "Gumbel",
    "Log",
    "Max",
    "Scaled",
    "Semiring",
    "Signed",
    "Steps",
    "SumWeights",
    "Values",
]
