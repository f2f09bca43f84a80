"""What a level's sums weigh their children by."""

from typing import NamedTuple

import torch

from pcircuits.kernels import BlockPattern, finite, logsumexp
from pcircuits.kernels.block_sparse_sum.reference import blocks_of
from pcircuits.types import Float, Inexact, Int, Tensor


class Gates(NamedTuple):
    """Log factors of a level's weights, one a block and sample, or those that they are made of (see `Evidence`).
    `linear exp(scale)` is their `exp`.
    """

    given: Float[Tensor, "F B G G"] | Float[Tensor, "F B 2 R K"]
    dtype: torch.dtype

    @property
    def log(self) -> Float[Tensor, "F B G G"]:
        log = self.given.double()
        if log.ndim == 4:
            return log
        left, right = log.unbind(2)
        return logsumexp((left.unsqueeze(-1) + right.unsqueeze(-2)).movedim(2, -1))

    @property
    def linear(self) -> Float[Tensor, "F B G G"]:
        log = self.log
        return (log - _peaks(log)).exp().to(self.dtype)

    @property
    def scale(self) -> Float[Tensor, "F B"]:
        return _peaks(self.log)[..., 0, 0]

    @property
    def low_rank(self) -> "LowRank | None":
        """The factors of the gates, if there are some."""
        if self.given.ndim == 4:
            return None
        peaks = _peaks(self.given)
        left, right = (self.given - peaks).exp().to(self.dtype).movedim((2, 3), (0, 2))
        return LowRank(left, right, peaks.double().sum(2)[..., 0, 0])

    def row(self, index: slice) -> "Gates":
        return self._replace(given=self.given[index])

    def of_units(self, at: "Chosen", outputs: int, children: int, log: bool) -> Float[Tensor, "M J"]:
        """Of some units, one a child; linear ones may have any scale."""
        row, sample, unit = at
        if self.given.ndim == 5:
            left, right = self.given[row, sample].double().unbind(1)
            left = left.gather(-1, unit[:, None, None].expand(-1, left.shape[1], 1))
            found = logsumexp((left + right).mT)
            return found if log else (found - finite(found.amax(-1, keepdim=True))).exp().to(self.dtype)
        gates = self.log if log else self.linear
        of_unit = gates[row, sample, unit * gates.shape[-2] // outputs]
        return of_unit.repeat_interleave(children // gates.shape[-1], -1)


class LowRank(NamedTuple):
    """The factors of gates, `sum_r left[r] right[r] exp(scale)`."""

    left: Float[Tensor, "F R B K"]
    right: Float[Tensor, "F R B K"]
    scale: Float[Tensor, "F B"]


def _peaks(log: Tensor) -> Tensor:
    """The largest over the last two axes."""
    return finite(log.detach().amax((-1, -2), keepdim=True))


class SumWeights(NamedTuple):
    """A level's weights, rows of children summing to one, as probabilities and as logits (`-inf` outside the support);
    and what multiplies them sample by sample. `as_given`: the logits are the logarithms and not normalised again.
    `pattern`: the blocks outside of which all are zero, where sums are made of those alone. Weights of any sign, and
    complex ones, are what they are, and their logits the logarithms of their sizes.
    """

    linear: Inexact[Tensor, "F O J"]
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
        row, _, unit = at
        weights = self.log[row, unit] if log else self.linear[row, unit]
        if self.gates is None:
            return weights
        of_unit = self.gates.of_units(at, self.linear.shape[1], weights.shape[-1], log)
        return weights + of_unit if log else weights * of_unit


Chosen = tuple[Int[Tensor, " M"], Int[Tensor, " M"], Int[Tensor, " M"]]
"""Sum units on sampled paths: level row, batch row, unit."""
