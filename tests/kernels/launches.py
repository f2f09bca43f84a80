"""Which Triton kernels were launched."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from benchmarks.interpreted import kernels_on_cpu


@contextmanager
def kernels_chosen(device: str | torch.device = "cpu") -> Iterator[set[str]]:
    """Within it float32 operations are Triton's on this device; yields the names of the kernels that ran."""
    launched: set[str] = set()
    launcher = InterpretedFunction if os.environ.get("TRITON_INTERPRET") == "1" else JITFunction

    def run(self: Any, *args: Any, _run: Any = launcher.run, **options: Any) -> Any:
        launched.add(self.fn.__name__)
        return _run(self, *args, **options)

    chosen = nullcontext() if torch.device(device).type == "cuda" else kernels_on_cpu()
    with mock.patch.object(launcher, "run", run), chosen:
        yield launched
