"""Adam with early stopping for the peers of the density benchmark, alike for all of them."""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

BATCH = 256


def actions(
    model: torch.nn.Module,
    log_likelihood: Callable[[torch.Tensor], torch.Tensor],
    arrays: dict[str, np.ndarray],
    options: dict[str, Any],
) -> dict[str, Callable[[], Any]]:
    """`fit` trains and returns parameters, epochs and processor seconds; `valid` and `test` then log-likelihoods."""
    train, valid, test = (torch.from_numpy(arrays[part]) for part in ("train", "valid", "test"))

    @torch.no_grad()
    def evaluate(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([log_likelihood(part).flatten() for part in rows.split(BATCH)]).double()

    def fit() -> list[float]:
        start, best, kept, waited, done = time.process_time(), -np.inf, copy.deepcopy(model.state_dict()), 0, 0
        optimizer = torch.optim.Adam(model.parameters(), lr=options["learning_rate"])
        generator = torch.Generator().manual_seed(options["seed"])
        while done < options["epochs"] and waited < options["patience"]:
            for rows in torch.randperm(len(train), generator=generator).split(BATCH):
                optimizer.zero_grad()
                (-log_likelihood(train[rows]).mean()).backward()
                optimizer.step()
            score, done, waited = float(evaluate(valid).mean()), done + 1, waited + 1
            if score > best:
                best, kept, waited = score, copy.deepcopy(model.state_dict()), 0
        model.load_state_dict(kept)
        return [sum(p.numel() for p in model.parameters()), done, time.process_time() - start]

    return {"fit": fit, "valid": lambda: evaluate(valid), "test": lambda: evaluate(test)}
