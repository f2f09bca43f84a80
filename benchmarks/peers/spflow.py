"""SPFlow's Einet with the depth, repetitions and units of a RAT workload.

Its splits are its own, so only the sizes are the same: `num_parameters` says how many it has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from spflow.meta.data import Scope
from spflow.modules.leaves import Categorical
from spflow.zoo.einet import Einet


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = torch.from_numpy(arrays["x"]).float()
    half = torch.where(torch.from_numpy(arrays["observed"]), x, torch.nan)
    units, depth, repetitions = options["num_units"], options["depth"], options["repetitions"]
    leaves = Categorical(
        Scope(list(range(x.shape[1]))), out_channels=units, num_repetitions=repetitions, K=options["num_categories"]
    )
    circuit = Einet(
        [leaves], num_sums=units, num_leaves=units, depth=depth, num_repetitions=repetitions, layer_type="einsum"
    )

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return circuit.log_likelihood(x).flatten()

    def half_missing() -> torch.Tensor:
        with torch.no_grad():
            return circuit.log_likelihood(half).flatten()

    def train() -> torch.Tensor:
        circuit.zero_grad()
        total = circuit.log_likelihood(x).sum()
        total.backward()
        return total.detach()

    def sample() -> torch.Tensor:
        with torch.no_grad():
            return circuit.sample(num_samples=1000)

    def conditional_sample() -> torch.Tensor:
        with torch.no_grad():
            return circuit.sample(data=half.clone())

    return {
        "forward": forward,
        "train": train,
        "half_missing": half_missing,
        "sample": sample,
        "conditional_sample": conditional_sample,
        "num_parameters": lambda: [sum(p.numel() for p in circuit.parameters())],
    }
