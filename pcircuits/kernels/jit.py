"""Triton's compiler on a kernel as it was written."""

import inspect
from collections.abc import Callable
from typing import Any

import triton


def jit(kernel: Callable) -> Any:
    """`triton.jit`, without the checks that tests wrap around every function of this package: they would hide the
    kernel's globals from Triton.
    """
    return triton.jit(inspect.unwrap(kernel))
