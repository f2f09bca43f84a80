"""Runs benchmarks, each in a process of its own: `python benchmarks/run.py [NAME ...] [--reduced]`.

All of them where none is named. `--reduced` takes about ten minutes on two cores and writes `*_reduced.json`; other
flags go to every benchmark. `python -m benchmarks.report` then writes the tables of `docs/performance.md`. Other
libraries take part where `make bench-peers` made their environment.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEED = ("layers", "circuits", "hmm", "sampling", "memory", "scaling", "compile_time")
QUALITY = ("coupling", "arithmetic", "few_steps", "truths", "constrained", "overhead", "density", "imputation")
BENCHMARKS = (*QUALITY, *SPEED)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Names of benchmarks, which come first, and flags."""
    flags = next((n for n, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    names = arguments[:flags]
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        raise SystemExit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return names or list(BENCHMARKS), arguments[flags:]


def main(arguments: list[str]) -> int:
    """Exit status: the number of benchmarks that failed."""
    names, flags = split(arguments)
    failed = []
    for name in names:
        print(f"\n=== {name} ===", flush=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags], cwd=ROOT, check=False)
        print(f"({name}: {time.monotonic() - start:.0f} s)", flush=True)
        failed += [name] if done.returncode else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
