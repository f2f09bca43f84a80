"""cirkit's hidden Chow-Liu tree of the training rows, by its own templates; Adam."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cirkit.pipeline import PipelineContext
from cirkit.templates.data_modalities import tabular_data

from benchmarks.peers import training


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    torch.manual_seed(options["seed"])
    symbolic = tabular_data(
        "chow-liu-tree",
        data=torch.from_numpy(arrays["train"]),
        input_layers={"name": "categorical", "args": {"num_categories": 2}},
        num_input_units=options["num_units"],
        sum_product_layer="cp-t",
        num_sum_units=options["num_units"],
    )
    circuit = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True).compile(symbolic)
    return training.actions(circuit, circuit, arrays, options)
