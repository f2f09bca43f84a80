"""One side of a comparison, in a process of its own: `python -m benchmarks.worker MODULE CPUS`.

Answers requests, a JSON object a line, on the standard output: prepare a workload, run an action and hand back its
numbers, time an action, say how much memory was used. MODULE has `prepare(arrays, options)`, which returns the actions
by name. Runs in the environments of the peers, so it needs nothing but numpy.
"""

import contextlib
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

Request = dict[str, Any]


class Worker:
    """Holds the actions of the workload that was prepared last."""

    def __init__(self, module: str) -> None:
        self.side = importlib.import_module(module)
        self.imported_bytes = resident_bytes()
        self.actions: dict[str, Callable[[], Any]] = {}
        self.facts: dict[str, Any] = {}

    def prepare(self, request: Request) -> Request:
        import numpy

        self.actions = {}
        with numpy.load(request["arrays"]) as stored:
            arrays = dict(stored)
        start = time.perf_counter()
        self.actions = self.side.prepare(arrays, request["options"])
        return {"seconds": time.perf_counter() - start, "actions": sorted(self.actions)}

    def numbers(self, request: Request) -> Request:
        """Saves what an action returns."""
        import numpy

        numpy.save(request["path"], numpy.asarray(self.actions[request["action"]](), dtype=float))
        return {}

    def time(self, request: Request) -> Request:
        """Seconds a call, over some calls in a row."""
        action, calls = self.actions[request["action"]], request["calls"]
        start = time.perf_counter()
        for _ in range(calls):
            action()
        return {"seconds": (time.perf_counter() - start) / calls}

    def peak(self, request: Request) -> Request:
        """Most resident memory while an action runs a few times, above what importing took and what was resident
        before.
        """
        before = resident_bytes()
        forget_peak()
        for _ in range(request["calls"]):
            self.actions[request["action"]]()
        most = peak_bytes()
        return {"above_imports": most - self.imported_bytes, "above_prepared": most - before}


def resident_bytes() -> int:
    return _status("VmRSS")


def peak_bytes() -> int:
    return _status("VmHWM")


def forget_peak() -> None:
    """The most resident memory starts anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"the system does not report {field}")


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Until the requests end. An error is an answer, so that a side may fail at a size that others reach."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, request["do"])(request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main(module: str, cpus: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    with contextlib.redirect_stdout(sys.stderr):
        worker = Worker(module)
        answers.write(json.dumps({"ready": module}) + "\n")
        answers.flush()
        serve(worker, sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
