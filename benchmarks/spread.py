"""Repeated measurements in a few numbers: median and range, ratios of sides that took turns, exponents of growth."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Median, minimum and maximum of `repetitions` measurements."""

    median: float
    least: float
    most: float
    repetitions: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))

    def to_json(self, digits: int = 4) -> dict[str, Any]:
        """By name, rounded to significant digits."""
        rounded = {name: float(f"{getattr(self, name):.{digits}g}") for name in ("median", "least", "most")}
        return {**rounded, "count": self.repetitions}


def plain(value: float) -> str:
    """Three significant digits, never with an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of the medians; its range is that of the ratios in the rounds that both sides took part in."""
    rounds = [a / b for a, b in zip(above, below, strict=False)]
    medians = statistics.median(above) / statistics.median(below)
    return Spread(medians, min(medians, *rounds), max(medians, *rounds), len(rounds))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log value against log size by least squares, over the larger half of the sizes and at least three."""
    points = sorted(zip(sizes, values, strict=True))
    large = points[-max(3, (len(points) + 1) // 2) :]
    x = [math.log(size) for size, _ in large]
    y = [math.log(value) for _, value in large]
    return statistics.linear_regression(x, y).slope
