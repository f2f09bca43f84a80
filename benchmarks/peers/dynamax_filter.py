"""dynamax's filter as it is called, with all that it returns, the filtered and predicted states of each step; and its
gradient.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers import dynamax


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    actions = dynamax.prepare(arrays, options)
    return {"forward": actions["filter"], "gradient": actions["filter_gradient"]}
