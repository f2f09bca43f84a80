"""Maxima in place of sums."""

import torch

from pcircuits.kernels import max_sum
from pcircuits.semirings.log import Log
from pcircuits.types import Float, Int, Tensor


class Max(Log):
    """The max-product semiring: unobserved values and latent branches are maximised out."""

    _maximise = True
    _sum = staticmethod(max_sum)

    @staticmethod
    def _pick(
        scores: Float[Tensor, "M J"], generator: torch.Generator | None, index: Int[Tensor, " N"] | None
    ) -> Int[Tensor, " N"]:
        best = scores.argmax(-1)
        return best if index is None else best[index]
