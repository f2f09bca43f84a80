"""Lloyd's k-means for many points and many clusters: fitted on a sample, then every point assigned in chunks."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pcircuits.errors import DataError, ParameterError, ShapeError
from pcircuits.evidence import describe, rows_of
from pcircuits.types import Float, Int, Tensor

_CHUNK_ELEMENTS = 1 << 24  # largest table of distances
_SEEDING_POINTS = 16  # points a cluster among which k-means++ chooses: it passes over them once a cluster


class KMeans(NamedTuple):
    """Centres, the nearest centre of each point, and the mean squared distance to it (weighted where points are)."""

    centres: Float[Tensor, "K P"]
    labels: Int[Tensor, " N"]
    inertia: float


@torch.no_grad()
def kmeans(
    points: Float[Tensor, "N P"],
    num_clusters: int,
    *,
    seed: int | None = None,
    weights: Float[Tensor, " N"] | None = None,
    iterations: int = 20,
    points_per_cluster: int = 64,
) -> KMeans:
    """Clusters of points: a local minimum of `sum_n w_n |x_n - c_(label n)|^2` (Lloyd 1982).

    It starts from centres that k-means++ draws (Arthur, Vassilvitskii 2007).

    Args:
        weights: how much each point counts, at least 0.
        iterations: at most; it ends when no label changes. A cluster that loses all its points moves to the point
            that is worst served.
        points_per_cluster: centres are fitted on a random sample of this many points a cluster; all points are
            assigned in the end.

    Raises:
        DataError, ShapeError, ParameterError: no points, NaN, weights that do not fit, fewer points than clusters.
    """
    _require(points, num_clusters, weights)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    points = points if points.dtype == torch.float64 else points.float()
    weights = (
        torch.ones(len(points), dtype=points.dtype, device=points.device) if weights is None else weights.to(points)
    )
    counted = weights.nonzero().squeeze(-1)
    sample = counted[_subset(len(counted), num_clusters * points_per_cluster, generator).to(points.device)]
    x, w = points[sample], weights[sample]
    centres = _plus_plus(x, w, num_clusters, generator)
    labels = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        found, distances = _nearest(x, centres)
        if torch.equal(found, labels) and len(found.unique()) == num_clusters:
            break
        labels = found
        centres = _means(x, w, labels, distances, centres)
    labels, distances = _nearest(points, centres)
    return KMeans(centres, labels, float((weights * distances).sum() / weights.sum()))


def _means(x: Tensor, w: Tensor, labels: Tensor, distances: Tensor, centres: Tensor) -> Float[Tensor, "K P"]:
    """Each cluster's mean; clusters without weight go to the points farthest from their own centres, one each."""
    total = w.new_zeros(len(centres)).index_add_(0, labels, w)
    sums = torch.zeros_like(centres).index_add_(0, labels, x * w.unsqueeze(-1))
    means = torch.where(
        (total > 0).unsqueeze(-1), sums / total.clamp_min(torch.finfo(w.dtype).tiny).unsqueeze(-1), centres
    )
    empty = (total == 0).nonzero().squeeze(-1)
    worst = (w * distances).topk(min(len(empty), len(x))).indices
    means[empty[: len(worst)]] = x[worst]
    return means


def _nearest(x: Float[Tensor, "N P"], centres: Float[Tensor, "K P"]) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The nearest centre of each point, and the squared distance to it: `|x|^2 + min_k |c_k|^2 - 2 x c_k`."""
    squares, labels, distances = centres.square().sum(-1), [], []
    for part in _chunks(x, len(centres)):
        least = torch.addmm(squares, part, centres.mT, alpha=-2).min(-1)
        labels.append(least.indices)
        distances.append((least.values + part.square().sum(-1)).clamp_min(0))
    return torch.cat(labels), torch.cat(distances)


def _plus_plus(x: Tensor, w: Tensor, num_clusters: int, generator: torch.Generator) -> Float[Tensor, "K P"]:
    """Centres drawn one by one, with probability proportional to the weighted squared distance from those before."""
    among = _subset(len(x), num_clusters * _SEEDING_POINTS, generator).to(x.device)
    x, w = x[among], w[among]
    chosen = torch.empty(num_clusters, dtype=torch.long, device=x.device)
    distances = torch.full_like(w, torch.inf)
    uniform = torch.rand(num_clusters, generator=generator, dtype=torch.float64).to(x.device)
    for k in range(num_clusters):
        chances = (w if k == 0 else w * distances).double().cumsum(0)
        if not chances[-1] > 0:  # fewer distinct points than clusters
            chances = torch.ones_like(chances).cumsum(0)
        chosen[k] = torch.searchsorted(chances, uniform[k] * chances[-1]).clamp_max(len(x) - 1)
        distances = torch.minimum(distances, (x - x[chosen[k]]).square().sum(-1))
    return x[chosen].clone()


def _subset(size: int, limit: int, generator: torch.Generator) -> Int[Tensor, " M"]:
    return torch.arange(size) if size <= limit else torch.randperm(size, generator=generator)[:limit]


def _chunks(x: Tensor, width: int) -> Iterator[Tensor]:
    return iter(x.split(max(1, _CHUNK_ELEMENTS // width)))


def _require(points: Tensor, num_clusters: int, weights: Tensor | None) -> None:
    if not isinstance(points, Tensor) or points.ndim != 2 or not points.is_floating_point():
        raise ShapeError(f"`points` must be a floating point (points, features) tensor, got {describe(points)}")
    if not isinstance(num_clusters, int) or num_clusters < 1:
        raise ParameterError(f"`num_clusters` must be a positive integer, got {num_clusters!r}")
    if len(points) < num_clusters:
        raise DataError(f"{len(points)} points cannot form {num_clusters} clusters")
    if (bad := ~points.isfinite()).any():
        raise DataError(f"`points` must be finite; they are not in rows {rows_of(bad)}")
    if weights is None:
        return
    if weights.shape != points.shape[:1]:
        raise ShapeError(f"`weights` must have shape ({len(points)},), got {describe(weights)}")
    if not ((weights >= 0) & weights.isfinite()).all() or not weights.any():
        raise DataError("`weights` must be finite, at least 0 and not all zero")
