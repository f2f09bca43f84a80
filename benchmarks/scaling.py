"""Time and memory against batch, variables, depth, vocabulary and width: `python -m benchmarks.scaling [--reduced]`.

Each axis grows one size of a circuit; exponents are slopes of log cost against log size over the larger half. Stated:
at most linear in all but the width K, quadratic in K (cubic with Tucker layers), and 0.15 above for the fit.
"""

import argparse
from typing import Any

from benchmarks import figures
from benchmarks.bounds import EXPONENT_SLACK, EXPONENTS
from benchmarks.comparison import Results, parse, parser, write
from benchmarks.growth import Axis, judged, measure, to_record
from pcircuits_diffusion.evaluate import tables

BASE: dict[str, Any] = {
    "structure": "binary_tree",
    "arguments": {"num_variables": 64},
    "num_categories": 16,
    "num_units": 32,
    "layer": "cp",
    "batch": 64,
}


def axes(reduced: bool) -> tuple[Axis, ...]:
    """Powers of two; reduced leaves out the two largest."""
    less = 2 if reduced else 0

    def axis(name: str, first: int, last: int, **changes: Any) -> Axis:
        sizes = tuple(2**n for n in range(first, last + 1 - less))
        made = tuple({**BASE, **{k: v(size) if callable(v) else v for k, v in changes.items()}} for size in sizes)
        return Axis(name, sizes, made)

    def variables(size: int) -> dict[str, int]:
        return {"num_variables": size}

    return (
        axis("batch", 7, 13, batch=lambda size: size),
        axis("variables", 6, 12, arguments=variables),
        axis("depth", 5, 10, structure="chain", layer="cp-t", arguments=variables),
        axis("vocabulary", 8, 14, num_categories=lambda size: size, arguments={"num_variables": 32}),
        axis("width", 4, 9, num_units=lambda size: size),
        axis("width, Tucker", 2, 6, layer="tucker", arguments={"num_variables": 32}, num_units=lambda size: size),
    )


def table(record: Results) -> list[list[str]]:
    rows = [["against", "sizes", "forward", "training step", "memory", "stated"]]
    for name, found in record.items():
        cells = [judged(found["exponents"][key], found["stated"]) for key in ("forward", "train", "memory")]
        sizes = f"{found['points'][0]['size']}-{found['points'][-1]['size']}"
        rows.append([name, sizes, *cells, f"at most {found['stated']} + {EXPONENT_SLACK}"])
    return rows


def measure_all(options: argparse.Namespace) -> Results:
    return {
        axis.name: to_record(measure(axis, ("forward", "train"), options), stated=EXPONENTS[axis.name])
        for axis in axes(options.reduced)
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    options.rounds, options.seconds = min(options.rounds, 7), min(options.seconds, 2.0)
    record = measure_all(options)
    print("Fitted exponents\n" + tables.aligned(table(record)))
    path = write("scaling", {"axes": record}, options)
    figures.growth(record, title="Cost against size, one thread").savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
