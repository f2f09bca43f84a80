"""Gradient learning of anything that has parameters and a differentiable objective."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from pcircuits.circuit import Circuit
from pcircuits.errors import DataError, ParameterError
from pcircuits.learning.distributed import average_gradients, synchronise
from pcircuits.learning.em import require
from pcircuits.learning.learner import Batch, Learner, Objective, Score, mean_loss
from pcircuits.learning.local_steps import LocalRound, average
from pcircuits.types import Tensor


@dataclass(repr=True)
class Adam(Learner):
    """Adam (Kingma, Ba 2015) on the mean loss of a batch, without weight decay.

    Circuits stay normalised, since their weights are normalised on use. In several processes (`learning.distributed`)
    each learns from its rows of the batch and gradients are averaged: the result is that of one process.

    Args:
        lr: peak learning rate.
        betas: decay of the averages of gradients and of their squares.
        clip: largest norm of the gradient; longer ones are scaled down to it. None: never.
        warmup: updates over which the rate rises linearly to `lr`.
        decay: updates after the warm-up over which it falls to zero along half a cosine. None: it stays.
        every: of several processes, how many updates each makes from its own gradients before the parameters of all,
            and Adam's two averages, become their means, weighted by the rows (Local SGD: Stich 2019). At 1 gradients
            are averaged instead. Rounds and checkpoints are as in MiniBatchEM.
    """

    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0
    warmup: int = 0
    decay: int | None = None
    every: int = 1
    name: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, self, "`lr` must be positive and finite")
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), self, "`betas` must be two numbers in [0, 1)"
        )
        require(self.clip is None or self.clip > 0, self, "`clip` must be positive or None")
        require(
            self.warmup >= 0 and (self.decay is None or self.decay > 0),
            self,
            "`warmup` must be at least 0 and `decay` positive or None",
        )
        require(isinstance(self.every, int) and self.every >= 1, self, "`every` must be a positive integer")

    def begin(self, model: nn.Module, objective: Objective | None) -> None:
        if objective is None and not isinstance(model, Circuit):
            raise ParameterError(
                f"a {type(model).__name__} has no likelihood of its own; give fit an `objective(model, batch)`"
            )
        self._model, self._objective, self._updates = model, objective, 0
        if not (parameters := [p for _, p in self._trained()]):
            raise ParameterError(f"this {type(model).__name__} has no parameter that requires a gradient")
        synchronise(model)
        self._round = LocalRound((), self.every)
        self._optimizer = torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)

    def update(self, batch: Batch) -> Score:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss, weight = mean_loss(self._model, self._objective, batch)
        _require_finite("loss", loss.detach())
        loss.backward()
        parameters = [p for _, p in self._trained()]
        mean = float(loss.detach())
        if self._round.is_shared:
            mean, weight = average_gradients(parameters, mean, weight)
        else:
            self._round.add(weight)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip or math.inf)
        _require_finite("gradient", norm)
        self._optimizer.param_groups[0]["lr"] = self.rate(self._updates)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._updates += 1
        if self._round.is_over:
            self._agree()
        return Score(mean * weight, weight)

    def end_epoch(self) -> None:
        if self._round.batches:
            self._agree()

    def _agree(self) -> None:
        parameters = [p for _, p in self._trained()]
        states = [self._optimizer.state[p] or self._new_state(p) for p in parameters]
        average([*parameters, *(x for state in states for x in state.values())], self._round.weight)
        self._round.end()

    def _new_state(self, p: nn.Parameter) -> dict[str, Tensor]:
        """That of a parameter without a gradient so far, which other processes may have had."""
        state = self._optimizer.state[p]
        state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return state

    def rate(self, update: int) -> float:
        """The learning rate of an update, counted from 0."""
        if update < self.warmup:
            return self.lr * (update + 1) / self.warmup
        if self.decay is None:
            return self.lr
        done = min(1.0, (update - self.warmup) / self.decay)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def state(self) -> dict[str, Tensor]:
        moments = {
            f"{name}/{key}": value for name, p in self._trained() for key, value in self._optimizer.state[p].items()
        }
        return {**moments, "updates": torch.tensor(self._updates)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._updates = int(tensors["updates"])
        parameters = dict(self._trained())
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            if name:
                p, on_cpu = parameters[name], value.ndim == 0  # torch keeps its step counts there
                self._optimizer.state[p][moment] = value if on_cpu else value.to(p.device)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self._model.named_parameters() if p.requires_grad)


def _require_finite(what: str, value: Tensor) -> None:
    if not value.isfinite():
        raise DataError(
            f"the {what} is {float(value)}; no step was taken. An infinite loss means data that the model holds "
            "impossible: a value outside a support mask, or evidence without any possible world"
        )
