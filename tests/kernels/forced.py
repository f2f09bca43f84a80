"""The choice of Triton kernels, forced on CPU tensors, and which of them were launched."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

import pcircuits as pc
from pcircuits.kernels import choice
from pcircuits.workspace import Memory


@contextmanager
def kernels_chosen(device: str | torch.device = "cpu") -> Iterator[set[str]]:
    """Within it float32 operations are Triton's on this device; yields the names of the kernels that ran."""
    launched: set[str] = set()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    launcher = InterpretedFunction if interpreted else JITFunction

    def run(self: Any, *args: Any, _run: Any = launcher.run, **options: Any) -> Any:
        launched.add(self.fn.__name__)
        return _run(self, *args, **options)

    def on_triton(args: tuple[Any, ...]) -> bool:
        return choice._first(args).dtype == torch.float32

    with mock.patch.object(launcher, "run", run):
        if torch.device(device).type == "cuda":
            yield launched
            return
        with mock.patch.object(choice, "on_triton", on_triton), mock.patch.object(pc.Circuit, "_memory", _memory):
            yield launched


def _memory(*_: Any) -> Memory:
    """What CUDA devices have."""
    return Memory()
