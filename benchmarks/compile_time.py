"""From a region graph to a circuit with parameters: `python -m benchmarks.compile_time [--reduced]`.

Time to build against the number of regions (four structures) and of parameters, with fitted exponents, and a circuit of
100 million parameters.
"""

import argparse
from typing import Any

from benchmarks import figures
from benchmarks.bounds import BUILD_SECONDS, EXPONENT_SLACK
from benchmarks.comparison import Results, parse, parser, write
from benchmarks.growth import Axis, judged, measure, to_record
from pcircuits_diffusion.evaluate import tables

BASE: dict[str, Any] = {"num_categories": 4, "num_units": 4, "layer": "cp", "batch": 1}
LARGE: dict[str, Any] = {
    "structure": "quad_graph",
    "arguments": {"height": 28, "width": 28},
    "num_categories": 256,
    "num_units": 152,
    "layer": "cp",
    "batch": 128,
}
"""102 million parameters."""


def axes(reduced: bool) -> tuple[Axis, ...]:
    less = 2 if reduced else 0

    def axis(name: str, first: int, last: int, **changes: Any) -> Axis:
        sizes = tuple(2**n for n in range(first, last + 1 - less))
        made = tuple({**BASE, **{k: v(size) if callable(v) else v for k, v in changes.items()}} for size in sizes)
        return Axis(name, sizes, made)

    return (
        axis("binary_tree", 7, 13, structure="binary_tree", arguments=lambda size: {"num_variables": size}),
        axis("chain", 7, 12, structure="chain", layer="cp-t", arguments=lambda size: {"num_variables": size}),
        axis("quad_graph", 3, 7, structure="quad_graph", arguments=lambda size: {"height": size, "width": size}),
        axis(
            "rat",
            2,
            7,
            structure="rat",
            arguments=lambda size: {"num_variables": 64, "depth": 4, "num_repetitions": size, "seed": 0},
        ),
        axis("parameters", 5, 9, structure="binary_tree", arguments={"num_variables": 64}, num_units=lambda size: size),
    )


def table(record: Results) -> list[list[str]]:
    rows = [["structure", "against", "from", "to", "ms at the largest", "exponent", "stated"]]
    for name, found in record.items():
        first, last = found["points"][0], found["points"][-1]
        against = found["against"]
        fitted = judged(found["exponents"]["build"], found["stated"])
        largest = f"{last['milliseconds']['build']['median']:.0f}"
        ends = [f"{point[against]:,}" for point in (first, last)]
        rows.append([name, against.removeprefix("num_"), *ends, largest, fitted, f"at most 1 + {EXPONENT_SLACK}"])
    return rows


def sentence(large: Results) -> str:
    """About the circuit of 100 million parameters."""
    seconds = large["milliseconds"]["build"]["median"] / 1e3
    missed = "" if seconds <= BUILD_SECONDS else " (missed)"
    return (
        f"{large['num_parameters']:,} parameters: built in {seconds:.1f} s; asked: at most {BUILD_SECONDS:g} s{missed}"
    )


def measure_all(options: argparse.Namespace) -> Results:
    found: Results = {}
    for axis in axes(options.reduced):
        points = measure(axis, ("build",), options, memory=False)
        against = "num_parameters" if axis.name == "parameters" else "num_regions"
        found[axis.name] = to_record(points, stated=1, against=against)
    return found


def measure_large(options: argparse.Namespace) -> Results:
    return measure(Axis("large", (152,), (LARGE,)), ("build",), options, memory=False)[0].to_json()


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    options.rounds, options.seconds = min(options.rounds, 5), min(options.seconds, 3.0)
    record, large = measure_all(options), measure_large(options)
    print("Fitted exponents\n" + tables.aligned(table(record)))
    print(sentence(large))
    path = write("compile_time", {"axes": record, "large": large}, options)
    figures.growth(record, title="Time to build a circuit").savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
