"""Intervals by resampling documents: windows of one document are not independent, documents are.

Axes: R resamples (the first is the data itself), M documents, N windows, P points of a curve.
"""

import math
from typing import NamedTuple

import torch

from pcircuits.types import Float, Int, Tensor


class Interval(NamedTuple):
    """An estimate on all documents and the bounds of a 95 % percentile interval."""

    estimate: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """By name; JSON has no NaN, so undefined values are None."""
        return {name: value if math.isfinite(value) else None for name, value in self._asdict().items()}

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


class DocumentBootstrap:
    """Draws documents with replacement; every statistic sees the same draws, so that differences are paired.

    Args:
        documents: (N,) the document of each window; any integers.
        num_resamples: more give smoother bounds.
    """

    def __init__(self, documents: Int[Tensor, " N"], *, num_resamples: int = 2000, generator: torch.Generator) -> None:
        _, self._index = documents.unique(return_inverse=True)
        self.num_documents = int(self._index.max()) + 1
        drawn = torch.randint(self.num_documents, (num_resamples, self.num_documents), generator=generator)
        draws = torch.zeros(num_resamples, self.num_documents, dtype=torch.float64)
        draws.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        self._draws = torch.cat([torch.ones(1, self.num_documents, dtype=torch.float64), draws])

    def totals(self, values: Float[Tensor, "*P N"]) -> Float[Tensor, "R *P"]:
        """Sums over windows: `[0]` of the data itself, `[1:]` of the resamples; windows go with their document."""
        flat = values.double().reshape(-1, values.shape[-1])
        per_document = torch.zeros(len(flat), self.num_documents, dtype=torch.float64)
        per_document.index_add_(1, self._index, flat)
        return (self._draws @ per_document.T).view(-1, *values.shape[:-1])

    @staticmethod
    def intervals(statistic: Float[Tensor, "R P"]) -> list[Interval]:
        """The estimate and the 2.5 % and 97.5 % quantiles of each column; NaN resamples are left out."""
        bounds = statistic[1:].nanquantile(torch.tensor([0.025, 0.975], dtype=statistic.dtype), dim=0)
        return [Interval(*row) for row in torch.cat([statistic[:1], bounds]).T.tolist()]
