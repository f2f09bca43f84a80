"""Pairwise mutual information of categorical data."""

from math import isqrt

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pcircuits.errors import DataError, ShapeError
from pcircuits.structures.validation import require_integer

_CELLS = 2**22  # joint cells, or pairs of values, held at once: 32 MB in float64
_ONE_HOT = 2**23  # one-hot entries held at once: 64 MB in float64
_MAX_CATEGORIES = 2**12  # one pair of variables then has 2**24 joint cells: 128 MB
_DENSE_CATEGORIES = 16  # up to here 2 V^2 flops of a matrix product count faster than one scattered addition does


def mutual_information(
    x: Tensor | np.ndarray,
    *,
    num_categories: int | None = None,
    smoothing: float = 0.0,
    weights: Tensor | np.ndarray | None = None,
) -> Tensor:
    """I(X_i; X_j) = H(X_i) + H(X_j) - H(X_i, X_j) in nats under the smoothed empirical distribution of `x`.

    `x` (B, D) holds integer categories 0..V-1, V = `num_categories` (default: the largest one seen, plus one).
    `smoothing` is a number of pseudo-samples, spread evenly over the V^2 values of each pair, and `weights` (B,)
    count the rows. Returns (D, D) float64 on the device of `x`, symmetric, with the entropies H(X_i) on the diagonal.

    Pairs are counted in blocks, so memory stays below about 0.5 GB beside `x` as int64; the time is O(D^2 (B + V^2)).
    For ordinal data with many values, such as pixels, coarser ones (`x // 8`) give a better estimate, sooner. Raises
    DataError for what is not such data, ShapeError for shapes that do not fit.
    """
    x = as_categories(x, num_categories)
    row_weights = _as_weights(weights, x)
    if not 0 <= smoothing < float("inf"):
        raise DataError(f"smoothing must be a finite number of at least 0, got {smoothing!r}")
    num_values = int(x.max()) + 1 if num_categories is None else num_categories
    values = torch.stack([torch.bincount(column, weights=row_weights, minlength=num_values) for column in x.unbind(1)])
    single = _entropy(values, smoothing)
    information = torch.diag(single)
    blocks = torch.arange(x.shape[1], device=x.device).split(_block_size(x, num_values))
    for i, rows in enumerate(blocks):
        for columns in blocks[i:]:
            joint = _entropy(_count_pairs(x[:, rows], x[:, columns], row_weights, num_values), smoothing)
            mutual = single[rows, None] + single[None, columns] - joint
            information[rows[:, None], columns] = mutual.clamp(min=0)
    upper = information.triu(1)
    return upper + upper.T + torch.diag(single)


def as_categories(x: Tensor | np.ndarray, num_categories: int | None = None) -> Tensor:
    """`x` (B, D) as int64, checked to hold categories 0..V-1."""
    x = torch.as_tensor(x)
    if x.is_floating_point() or x.is_complex():
        raise DataError(f"x must hold integer categories without missing values, got {x.dtype}: bin it, or cast it")
    if x.ndim != 2:
        raise ShapeError(f"x must have shape (B, D), got {tuple(x.shape)}")
    if x.numel() == 0:
        raise DataError(f"x must have at least one row and one column, got shape {tuple(x.shape)}")
    if num_categories is not None:
        require_integer("num_categories", num_categories, minimum=1, maximum=_MAX_CATEGORIES)
    x = x.long()
    smallest, largest = int(x.min()), int(x.max())
    limit = _MAX_CATEGORIES if num_categories is None else num_categories
    if smallest < 0 or largest >= limit:
        raise DataError(f"x must hold categories from 0 to {limit - 1}, got values from {smallest} to {largest}")
    return x


def _as_weights(weights: Tensor | np.ndarray | None, x: Tensor) -> Tensor | None:
    if weights is None:
        return None
    weights = torch.as_tensor(weights, device=x.device).double()
    if weights.shape != x.shape[:1]:
        raise ShapeError(f"weights must have shape ({len(x)},), one a row of x, got {tuple(weights.shape)}")
    if not bool((weights >= 0).all() & weights.isfinite().all() & weights.any()):
        raise DataError("weights must be finite, not negative and not all zero")
    return weights


def _block_size(x: Tensor, num_values: int) -> int:
    """Variables a block, so that the counts of a pair of blocks, and what counting them takes, stay in memory."""
    if num_values <= _DENSE_CATEGORIES:
        return max(1, min(isqrt(_CELLS // num_values**2), _ONE_HOT // (len(x) * num_values)))
    return max(1, isqrt(_CELLS // max(num_values**2, len(x))))


def _count_pairs(left: Tensor, right: Tensor, weights: Tensor | None, num_values: int) -> Tensor:
    """Weight of the rows with left_i = a and right_j = b, as (I, J, V^2): left (B, I), right (B, J)."""
    if num_values <= _DENSE_CATEGORIES:
        exact_in_float32 = weights is None and len(left) < 2**24
        rows, columns = (_one_hot(block, num_values, exact_in_float32) for block in (left, right))
        counts = (rows if weights is None else rows * weights[:, None]).T @ columns
        return rearrange(counts, "(i a) (j b) -> i j (a b)", a=num_values, b=num_values)
    num_pairs = left.shape[1] * right.shape[1]
    pair = torch.arange(num_pairs, device=left.device).view(left.shape[1], right.shape[1])
    cells = (pair * num_values + left[:, :, None]) * num_values + right[:, None, :]  # (B, I, J)
    repeated = None if weights is None else weights[:, None, None].expand_as(cells).flatten()
    counts = torch.bincount(cells.flatten(), weights=repeated, minlength=num_pairs * num_values**2)
    return counts.view(left.shape[1], right.shape[1], num_values**2)


def _one_hot(block: Tensor, num_values: int, single: bool) -> Tensor:
    values = torch.arange(num_values, device=block.device)
    return rearrange(block[:, :, None] == values, "b i v -> b (i v)").to(torch.float32 if single else torch.float64)


def _entropy(counts: Tensor, smoothing: float) -> Tensor:
    """Entropy in nats, float64, of the smoothed distribution in the last axis of `counts` (.., C).

    Only cells with a count are computed, since of V^2 cells few have one; the others all have the same probability.
    """
    num_cells = counts.shape[-1]
    cells = counts.reshape(-1, num_cells)
    total = cells[0].sum(dtype=torch.float64) + smoothing
    hit = cells.flatten().nonzero().squeeze(1)
    row = hit // num_cells
    terms = torch.special.entr((cells.flatten()[hit].double() + smoothing / num_cells) / total)
    rest = torch.special.entr(smoothing / num_cells / total)
    entropy = rest * (num_cells - torch.bincount(row, minlength=len(cells))).double()
    return entropy.index_add(0, row, terms).view(counts.shape[:-1])
