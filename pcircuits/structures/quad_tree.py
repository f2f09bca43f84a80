"""The quad tree of an image."""

from pcircuits.errors import StructureError
from pcircuits.structures.rectangles import Rectangle, Splits, middle_cuts, rectangle_graph
from pcircuits.structures.region_graph import RegionGraph


def quad_tree(height: int, width: int, *, arity: int = 4, num_units: int | None = None) -> RegionGraph:
    """A square splits into its four quadrants, down to pixels (Mari et al. 2023, "QT").

    With an `arity` of 2 it splits into its upper and lower half, and these into left and right. Pixel (row, column) is
    variable `row width + column`. Squares have powers of two as sides, but for what the image's edge cuts off, so the
    graph is a tree of depth `ceil(log2 max(height, width))`, twice that with two parts.
    """
    if arity not in (2, 4):
        raise StructureError(f"arity must be 2 or 4, got {arity!r}")
    return rectangle_graph(height, width, _quadrants if arity == 4 else _halves, num_units=num_units)


def _quadrants(rectangle: Rectangle) -> Splits:
    row, column = middle_cuts(rectangle)
    bands = (rectangle,) if row is None else rectangle.above_and_below(row)
    return [tuple(part for band in bands for part in ((band,) if column is None else band.left_and_right(column)))]


def _halves(rectangle: Rectangle) -> Splits:
    row, column = middle_cuts(rectangle)
    if row is not None:
        return [rectangle.above_and_below(row)]
    assert column is not None
    return [rectangle.left_and_right(column)]
