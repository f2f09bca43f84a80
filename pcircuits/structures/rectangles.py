"""Region graphs whose regions are rectangles of an image's pixels."""

from collections.abc import Callable
from typing import NamedTuple

from pcircuits.collection import collection_paused
from pcircuits.structures.region_graph import Region, RegionGraph
from pcircuits.structures.validation import require_integer


class Rectangle(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right`, the ends left out."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def above_and_below(self, row: int) -> tuple["Rectangle", "Rectangle"]:
        """Its two parts when cut before `row`."""
        return self._replace(bottom=row), self._replace(top=row)

    def left_and_right(self, column: int) -> tuple["Rectangle", "Rectangle"]:
        """Its two parts when cut before `column`."""
        return self._replace(right=column), self._replace(left=column)


Splits = list[tuple[Rectangle, ...]]
"""Partitions of a rectangle."""


@collection_paused()
def rectangle_graph(
    height: int, width: int, splits: Callable[[Rectangle], Splits], *, num_units: int | None
) -> RegionGraph:
    """The region graph of a height x width image in which `splits` says how each rectangle but a pixel splits.

    Equal rectangles are one region. Pixel (row, column) is variable `row width + column`, whose input region has the
    same id.
    """
    height = require_integer("height", height, minimum=1)
    width = require_integer("width", width, minimum=1)
    whole = Rectangle(0, 0, height, width)
    found: dict[Rectangle, Splits] = {}
    pending = [whole]
    while pending:
        rectangle = pending.pop()
        if rectangle not in found:
            found[rectangle] = [] if rectangle.height == rectangle.width == 1 else splits(rectangle)
            pending.extend(part for partition in found[rectangle] for part in partition)
    ordered = sorted(found, key=lambda r: (r.height * r.width, r))
    ids = {rectangle: index for index, rectangle in enumerate(ordered)}
    regions = [
        Region.split(*([ids[part] for part in partition] for partition in found[rectangle]))
        if found[rectangle]
        else Region.input(rectangle.top * width + rectangle.left)
        for rectangle in ordered
    ]
    return RegionGraph((*regions, *([Region.split((0,))] if len(regions) == 1 else [])), num_units=num_units)


def middle_cuts(rectangle: Rectangle) -> tuple[int | None, int | None]:
    """The row and the column at which a rectangle is halved, None where that side is not cut.

    Cuts leave squares whose sides are powers of two, of one size on a level, but for what the image's edge cuts off.
    """
    half = 1 << (max(rectangle.height, rectangle.width) - 1).bit_length() - 1
    return (
        rectangle.top + half if rectangle.height > half else None,
        rectangle.left + half if rectangle.width > half else None,
    )
