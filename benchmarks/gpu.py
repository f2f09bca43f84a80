"""The CUDA kernels beside the products that they are made of: `python -m benchmarks.gpu [--reduced]`.

Each kernel and whole circuits, forward and with flows or counts: ours, our definition in torch, and bare `torch.bmm`
of the same shapes in float32 and in tf32. All sides run by turns in one process; that they compute the same is
checked before anything is timed. `--device cpu` tries the program on tiny sizes in Triton's interpreter and measures
nothing worth keeping.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures, gpu_sides, record
from benchmarks.bounds import BARE, OURS
from benchmarks.interpreted import kernels_on_cpu
from benchmarks.spread import Spread, ratio
from pcircuits_diffusion.evaluate import tables

SAME = 1e-4  # of the largest number
Results = dict[str, Any]


def measure(options: argparse.Namespace) -> Results:
    """A work at a time."""
    from benchmarks.gpu_circuits import circuits
    from benchmarks.gpu_kernels import kernels

    sizes = gpu_sides.DRY if options.device == "cpu" else gpu_sides.FULL
    device, found = torch.device(options.device), {}
    draw = gpu_sides.Draw(device, options.seed)
    for work in chain(kernels(sizes, draw), circuits(sizes, draw)):
        differences = {action: difference(work, action, sides) for action, sides in work.actions.items()}
        timed = {action: race(sides, device, options.rounds) for action, sides in work.actions.items()}
        found[work.name] = {
            "largest_relative_difference": differences,
            "milliseconds": {
                action: {side: Spread.of([1e3 * t for t in seconds]).to_json() for side, seconds in sides.items()}
                for action, sides in timed.items()
            },
            "ratios": {action: ratios(sides) for action, sides in timed.items()},
        }
        print(f"{work.name}: measured", flush=True)
    return found


def difference(work: Any, action: str, sides: Mapping[str, Callable]) -> float:
    """Of our numbers from the definition's, relative to the largest of a result."""
    worst = 0.0
    for ours, theirs in zip(as_tensors(sides[OURS]()), as_tensors(sides[gpu_sides.DEFINITION]()), strict=True):
        scale = float(theirs.abs().max())
        worst = max(worst, float((ours.double() - theirs.double()).abs().max()) / max(scale, 1e-30))
    if not worst <= SAME:
        raise SystemExit(f"{work.name}, {action}: ours and the definition differ by {worst:.1e} of the largest number")
    return worst


def as_tensors(found: Any) -> Sequence[torch.Tensor]:
    return (found,) if isinstance(found, torch.Tensor) else tuple(x for x in found if x is not None)


def race(sides: Mapping[str, Callable], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, by turns; the first turns, which compile, do not count."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for n in range(rounds + 2):
        for side, call in sides.items():
            elapsed = seconds(call, device)
            if n >= 2:
                found[side].append(elapsed)
    return found


def seconds(call: Callable, device: torch.device) -> float:
    """Of the device's own clock where it has one."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    call()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def ratios(sides: Mapping[str, Sequence[float]]) -> Results:
    """Of ours over every other side."""
    return {side: ratio(sides[OURS], of_side).to_json() for side, of_side in sides.items() if side != OURS}


def table(found: Results) -> str:
    rows = [["work", "action", "side", "ms", "range", "ours over it"]]
    for work, of_work in found.items():
        for action, sides in of_work["milliseconds"].items():
            for side, spread in sides.items():
                over = of_work["ratios"][action].get(side)
                cells = [f"{spread['median']:.3g}", f"{spread['least']:.3g}-{spread['most']:.3g}"]
                rows.append([work, action, side, *cells, "" if over is None else f"{over['median']:.2f}"])
    return tables.aligned(rows)


def settings(options: argparse.Namespace) -> Results:
    import triton

    device = torch.cuda.get_device_name() if options.device == "cuda" else "Triton's interpreter: not a measurement"
    versions = {"triton": triton.__version__, "cuda": torch.version.cuda}
    return {"device": device, "precision": "tf32x3", "rounds": options.rounds, **versions}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--reduced", action="store_true", help="fewer repetitions")
    parser.add_argument("--rounds", type=int, help="repetitions of each side; default: 30, reduced 5, on a cpu 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the results; default: benchmarks/results, on a cpu none")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    elif not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --device cpu tries the program on tiny sizes")
    options.rounds = options.rounds or (1 if options.device == "cpu" else 5 if options.reduced else 30)
    torch.backends.cuda.matmul.allow_tf32 = False
    with kernels_on_cpu() if options.device == "cpu" else nullcontext():
        found = measure(options)
    print(table(found))
    folder = options.out or (record.RESULTS if options.device == "cuda" else None)
    if folder is None:
        return
    suffix = "_dry" if options.device == "cpu" else "_reduced" if options.reduced else ""
    path = record.write(f"gpu{suffix}", {**settings(options), "workloads": found}, seed=options.seed, folder=folder)
    figure = figures.bars(found, title=f"Kernels and circuits on {settings(options)['device']}")
    figure.savefig(path.with_suffix(".png"), dpi=150)
    print(f"wrote {path.name} and its figure; {OURS} beside {BARE}")


if __name__ == "__main__":
    main()
