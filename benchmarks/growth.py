"""What grows with what: one measurement over several sizes of a circuit, each in a process of its own."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bounds import EXPONENT_SLACK
from benchmarks.side import Side, Workload, race
from benchmarks.spread import Spread, exponent


class Axis(NamedTuple):
    """Sizes along which a circuit grows: `options` of `benchmarks/peers/ours_built.py` at each."""

    name: str
    sizes: tuple[int, ...]
    options: tuple[dict[str, Any], ...]


class Point(NamedTuple):
    """At one size."""

    size: int
    num_parameters: int
    num_regions: int
    milliseconds: dict[str, Spread]
    megabytes: float
    """Peak of a training step above what importing takes."""

    def to_json(self) -> dict[str, Any]:
        spreads = {action: spread.to_json() for action, spread in self.milliseconds.items()}
        return {**self._asdict(), "milliseconds": spreads}


def measure(axis: Axis, actions: Sequence[str], arguments: argparse.Namespace, *, memory: bool = True) -> list[Point]:
    return [
        _point(size, options, actions, arguments, memory)
        for size, options in zip(axis.sizes, axis.options, strict=True)
    ]


def to_record(points: Sequence[Point], *, stated: float, against: str = "size") -> dict[str, Any]:
    """The points and their fitted exponents, as they are stored."""
    fitted = exponents(points, against)
    return {"against": against, "stated": stated, "exponents": fitted, "points": [point.to_json() for point in points]}


def judged(fitted: float, stated: float) -> str:
    """An exponent, and whether it is above what is stated."""
    return f"{fitted:.2f}{'' if fitted <= stated + EXPONENT_SLACK else ' (missed)'}"


def exponents(points: Sequence[Point], against: str = "size") -> dict[str, float]:
    """Fitted exponents of each action's time and of memory against `size`, `num_parameters` or `num_regions`."""
    sizes = [getattr(point, against) for point in points]
    found = {
        action: exponent(sizes, [point.milliseconds[action].median for point in points])
        for action in points[0].milliseconds
    }
    if points[0].megabytes:
        found["memory"] = exponent(sizes, [point.megabytes for point in points])
    return {name: round(value, 3) for name, value in found.items()}


def _point(
    size: int, options: dict[str, Any], actions: Sequence[str], arguments: argparse.Namespace, memory: bool
) -> Point:
    workload = Workload("growth", {"none": np.zeros(1)}, {**options, "seed": arguments.seed})
    with Side("pcircuits", "benchmarks.peers.ours_built", threads=arguments.threads) as side:
        side.prepare(workload)
        peak = side.peak("train")["above_imports"] if memory else 0
        num_parameters, num_regions = side.numbers("sizes").astype(int).tolist()
        milliseconds = {}
        for action in actions:
            seconds = race([side], action, rounds=arguments.rounds, seconds=arguments.seconds)["pcircuits"]
            milliseconds[action] = Spread.of([1e3 * s for s in seconds])
    return Point(size, num_parameters, num_regions, milliseconds, round(peak / 2**20, 1))
