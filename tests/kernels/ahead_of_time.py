"""What kernels compile to, without a device: `python -m tests.kernels.ahead_of_time 80 90` prints JSON lines.

The operations are called as they would be on a device, and what they launch is compiled instead of
run: a line a kernel and capability. `--all` adds what else a kernel is compiled to: every flag and child count, sizes
that are odd, and at one launch of each kernel every precision. Processes share the work, and Triton keeps what it has
compiled.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from tests.kernels.cases import CASES, Case, Draw
from tests.kernels.comparison import results, surrounded

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64", torch.uint8: "*u8"}
SIZES = {
    "F": 2, "B": 128, "O": 64, "J": 64, "K": 64, "V": 512, "H": 64, "T": 4, "N": 64, "S": 32, "G": 2, "A": 2, "R": 4,
    "C": 32,
}  # fmt: skip
BLOCKS = {"F": 2, "B": 128, "O": 4, "J": 4}
ODD = {axis: size + 1 for axis, size in SIZES.items()}
TENSOR_CORES = {80: r"mma\.sync", 90: r"wgmma\.mma|mma\.sync", 100: r"tcgen05\.mma|mma\.sync"}
FLAGS = ("ARITY", "LATENT", "FLOW", "GATED", "INDIRECT", "WEIGHTED")
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Launch(NamedTuple):
    """A kernel and all that decides what it is compiled to."""

    kernel: JITFunction
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    warps: int


def launch_of(kernel: JITFunction, args: tuple, options: dict) -> Launch:
    """As Triton specialises: integers of 1 are constants, and multiples of 16 are known to be."""
    given = {**dict(zip(kernel.arg_names, args, strict=False)), **options}
    types, constants, aligned = [], [], []
    for i, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            types.append((parameter.name, "constexpr"))
            constants.append((parameter.name, value))
            continue
        address = value.data_ptr() if isinstance(value, torch.Tensor) else value
        types.append((parameter.name, TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"))
        aligned += [i] if address % 16 == 0 else []
    return Launch(kernel, tuple(types), tuple(constants), tuple(aligned), options.get("num_warps", 4))


def launches(case: Case, sizes: dict[str, int]) -> list[Launch]:
    """What a case's results and gradients launch."""
    found: list[Launch] = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        assert all(0 < n < 2**31 for n in grid) and not warmup
        found.append(launch_of(self, args, options))

    run, JITFunction.run = JITFunction.run, record
    try:
        arguments = case.make({axis: sizes[axis] for axis in case.sizes}, Draw(0, False))
        results(case, case.kernel, {name: surrounded(x, "cpu") for name, x in arguments.items()})
    finally:
        JITFunction.run = run
    return found


def compiled(launch: Launch, capability: int) -> dict[str, Any]:
    """Shared memory and stack in bytes, registers a thread, and how many tensor-core instructions."""
    source = ASTSource(
        fn=launch.kernel,
        signature=dict(launch.types),
        constexprs=dict(launch.constants),
        attrs={(i,): [["tt.divisibility", 16]] for i in launch.aligned},
    )
    target, options = GPUTarget("cuda", capability, 32), {"num_warps": launch.warps}
    made = triton.compile(source, target=target, options=options)
    return {
        "shared": made.metadata.shared,
        "tensor_core_instructions": len(re.findall(TENSOR_CORES[capability], made.asm["ptx"])),
        **usage(made.asm["cubin"]),
    }


def usage(cubin: bytes) -> dict[str, int]:
    """Registers, and bytes of stack a thread: where registers are spilled to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    kernel = text[text.index("Function") :]
    return {
        key: int(re.search(rf"{name}:(\d+)", kernel)[1])  # type: ignore[index]
        for key, name in (("registers", "REG"), ("stack", "STACK"))
    }


def chosen(everything: bool) -> Iterator[tuple[Case, Launch]]:
    """One launch a kernel, the first of the cases in order; or all, and the first at every precision."""
    kernels: set[str] = set()
    seen: set[Launch] = set()
    for case in CASES:
        regular = BLOCKS if case.folder == "block_sparse_sum" else SIZES
        for sizes in (regular, ODD) if everything and regular is SIZES else (regular,):
            for launch in launches(case, sizes):
                first = launch.kernel.fn.__name__ not in kernels
                for variant in at_every_precision(launch) if everything and first else [launch]:
                    if variant not in seen and (everything or first):
                        seen.add(variant)
                        yield case, variant
                kernels.add(launch.kernel.fn.__name__)


def at_every_precision(launch: Launch) -> Iterator[Launch]:
    constants = dict(launch.constants)
    yield launch
    for precision in ("ieee", "tf32", "bf16x3") if "PRECISION" in constants else ():
        yield launch._replace(constants=tuple({**constants, "PRECISION": precision}.items()))


def row(case: Case, launch: Launch, capability: int) -> dict[str, Any]:
    flags = {name: value for name, value in launch.constants if name in FLAGS}
    precision = dict(launch.constants).get("PRECISION")
    about = {"kernel": launch.kernel.fn.__name__, "case": case.name, "precision": precision, "flags": flags}
    return {**about, "capability": capability, **compiled(launch, capability)}


def rows(work: Sequence[tuple[Case, Launch, int]], jobs: int) -> Iterator[dict[str, Any]]:
    """In the order in which they are done. Forked processes have the work, which cannot be pickled."""
    if jobs == 1:
        yield from (row(*item) for item in work)
        return
    torch.set_num_threads(1)
    with ProcessPoolExecutor(jobs, get_context("fork"), initializer=_WORK.extend, initargs=(work,)) as pool:
        for done in as_completed([pool.submit(_row_at, i) for i in range(len(work))]):
            yield done.result()


_WORK: list[tuple[Case, Launch, int]] = []  # of a worker process


def _row_at(index: int) -> dict[str, Any]:
    return row(*_WORK[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capabilities", type=int, nargs="+", choices=TENSOR_CORES)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--kernel", default="", help="only those whose name has this in it")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    launched = [x for x in chosen(options.all) if options.kernel in x[1].kernel.fn.__name__]
    work = [(case, launch, capability) for case, launch in launched for capability in options.capabilities]
    for found in rows(work, options.jobs):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
