"""Sides of a comparison: a worker process each, which take turns at the same action."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
"""Interpreter of the environment that `make bench-peers` makes."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class SideError(RuntimeError):
    """A side cannot do what was asked of it."""


class Workload(NamedTuple):
    """Arrays that every side gets, parameters and data, and options that say what they are."""

    name: str
    arrays: dict[str, np.ndarray]
    options: dict[str, Any]


class Side:
    """A worker process. Use as a context manager."""

    def __init__(self, name: str, module: str, *, python: Path | str = sys.executable, threads: int = 1) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed on exit)
        self._process = subprocess.Popen(
            [str(python), "-m", "benchmarks.worker", module, ",".join(map(str, _cpus(threads)))],
            cwd=ROOT,
            env=_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self._receive()
        except SideError:
            self.close()
            raise

    def prepare(self, workload: Workload, **options: Any) -> dict[str, Any]:
        """Seconds that it took, and the names of the actions."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arrays.npz"
            np.savez(path, **workload.arrays)  # type: ignore[arg-type]
            return self.ask("prepare", arrays=str(path), options={**workload.options, **options})

    def numbers(self, action: str) -> np.ndarray:
        """What an action returns."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "numbers.npy"
            self.ask("numbers", action=action, path=str(path))
            return np.load(path)

    def seconds(self, action: str, calls: int = 1) -> float:
        """A call, on average over so many."""
        return self.ask("time", action=action, calls=calls)["seconds"]

    def peak(self, action: str, calls: int = 2) -> dict[str, int]:
        """Bytes: `above_imports` and `above_prepared`."""
        return self.ask("peak", action=action, calls=calls)

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SideError(f"{self.name} ended: {self._log.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        return answer

    def __enter__(self) -> "Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def race(sides: Sequence[Side], action: str, *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds a call of each side, a repetition a round, by turns and in alternating order.

    The first call of each is not counted: some compile. If the second takes more than `seconds`, it is all there is;
    else a repetition is as many calls as take 20 ms, and a side sits out once it has used its `seconds`.
    """
    found: dict[str, list[float]] = {}
    calls = {}
    for side in sides:
        side.seconds(action)
        second = side.seconds(action)
        found[side.name] = [second] if second > seconds else []
        calls[side.name] = max(1, round(0.02 / second))
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            taken = found[side.name]
            if sum(taken) * calls[side.name] < seconds:
                taken.append(side.seconds(action, calls[side.name]))
    return found


def agree(numbers: Mapping[str, np.ndarray], *, relative: float) -> float:
    """The largest relative difference between the sides' numbers and the first side's; SideError if it is larger than
    `relative` of that side's largest number.
    """
    first, *others = numbers
    expected = numbers[first]
    scale = np.abs(expected).max()
    worst = 0.0
    for name in others:
        if numbers[name].shape != expected.shape:
            raise SideError(f"{name} has numbers of shape {numbers[name].shape}, {first} {expected.shape}")
        difference = float(np.abs(numbers[name] - expected).max() / scale)
        if not difference <= relative:
            raise SideError(f"{name} and {first} compute different numbers: they differ by {difference:.2g}")
        worst = max(worst, difference)
    return worst


def _cpus(threads: int) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(threads))
    return allowed[-threads:]


def _environment(threads: int) -> dict[str, str]:
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
    return {
        **os.environ,
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "XLA_FLAGS": eigen,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
