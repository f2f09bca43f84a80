"""Whole circuits, evidence in to log evidence or expected counts out: `python -m benchmarks.circuits [--reduced]`.

w1 and w2 (see `benchmarks/workloads.py`) on this library, cirkit, SPFlow and as bare matrix products, by turns. cirkit
gets the same circuit with the same parameters, and its log evidence and gradients are checked against ours: for w1 on
8 x 8 pixels, since cirkit does not go below -708.4 and so gives every image of w1 that log likelihood. SPFlow's Einet
(w2) has the same depth, repetitions and units.
"""

import argparse

from benchmarks import figures, workloads
from benchmarks.bounds import BARE, OURS
from benchmarks.comparison import Check, Contestant, Results, compare, misses, parse, parser, table, write
from benchmarks.side import Workload
from pcircuits_diffusion.evaluate import tables

CONTESTANTS = (
    Contestant(
        OURS,
        "ours_circuit",
        ("forward", "train", "em", "half_missing", "train_half_missing", "marginals"),
        is_peer=False,
    ),
    Contestant(BARE, "bare", ("forward", "train"), is_peer=False),
    Contestant("cirkit", "cirkit", ("forward", "train", "half_missing")),
)
SPFLOW = Contestant("SPFlow", "spflow", ("forward", "train", "half_missing"))
CHECKS = (
    Check("forward", (OURS, "cirkit")),
    Check("half_missing", (OURS, "cirkit")),
    Check("gradient", (OURS, "cirkit"), relative=1e-3),
)
ACTIONS = ("forward", "train", "em", "half_missing", "train_half_missing", "marginals")
QUOTED = {
    "w1, K=32": {"forward": {"bare products": 26, "cirkit": 285}, "train": {"bare products": 83, "cirkit": 464}},
    "w2": {
        "forward": {"cirkit": 70, "simple-einet": 106, "EinsumNetworks": 247},
        "train": {"cirkit": 219, "simple-einet": 254, "EinsumNetworks": 508},
        "half_missing": {"cirkit": 84, "simple-einet": 108, "EinsumNetworks": 208},
    },
}
"""Milliseconds of another run on another day, on two shared cores: simple-einet and EinsumNetworks are not on PyPI, so
they cannot take part. Their w2 and SPFlow's have 161,010 parameters, ours and cirkit's here 177,010: a dense sum over
each region at the bottom.
"""


def measure(options: argparse.Namespace) -> Results:
    found: Results = {}
    for width in (32,) if options.reduced else (32, 64):
        w1, small = workloads.w1(width, options.seed), workloads.w1(width, options.seed, side=8, batch=16)
        found[w1.name] = compare(w1, CONTESTANTS, CHECKS, ACTIONS, options, checked_on=small)
        found[w1.name] |= _facts(w1, found[w1.name])
    w2 = _w2(options.seed)
    found[w2.name] = compare(w2, (*CONTESTANTS, SPFLOW), CHECKS, ACTIONS, options)
    found[w2.name] |= _facts(w2, found[w2.name])
    return found


def _facts(workload: Workload, found: Results) -> Results:
    ours = {action: sides[OURS]["median"] for action, sides in found["milliseconds"].items()}
    return {
        "num_parameters": workload.options["num_parameters"],
        "marginals_over_train": round(ours["marginals"] / ours["train_half_missing"], 3),
    }


def _w2(seed: int) -> Workload:
    workload = workloads.w2(seed)
    return workload._replace(options={**workload.options, "depth": 4, "repetitions": 10})


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    found = measure(options)
    print(tables.aligned(table(found)))
    print("\n".join(["missed:", *misses(found)]))
    path = write("circuits", {"workloads": found, "quoted_milliseconds": QUOTED}, options)
    figures.bars(found, title="Circuits, one thread").savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
