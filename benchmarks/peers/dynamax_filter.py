"""dynamax's filter as it is called, with all that it returns: the filtered and predicted states of each step."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import dynamax


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    return {"forward": dynamax.prepare(arrays, options)["filter"]}
