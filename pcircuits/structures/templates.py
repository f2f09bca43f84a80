"""A good structure for each kind of data, in one line."""

import numpy as np
import torch
from torch import Tensor

from pcircuits.errors import DataError, ShapeError
from pcircuits.structures.factorized import factorized
from pcircuits.structures.generalized_hmm import generalized_hmm
from pcircuits.structures.hclt import hclt
from pcircuits.structures.nested import nested
from pcircuits.structures.quad_graph import quad_graph
from pcircuits.structures.region_graph import RegionGraph
from pcircuits.structures.validation import require_integer


def image(height: int, width: int, channels: int = 1, *, num_units: int | None = None) -> RegionGraph:
    """For images: the quad graph of the pixels, each of them the product of its channels.

    Channel c of pixel (row, column) is variable `c height width + row width + column`, as an image (C, H, W) flattens.
    """
    pixels = quad_graph(height, width, num_units=num_units)
    channels = require_integer("channels", channels, minimum=1)
    if channels == 1:
        return pixels
    count = height * width
    one_pixel = factorized(channels)
    return nested(pixels, [one_pixel] * count, [range(pixel, channels * count, count) for pixel in range(count)])


def sequence(length: int, features: int = 1, *, num_units: int | None = None) -> RegionGraph:
    """For sequences: an inhomogeneous HMM that emits `features` variables a step, `t features + f` at step t. `HMM` is
    the homogeneous one over tokens.
    """
    return generalized_hmm(length, features, num_units=num_units)


def table(
    x: Tensor | np.ndarray, *, num_units: int | None = None, bins: int = 8, smoothing: float = 0.0
) -> RegionGraph:
    """For tables of numbers, codes and missing values (NaN): the hidden Chow-Liu tree of the columns of `x` (B, D),
    cut into at most `bins` values each at equal shares of the rows; a missing value counts as one more.

    Columns of at most `bins` different values stay as they are. `smoothing` is a number of pseudo-samples, spread
    evenly over the values of each pair of columns: with few rows, pairs of many values then look less dependent.
    """
    return hclt(as_bins(x, bins), num_units, smoothing=smoothing)


def as_bins(x: Tensor | np.ndarray, bins: int) -> Tensor:
    """Every column of a table as integer codes of at most `bins` values, and one more for NaN."""
    columns = torch.as_tensor(x).double()
    if columns.ndim != 2 or columns.numel() == 0:
        raise ShapeError(f"a table must have shape (B, D), at least one of each; got {tuple(columns.shape)}")
    if columns.isinf().any():
        raise DataError("a table must hold finite numbers, and NaN where a value is missing")
    require_integer("bins", bins, minimum=2)
    return torch.stack([_codes(column, bins) for column in columns.unbind(1)], 1)


def _codes(column: Tensor, bins: int) -> Tensor:
    present = column[~column.isnan()]
    values = present.unique()
    if len(values) > bins:
        shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
        values = torch.quantile(present, shares).unique()
        codes = torch.bucketize(column.contiguous(), values, right=True)
    else:
        codes = torch.searchsorted(values, column.contiguous())
    missing = column.isnan()
    most = int(codes[~missing].max()) + 1 if len(present) else 0
    return torch.where(missing, most, codes)
