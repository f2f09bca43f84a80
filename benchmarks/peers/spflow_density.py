"""SPFlow's Einet with random splits; Adam."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from spflow.meta.data import Scope
from spflow.modules.leaves import Categorical
from spflow.zoo.einet import Einet

from benchmarks.peers import training


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(options["seed"])
    variables, units, repetitions = arrays["train"].shape[1], options["num_units"], options["repetitions"]
    leaves = Categorical(Scope(list(range(variables))), out_channels=units, num_repetitions=repetitions, K=2)
    circuit = Einet(
        [leaves],
        num_sums=units,
        num_leaves=units,
        depth=min(3, variables.bit_length() - 1),
        num_repetitions=repetitions,
        layer_type="einsum",
    )
    return training.actions(circuit, lambda x: circuit.log_likelihood(x.float()), arrays, options)
