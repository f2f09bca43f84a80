"""What the CUDA kernels compile to: `python -m benchmarks.compiled`, without a GPU, in minutes; less from what Triton
has kept.

Compiles every variant of every kernel for three generations of devices, checks them as the long tier of the tests
does, and writes `compiled.json` and the table of `docs/kernels.md`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton

from benchmarks import record
from benchmarks.report import markdown
from tests.kernels.test_ahead_of_time import SHARED_MEMORY, STACK_AT_ODD_SIZES, check

PAGE = record.ROOT / "docs" / "kernels.md"
Row = dict[str, Any]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """By kernel and capability: how many variants, and the worst of them."""
    found: dict[str, Any] = {}
    for kernel in sorted({row["kernel"] for row in rows}):
        of_kernel = [row for row in rows if row["kernel"] == kernel]
        found[kernel] = {str(c): worst([row for row in of_kernel if row["capability"] == c]) for c in SHARED_MEMORY}
    return found


def worst(rows: Sequence[Row]) -> dict[str, int | None]:
    """Of the default precision; `stack_of_others` of the others."""
    default = [row for row in rows if row["precision"] in (None, "tf32x3")]
    multiplies = default[0]["precision"] is not None
    return {
        "variants": len(rows),
        "registers": max(row["registers"] for row in default),
        "stack": max(row["stack"] for row in default),
        "stack_of_others": max((row["stack"] for row in rows if row not in default), default=0),
        "shared": max(row["shared"] for row in rows),
        "tensor_core_instructions": min(row["tensor_core_instructions"] for row in default) if multiplies else None,
    }


def table(found: dict[str, Any]) -> str:
    cells = ("registers", "stack", "shared", "tensor_core_instructions")
    rows = [["kernel", "variants", *(f"sm_{capability}" for capability in SHARED_MEMORY)]]
    for kernel, of_kernel in found.items():
        worst_of = [["-" if of[cell] is None else str(of[cell]) for cell in cells] for of in of_kernel.values()]
        variants = next(iter(of_kernel.values()))["variants"]
        rows.append([f"`{kernel.removesuffix('_kernel')}`", str(variants), *(" / ".join(x) for x in worst_of)])
    return markdown(rows)


def sentences(stored: dict[str, Any]) -> str:
    results, date = stored["results"], stored["date"][:10]
    of_others = {
        f"{kernel.removesuffix('_kernel')} {max(of['stack_of_others'] for of in of_kernel.values())}"
        for kernel, of_kernel in results["kernels"].items()
        if max(of["stack_of_others"] for of in of_kernel.values()) > STACK_AT_ODD_SIZES
    }
    beyond = (
        f" In another precision more bytes of stack are used by: {', '.join(sorted(of_others))}." if of_others else ""
    )
    about = f"{results['compilations']} compilations, {date}, Triton {results['triton']}"
    return f"{about}; at most {STACK_AT_ODD_SIZES} bytes of stack a thread were allowed.{beyond}"


def rewrite(page: str, stored: dict[str, Any]) -> str:
    body = f"{table(stored['results']['kernels'])}\n\n{sentences(stored)}"
    marked = f"<!-- begin compiled -->\n{body}\n<!-- end compiled -->"
    return re.sub(r"<!-- begin compiled -->.*?<!-- end compiled -->", lambda _: marked, page, flags=re.DOTALL)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    rows = check(STACK_AT_ODD_SIZES, "--all", jobs=options.jobs)
    results = {"compilations": len(rows), "triton": triton.__version__, "kernels": summary(rows)}
    path = record.write("compiled", results, seed=0, folder=options.out)
    stored = {"date": record.provenance()["date"], "results": results}
    PAGE.write_text(rewrite(PAGE.read_text(encoding="utf-8"), stored), encoding="utf-8")
    print(f"wrote {path.name} and {PAGE.name}")


if __name__ == "__main__":
    main()
