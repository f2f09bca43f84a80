"""Every Triton kernel compiles for the devices of three generations, to tensor-core instructions and within limits.

The compiler checks neither the limit of shared memory nor spills; nothing here runs, so races and real precision are
not checked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes that one program may use
# Bytes a thread may spill, in the default precision: at sizes that are multiples of 16, and at others.
STACK, STACK_AT_ODD_SIZES = 64, 128
WITHOUT_PRODUCTS = {
    "categorical_fwd_kernel",
    "gaussian_count_kernel",
    "gaussian_fwd_kernel",
    "product_bwd_kernel",
    "product_fwd_kernel",
    "segment_sum_fwd_kernel",
    "top_fwd_kernel",
    "top_posterior_kernel",
}


def kernels() -> set[str]:
    """Names of all kernels that the package defines."""
    lines = [line for path in ROOT.glob("pcircuits/kernels/*/triton.py") for line in path.read_text().splitlines()]
    names = {line.removeprefix("def ").partition("(")[0] for line in lines if line.startswith("def ")}
    return {name for name in names if name.endswith("_kernel")}


def check(stack: int, *options: str, jobs: int = 1) -> list[dict[str, Any]]:
    """Compile in processes of their own: here Triton interprets. Returns what was compiled, a row each."""
    counts = [*map(str, SHARED_MEMORY), "--jobs", str(jobs)]
    command = [sys.executable, "-m", "tests.kernels.ahead_of_time", *counts, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    made = {(row["kernel"], row["capability"]) for row in rows}
    assert made == {(kernel, capability) for kernel in kernels() for capability in SHARED_MEMORY}
    assert [row for row in rows if row["shared"] > SHARED_MEMORY[row["capability"]]] == []
    assert [row for row in rows if row["stack"] > stack and row["precision"] in (None, "tf32x3")] == []
    on_tensor_cores = [row for row in rows if row["precision"] not in (None, "ieee")]
    assert [row for row in on_tensor_cores if not row["tensor_core_instructions"]] == []
    assert {row["kernel"] for row in rows if row["precision"] is None} == WITHOUT_PRODUCTS
    return rows


def test_kernels_compile() -> None:
    check(STACK)


@pytest.mark.campaign
def test_every_variant_compiles() -> None:
    """Odd sizes, every flag and child count, and every precision: in minutes, less from what Triton kept."""
    check(STACK_AT_ODD_SIZES, "--all", jobs=os.cpu_count() or 1)
