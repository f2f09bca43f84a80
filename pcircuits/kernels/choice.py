"""Which implementation of an operation serves a call: the one place that chooses."""

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def chosen(definition: Callable[P, R], name: str | None = None) -> Callable[P, R]:
    """An operation by its definition in `<op>/reference.py`, or what stands for it on CPUs, or by its namesake (or
    `name`) in `<op>/triton.py`.
    """
    folder, name = definition.__module__.rpartition(".")[0], name or definition.__name__

    @functools.wraps(definition)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not on_triton(args):
            return definition(*args, **kwargs)
        with torch.cuda.device_of(_first(args)):  # Triton launches on the current device
            return getattr(import_module(f"{folder}.triton"), name)(*args, **kwargs)

    return call


def on_triton(args: tuple[Any, ...]) -> bool:
    """Whether the first floating point tensor is of float32 and on a CUDA device, and Triton is installed."""
    first = _first(args)
    return first.is_cuda and first.dtype == torch.float32 and has_triton()


def _first(args: tuple[Any, ...]) -> torch.Tensor:
    return next(x for x in args if isinstance(x, torch.Tensor) and x.is_floating_point())


@functools.cache
def has_triton() -> bool:
    return find_spec("triton") is not None
