"""Most memory that a training step takes above what importing takes: `python -m benchmarks.memory [--reduced]`.

w1 and w2 on this library and on cirkit, each in a fresh process: parameters, evidence and temporaries of two steps, the
first included. And an EM step of a circuit of 100 million parameters.
"""

import argparse
import contextlib

import numpy as np

from benchmarks import figures, workloads
from benchmarks.bounds import OURS, PEER_MEMORY, TRAIN_BYTES
from benchmarks.circuits import CONTESTANTS
from benchmarks.comparison import Contestant, Results, parse, parser, start, write
from benchmarks.compile_time import LARGE
from benchmarks.side import Side, Workload
from pcircuits_diffusion.evaluate import tables

MIB = 2**20


def measure(options: argparse.Namespace) -> Results:
    chosen = [workloads.w1(32, options.seed), workloads.w2(options.seed)]
    if not options.reduced:
        chosen.insert(1, workloads.w1(64, options.seed))
    return {w.name: {c.name: mib for c in CONTESTANTS if (mib := _peak(c, w, options)) is not None} for w in chosen}


def _peak(contestant: Contestant, workload: Workload, options: argparse.Namespace) -> float | None:
    with contextlib.ExitStack() as stack:
        side = start(contestant, workload, options, {}, stack)
        return None if side is None else round(side.peak("train")["above_imports"] / MIB, 1)


def measure_large(options: argparse.Namespace) -> Results:
    with Side(OURS, "benchmarks.peers.ours_built", threads=options.threads) as side:
        prepared = side.prepare(Workload("large", {"none": np.zeros(1)}, {**LARGE, "seed": options.seed}))
        peak = side.peak("em", calls=1)["above_imports"] / MIB
        seconds = side.seconds("em")
        num_parameters = int(side.numbers("sizes")[0])
    return {
        "num_parameters": num_parameters,
        "build_seconds": round(prepared["seconds"], 2),
        "peak_mib": round(peak, 1),
        "em_step_seconds": round(seconds, 2),
    }


def table(found: Results) -> list[list[str]]:
    rows = [["work", "side", "peak MiB", "ours / theirs", "asked"]]
    for workload, sides in found.items():
        for side, mib in sides.items():
            judged = ["", ""]
            if side != OURS:
                share = sides[OURS] / mib
                asked = (
                    f"at most {PEER_MEMORY}{'' if share <= PEER_MEMORY else ' (missed)'}" if side == "cirkit" else ""
                )
                judged = [f"{share:.2f}", asked]
            rows.append([workload, side, f"{mib:.0f}", *judged])
    return rows


def sentence(large: Results) -> str:
    """About the circuit of 100 million parameters."""
    missed = "" if large["peak_mib"] <= TRAIN_BYTES / MIB else " (missed)"
    return (
        f"{large['num_parameters']:,} parameters: an EM step peaks at {large['peak_mib']:.0f} MiB and takes "
        f"{large['em_step_seconds']:.1f} s; asked: at most {TRAIN_BYTES / MIB:.0f} MiB{missed}"
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    found = measure(options)
    print(tables.aligned(table(found)))
    large = measure_large(options)
    print(sentence(large))
    path = write("memory", {"peak_mib": found, "large": large}, options)
    figures.memory(found).savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
