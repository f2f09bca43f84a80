"""HMMs: forward, gradient, EM step against four libraries and the bare chain: `python -m benchmarks.hmm [--reduced]`.

h1 (H 64, 256, 1024) and h2 of `benchmarks/workloads.py`, the same parameters on every side. Log evidence, transition
matrix after an EM step and expected transition counts are checked first. dynamax's forward and gradient are its bare
filter on emissions gathered by hand, compiled to nothing but the log evidence; "its filter" is the function as one
calls it. Left out because they do not fit in memory or take minutes: torch-struct beyond h1 with H=64 (its temporaries
have H^3 entries), EM of dynamax and pomegranate from H=256 on, and hmmlearn and pomegranate with H=1024.
"""

import argparse

from benchmarks import figures, workloads
from benchmarks.bounds import BARE, OURS
from benchmarks.comparison import Check, Contestant, Results, compare, misses, parse, parser, table, write
from benchmarks.side import Workload
from pcircuits_diffusion.evaluate import tables

FILTER = "dynamax, its filter"
ACTIONS = ("forward", "gradient", "em")
CHECKS = (
    Check("forward", (OURS, "dynamax", "pomegranate", "torch-struct")),
    Check("forward_total", (OURS, "hmmlearn")),
    Check("em_transition", (OURS, "hmmlearn", "dynamax"), relative=1e-3),
    Check("transition_counts", (OURS, "dynamax", "torch-struct"), relative=1e-3),
)

HMMLEARN_EM = (Check("em_transition", (OURS, "hmmlearn"), relative=1e-3),)


def contestants(workload: Workload) -> tuple[Contestant, ...]:
    states, length = workload.options["num_states"], workload.options["length"]
    found = [
        Contestant(OURS, "ours_hmm", ACTIONS, is_peer=False),
        Contestant(BARE, "bare", ACTIONS, is_peer=False),
        Contestant(FILTER, "dynamax_filter", ("forward", "gradient")),
        Contestant("dynamax", "dynamax", ACTIONS if states < 256 else ("forward", "gradient")),
    ]
    if states < 1024:
        found.append(Contestant("hmmlearn", "hmmlearn", ("forward", "em")))
        found.append(Contestant("pomegranate", "pomegranate", ("forward", "em") if states < 256 else ("forward",)))
    if states * length <= 64 * 32:
        found.append(Contestant("torch-struct", "torch_struct", ("forward", "gradient")))
    return tuple(found)


def checks(workload: Workload) -> tuple[Check, ...]:
    """All of them, but for EM steps that take minutes."""
    states = workload.options["num_states"]
    return CHECKS if states < 256 else (*CHECKS[:2], *HMMLEARN_EM) if states < 1024 else CHECKS[:1]


def measure(options: argparse.Namespace) -> Results:
    states = (64, 256) if options.reduced else (64, 256, 1024)
    chosen = [*(workloads.h1(h, options.seed) for h in states), workloads.h2(options.seed)]
    return {w.name: compare(w, contestants(w), checks(w), ACTIONS, options) for w in chosen}


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    found = measure(options)
    print(tables.aligned(table(found)))
    print("\n".join(["missed:", *misses(found)]))
    path = write("hmm", {"workloads": found}, options)
    figures.bars(found, title="Hidden Markov models, one thread").savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
