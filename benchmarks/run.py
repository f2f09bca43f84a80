"""Runs every benchmark, each in a process of its own: `python benchmarks/run.py [--reduced]`.

`--reduced` takes a few minutes on two cores and writes `*_reduced.json`; other arguments go to every benchmark.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ("coupling", "arithmetic", "overhead")


def main(arguments: list[str]) -> int:
    """Exit status: the number of benchmarks that failed."""
    failed = []
    for name in BENCHMARKS:
        print(f"\n=== {name} ===", flush=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=ROOT, check=False)
        print(f"({name}: {time.monotonic() - start:.0f} s)", flush=True)
        failed += [name] if done.returncode else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
