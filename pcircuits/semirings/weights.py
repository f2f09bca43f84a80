"""What a level's sums weigh their children by."""

from typing import NamedTuple

import torch

from pcircuits.kernels import BlockPattern, finite
from pcircuits.kernels.block_sparse_sum.reference import blocks_of
from pcircuits.types import Float, Int, Tensor


class Gates(NamedTuple):
    """Log factors of a level's weights, one a block and sample (see `Evidence`); `linear exp(scale)` is their `exp`."""

    log: Float[Tensor, "F B G G"]
    linear: Float[Tensor, "F B G G"]
    scale: Float[Tensor, "F B"]

    @classmethod
    def of(cls, log: Float[Tensor, "F B G G"], dtype: torch.dtype) -> "Gates":
        peak = finite(log.detach().amax((-1, -2)))
        return cls(log.double(), (log - peak[..., None, None]).exp().to(dtype), peak.double())


class SumWeights(NamedTuple):
    """A level's weights, rows of children summing to one, as probabilities and as logits (`-inf` outside the support);
    and what multiplies them sample by sample. `as_given`: the logits are the logarithms and not normalised again.
    `pattern`: the blocks outside of which all are zero, where sums are made of those alone.
    """

    linear: Float[Tensor, "F O J"]
    logits: Float[Tensor, "F O J"]
    gates: Gates | None = None
    as_given: bool = False
    pattern: BlockPattern | None = None

    @property
    def blocks(self) -> Float[Tensor, "F N S S"]:
        """The weights inside of the pattern."""
        assert self.pattern is not None
        return blocks_of(self.linear, self.pattern)

    @property
    def log(self) -> Float[Tensor, "F O J"]:
        """Natural logarithms, which tell apart what underflows in `linear`; worked out here."""
        return self.logits if self.as_given else self.logits.log_softmax(-1)

    def rows(self, index: Int[Tensor, " F"]) -> "SumWeights":
        return self._replace(linear=self.linear[index], logits=self.logits[index])

    def chosen(self, at: "Chosen", log: bool) -> Float[Tensor, "M J"]:
        """The weights of some units: of their children, gates included."""
        row, sample, unit = at
        weights = self.log[row, unit] if log else self.linear[row, unit]
        if self.gates is None:
            return weights
        gates = self.gates.log if log else self.gates.linear
        of_unit = gates[row, sample, unit * gates.shape[-2] // self.linear.shape[1]]
        of_unit = of_unit.repeat_interleave(weights.shape[-1] // gates.shape[-1], -1)
        return weights + of_unit if log else weights * of_unit


Chosen = tuple[Int[Tensor, " M"], Int[Tensor, " M"], Int[Tensor, " M"]]
"""Sum units on sampled paths: level row, batch row, unit."""
