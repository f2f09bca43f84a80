"""The quad graph of an image."""

from pcircuits.structures.rectangles import Rectangle, Splits, middle_cuts, rectangle_graph
from pcircuits.structures.region_graph import RegionGraph


def quad_graph(height: int, width: int, *, num_units: int | None = None) -> RegionGraph:
    """Each square splits in both ways: into upper and lower half, and into left and right half (Mari et al. 2023,
    "QG").

    The halves split into the four quadrants, which both ways share. Pixel (row, column) is variable
    `row width + column`. Squares have powers of two as sides, but for what the image's edge cuts off.
    """
    return rectangle_graph(height, width, _both_ways, num_units=num_units)


def _both_ways(rectangle: Rectangle) -> Splits:
    row, column = middle_cuts(rectangle)
    rows = [] if row is None else [rectangle.above_and_below(row)]
    columns = [] if column is None else [rectangle.left_and_right(column)]
    return [*rows, *columns]
