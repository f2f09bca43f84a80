"""One folded level over its bare products: `python -m benchmarks.layers [--reduced]`.

400 regions, batch 128: the product of two children, its dense sum and rescale, forward and with the flows of both
children and the counts of the weights, beside `torch.bmm` of the same shapes.
"""

import argparse

import numpy as np

from benchmarks import figures
from benchmarks.bounds import BARE, OURS
from benchmarks.comparison import Check, Contestant, Results, compare, misses, parse, parser, table, write
from benchmarks.side import Workload
from pcircuits_diffusion.evaluate import tables

REGIONS, BATCH, WIDTHS = 400, 128, (32, 64)
CONTESTANTS = (
    Contestant(OURS, "ours_layer", ("forward", "train"), is_peer=False),
    Contestant(BARE, "bare", ("forward", "train"), is_peer=False),
    Contestant("log-einsum-exp", "log_layer", ("forward", "train"), is_peer=False),
)
CHECKS = (Check("values", (OURS, "log-einsum-exp")), Check("counts", (OURS, "log-einsum-exp"), relative=1e-3))


def workload(width: int, seed: int) -> Workload:
    """Positive `weights` (F, K, K), rows adding up to one, and `values` (2F, B, K) with maximum one."""
    generator = np.random.default_rng(seed)
    weights = generator.random((REGIONS, width, width), dtype=np.float32) + 0.01
    values = generator.random((2 * REGIONS, BATCH, width), dtype=np.float32)
    arrays = {
        "weights": weights / weights.sum(-1, keepdims=True),
        "values": values / values.max(-1, keepdims=True),
        "x": np.zeros((BATCH, 1)),
    }
    return Workload(f"layer, K={width}", arrays, {"products": [[REGIONS, width, width]]})


def measure(options: argparse.Namespace) -> Results:
    chosen = [workload(width, options.seed) for width in WIDTHS]
    return {w.name: compare(w, CONTESTANTS, CHECKS, ("forward", "train"), options) for w in chosen}


def main(arguments: list[str] | None = None) -> None:
    options = parse(parser(__doc__), arguments)
    found = measure(options)
    print(tables.aligned(table(found)))
    print("\n".join(["missed:", *misses(found)]))
    path = write("layers", {"workloads": found}, options)
    figures.bars(found, title="One level of 400 regions, one thread").savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure")


if __name__ == "__main__":
    main()
