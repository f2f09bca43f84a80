"""Exact samples: 1000 of w2, conditional ones, and of an HMM: `python -m benchmarks.sampling [--reduced]`.

Beside it SPFlow's sampler and, since cirkit's does not finish here, cirkit's forward pass on w2's 512 rows. Means of
20,000 samples are checked against exact marginals first.
"""

import argparse

import numpy as np

from benchmarks import figures, workloads
from benchmarks.bounds import OURS
from benchmarks.comparison import Contestant, Results, compare, misses, parse, parser, table, write
from benchmarks.side import Side, SideError, Workload
from pcircuits_diffusion.evaluate import tables

FORWARD = "cirkit's forward pass"
CIRCUIT = (
    Contestant(OURS, "ours_circuit", ("sample", "conditional_sample"), is_peer=False),
    Contestant(FORWARD, "cirkit_as_sampler", ("sample",)),
    Contestant("SPFlow", "spflow", ("sample", "conditional_sample")),
)
HMM = (
    Contestant(OURS, "ours_hmm", ("sample",), is_peer=False),
    Contestant("hmmlearn", "hmmlearn", ("sample",)),
    Contestant("dynamax", "dynamax", ("sample",)),
)
QUOTED = {"w2": {"sample": {"simple-einet": 351, "EinsumNetworks": 3306}}}
"""Milliseconds of another run on another day."""


def check(workload: Workload, options: argparse.Namespace) -> float:
    """The largest deviation of a variable's sample mean from its exact mean, in standard errors; at most 5 passes."""
    with Side(OURS, "benchmarks.peers.ours_circuit", threads=options.threads) as side:
        side.prepare(workload)
        mean, exact = side.numbers("sample_means"), side.numbers("exact_means")
    worst = float((np.abs(mean - exact) / np.sqrt(exact * (1 - exact) / 20_000)).max())
    if worst > 5:
        raise SideError(f"means of samples are {worst:.1f} standard errors from the exact ones")
    return worst


def measure(options: argparse.Namespace) -> Results:
    w2 = workloads.w2(options.seed)
    w2 = w2._replace(options={**w2.options, "depth": 4, "repetitions": 10})
    deviation = check(w2, options)
    found = {w2.name: compare(w2, CIRCUIT, (), ("sample", "conditional_sample"), options)}
    found[w2.name]["largest_deviation_in_standard_errors"] = deviation
    h1 = workloads.h1(256, options.seed)
    return {**found, h1.name: compare(h1, HMM, (), ("sample",), options)}


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    found = measure(options)
    print(tables.aligned(table(found)))
    print("\n".join(["missed:", *misses(found)]))
    path = write("sampling", {"workloads": found, "quoted_milliseconds": QUOTED}, options)
    figures.bars(found, title="1000 samples (512 conditional ones), one thread").savefig(
        path.with_suffix(".png"), dpi=150
    )
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
