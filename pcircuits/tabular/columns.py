"""Columns of a table as variables of a circuit: categories to codes, numbers to standard units, and back."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pcircuits.distributions import Categorical, Gaussian, InputFamily
from pcircuits.errors import DataError

Label = Hashable
"""What a column is called: its name in a data frame, its number in an array."""


@dataclass(frozen=True)
class Column:
    """One column. `categories` are the values of a categorical one, sorted; without them the column is continuous and
    `(value - loc) / scale` is its variable.
    """

    label: Label
    dtype: Any
    categories: np.ndarray | None
    loc: float = 0.0
    scale: float = 1.0

    @property
    def family(self) -> InputFamily:
        return Gaussian(min_std=1e-2) if self.categories is None else Categorical(max(2, len(self.categories)))

    @property
    def log_scale(self) -> float:
        """What the logarithm of a density changes by in the column's own units."""
        return 0.0 if self.categories is not None else float(np.log(self.scale))

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes or standard units in float64, NaN where missing; and where a value is none of the categories."""
        missing = is_missing(values)
        encoded = np.full(len(values), np.nan)
        unknown = np.zeros(len(values), dtype=bool)
        known = values[~missing]
        if self.categories is None:
            encoded[~missing] = (known.astype(np.float64) - self.loc) / self.scale
        else:
            code = {value: n for n, value in enumerate(self.categories.tolist())}
            found = np.array([code.get(value, -1) for value in known.tolist()], dtype=np.int64)
            unknown[~missing] = found < 0
            encoded[~missing] = np.where(found < 0, 0, found)
        return encoded, unknown

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        if self.categories is None:
            return encoded * self.scale + self.loc
        return self.categories[np.clip(encoded.astype(np.int64), 0, len(self.categories) - 1)]


@dataclass(frozen=True)
class Table:
    """The columns that a circuit was fitted to, and whether they came as a data frame."""

    columns: tuple[Column, ...]
    frame: type | None

    @classmethod
    def of(cls, x: Any, categorical: Any, max_categories: int) -> "Table":
        labels = labels_of(x)
        auto = isinstance(categorical, str) and categorical == "auto"
        if not auto and (isinstance(categorical, str) or not isinstance(categorical, Iterable)):
            raise DataError(f'`categorical_features` must be "auto" or a list of columns, got {categorical!r}')
        chosen = labels if auto else list(categorical)
        if unknown := [label for label in chosen if label not in labels]:
            raise DataError(f"`categorical_features` names {unknown[0]!r}, which is no column; columns: {labels}")
        columns = []
        for n, label in enumerate(labels):
            values, dtype = column_of(x, n)
            is_categorical = label in chosen and (not auto or _looks_categorical(values, max_categories))
            columns.append(_fit_column(label, dtype, values, is_categorical))
        return cls(tuple(columns), type(x) if is_frame(x) else None)

    def encode(self, x: Any) -> tuple[torch.Tensor, np.ndarray]:
        """(B, D) float64 with NaN where missing, and (B, D) where a value was never seen in fitting."""
        pairs = [column.encode(column_of(x, n)[0]) for n, column in enumerate(self.columns)]
        encoded, unknown = (np.stack(part, 1) for part in zip(*pairs, strict=True))
        return torch.from_numpy(encoded), unknown

    def decode(self, encoded: torch.Tensor, known: Any = None) -> Any:
        """(B, D) variables as a table of the kind that was fitted; with the values of `known`, to the bit, where it has
        some.
        """
        columns = [c.decode(values) for c, values in zip(self.columns, encoded.numpy().T, strict=True)]
        if known is not None:
            columns = [_keep(column_of(known, n)[0], values) for n, values in enumerate(columns)]
        if self.frame is None:
            numeric = all(values.dtype.kind in "iufb" for values in columns)
            return np.stack([values.astype(np.float64 if numeric else object) for values in columns], 1)
        data = {c.label: _as_dtype(values, c.dtype) for c, values in zip(self.columns, columns, strict=True)}
        return self.frame(data)

    def position(self, label: Label) -> int:
        labels = [column.label for column in self.columns]
        if label in labels:
            return labels.index(label)
        raise DataError(f"`column` must be one of {labels}, got {label!r}")


def is_frame(x: Any) -> bool:
    return hasattr(x, "iloc") and hasattr(x, "columns")


def labels_of(x: Any) -> list[Label]:
    return list(x.columns) if is_frame(x) else list(range(x.shape[1]))


def column_of(x: Any, n: int) -> tuple[np.ndarray, Any]:
    """Values of a column, objects where they are not plain numbers, and its dtype."""
    if not is_frame(x):
        return x[:, n], x.dtype
    series = x.iloc[:, n]
    plain = isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb"
    return series.to_numpy() if plain else series.astype(object).to_numpy(), series.dtype


def is_missing(values: np.ndarray) -> np.ndarray:
    """NaN, None and pandas' missing values."""
    if values.dtype.kind != "O":
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
    return np.array([value is None or type(value).__name__ == "NAType" or value != value for value in values], bool)


def _looks_categorical(values: np.ndarray, max_categories: int) -> bool:
    known = values[~is_missing(values)]
    if values.dtype.kind == "O" and not all(isinstance(v, int | float | np.number) for v in known):
        return True
    if any(isinstance(v, bool | np.bool_) for v in known[:1]):
        return True
    numbers = known.astype(np.float64)
    return len(np.unique(numbers)) <= max_categories and bool((numbers == np.round(numbers)).all())


def _fit_column(label: Label, dtype: Any, values: np.ndarray, categorical: bool) -> Column:
    known = values[~is_missing(values)]
    if len(known) == 0:
        raise DataError(f"column {label!r} has no value at all; leave it out")
    if categorical:
        try:
            return Column(label, dtype, np.unique(known))
        except TypeError as error:
            raise TypeError(
                f"column {label!r}: each argument must be a string or a number, of one kind: {error}"
            ) from error
    try:
        numbers = known.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"column {label!r} holds values that are not numbers; name it as categorical") from error
    spread = float(numbers.std())
    return Column(label, dtype, None, float(numbers.mean()), spread if spread > 0 else 1.0)


def _keep(known: np.ndarray, filled: np.ndarray) -> np.ndarray:
    missing = is_missing(known)
    if known.dtype.kind == "O" and filled.dtype.kind in "iufb":
        known = np.where(missing, 0, known).astype(filled.dtype)
    return np.where(missing, filled, known)


def _as_dtype(values: np.ndarray, dtype: Any) -> Any:
    """Integers that were measured, not counted, stay what they were drawn as."""
    kind = getattr(dtype, "kind", "O")
    if kind in "iu" and values.dtype.kind == "f":
        return values
    import pandas as pd

    return pd.Series(values).astype(dtype)
