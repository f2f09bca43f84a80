"""Triton kernels on CPU tensors, in Triton's interpreter: for dry runs and tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

import pcircuits as pc
from pcircuits.kernels import choice
from pcircuits.workspace import Memory


@contextmanager
def kernels_on_cpu() -> Iterator[None]:
    """Within it what is float32 on a CPU is evaluated as on a CUDA device."""
    with mock.patch.object(choice, "on_triton", _on_triton), mock.patch.object(pc.Circuit, "_memory", _memory):
        yield


def _on_triton(args: tuple[Any, ...]) -> bool:
    return choice._first(args).dtype == torch.float32


def _memory(*_: Any) -> Memory:
    """What CUDA devices have."""
    return Memory()
