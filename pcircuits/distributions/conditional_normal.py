"""Gaussians over several variables given some of them: densities, conditional means and Schur complements."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from pcircuits.distributions.family import Rows
from pcircuits.evidence import InputEvidence
from pcircuits.types import Bool, Float, Int, Tensor


class Normals(NamedTuple):
    """Means, and lower triangular factors L of the covariances `L L^T`."""

    mean: Float[Tensor, "G K M"]
    factor: Float[Tensor, "G K M M"]


class Given(NamedTuple):
    """An input level under one pattern of evidence, for the batch rows that have it, in float64.

    `counted` variables are those whose density counts: observed, or maximised. `root` is the Cholesky factor of the
    covariance of some, in whose place the others have the identity; `gain` what the means of all variables move by for
    each observed one.
    """

    batch: Int[Tensor, " N"]
    observed: Bool[Tensor, "F M"]
    counted: Bool[Tensor, "F M"]
    values: Float[Tensor, "F N M"]
    mean: Float[Tensor, "F K M"]
    covariance: Float[Tensor, "F K M M"]

    def root(self, chosen: Bool[Tensor, "F M"]) -> Float[Tensor, "F K M M"]:
        both = (chosen.unsqueeze(-1) & chosen.unsqueeze(-2)).unsqueeze(1)
        eye = torch.eye(chosen.shape[1], dtype=self.mean.dtype, device=self.mean.device)
        return torch.linalg.cholesky(torch.where(both, self.covariance, eye))

    @property
    def residuals(self) -> Float[Tensor, "F K M N"]:
        """How far the observed values are from the mean; 0 where there is none."""
        off = self.values.mT.unsqueeze(1) - self.mean.unsqueeze(-1)
        return torch.where(self.observed[:, None, :, None], off, 0.0)

    @property
    def log_density(self) -> Float[Tensor, "F K N"]:
        """Of the observed variables, and of those maximised where they have their mode."""
        root = self.root(self.observed)
        distance = torch.linalg.solve_triangular(root, self.residuals, upper=False).square().sum(2)
        root = root if torch.equal(self.observed, self.counted) else self.root(self.counted)
        log_size = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        dimensions = self.counted.double().sum(-1).view(-1, 1, 1)
        return -0.5 * (dimensions * math.log(2 * math.pi) + log_size.unsqueeze(-1) + distance)

    @property
    def gain(self) -> Float[Tensor, "F K M M"]:
        """`S_oo^-1 S_o`, zero rows for variables that are not observed."""
        cross = torch.where(self.observed[:, None, :, None], self.covariance, 0.0)
        return torch.cholesky_solve(cross, self.root(self.observed))

    def moments(self) -> tuple[Float[Tensor, "F K M N"], Float[Tensor, "F K M M"]]:
        """Conditional means of all variables, and their covariances, the Schur complement."""
        gain, hard = self.gain, self.observed[:, None, :, None]
        means = self.mean.unsqueeze(-1) + gain.mT @ self.residuals
        free = ~(hard | hard.mT)
        left = self.covariance - self.covariance @ gain
        return torch.where(hard, self.values.mT.unsqueeze(1), means), torch.where(free, (left + left.mT) / 2, 0.0)


def patterns(normals: Normals, rows: Rows, evidence: InputEvidence, maximise: bool = False) -> list[Given]:
    """Batch rows that observe the same variables, together; `maximise` counts those that are neither observed nor
    `summed` too.
    """
    observed, size = evidence.observed, normals.mean.shape[-1]
    counted = observed
    if maximise:
        counted = torch.ones_like(observed) if evidence.summed is None else observed | ~evidence.summed
    values = torch.where(observed, evidence.values, 0.0).double().unflatten(0, (-1, size)).mT
    kinds, kind_of = torch.stack([observed, counted]).flatten(0, 1).unique(dim=1, return_inverse=True)
    mean, factor = (x[rows].double() for x in normals)
    covariance = factor @ factor.mT
    found = []
    for n, masks in enumerate(kinds.unflatten(0, (2, -1, size)).unbind(-1)):
        (batch,) = (kind_of == n).nonzero(as_tuple=True)
        found.append(Given(batch, masks[0], masks[1], values[:, batch], mean, covariance))
    return found


def joined(part: Callable[[Given], Float[Tensor, "F N *S"]], patterns: list[Given]) -> Float[Tensor, "F B *S"]:
    """What each pattern has, in the order of the batch."""
    order = torch.cat([given.batch for given in patterns]).argsort()
    return torch.cat([part(given) for given in patterns], 1).index_select(1, order)
