"""Poon and Domingos' structure over all rectangles of an image."""

from functools import partial

from pcircuits.structures.rectangles import Rectangle, Splits, rectangle_graph
from pcircuits.structures.region_graph import RegionGraph
from pcircuits.structures.validation import require_integer


def poon_domingos(height: int, width: int, *, delta: int, num_units: int | None = None) -> RegionGraph:
    """Every rectangle splits at every line of a grid of step `delta`, across and down (Poon, Domingos 2011; grid:
    Peharz et al. 2020).

    A rectangle that no grid line cuts is factorised by one partition into its pixels. Pixel (row, column) is variable
    `row width + column`. There are about `(height width)^2 / (4 delta^4)` regions and `(height + width) / (3 delta)`
    partitions in each.
    """
    delta = require_integer("delta", delta, minimum=1)
    return rectangle_graph(height, width, partial(_grid_splits, delta=delta), num_units=num_units)


def _grid_splits(rectangle: Rectangle, *, delta: int) -> Splits:
    top, left, bottom, right = rectangle
    rows = [rectangle.above_and_below(row) for row in _between(top, bottom, delta)]
    columns = [rectangle.left_and_right(column) for column in _between(left, right, delta)]
    pixels = (
        Rectangle(row, column, row + 1, column + 1) for row in range(top, bottom) for column in range(left, right)
    )
    return [*rows, *columns] or [tuple(pixels)]


def _between(start: int, end: int, delta: int) -> range:
    """Multiples of delta strictly between start and end."""
    return range((start // delta + 1) * delta, end, delta)
