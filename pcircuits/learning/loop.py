"""The one training loop: any learner, any objective, any batches; stops early, and resumes bit by bit."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pcircuits.errors import DataError, FormatError
from pcircuits.learning import checkpoint as checkpoints
from pcircuits.learning.batches import Source
from pcircuits.learning.checkpoint import Checkpoint, Cursor, RandomState
from pcircuits.learning.distributed import place
from pcircuits.learning.history import Epoch, History
from pcircuits.learning.interruption import Interruption
from pcircuits.learning.learner import Batch, Learner, Objective, mean_loss
from pcircuits.types import Tensor


@dataclass(frozen=True)
class Folder:
    """Where checkpoints go, after how many batches, and the settings that a resumed run must share."""

    path: str | os.PathLike
    every: int | None
    setup: dict[str, Any]


@dataclass
class Training:
    """One run of `fit`: what changes are the model, the learner, the cursor, the history and the best parameters."""

    model: nn.Module
    learner: Learner
    objective: Objective | None
    source: Source
    held_out: Source | None
    epochs: int
    patience: int | None
    folder: Folder | None
    on_epoch: Callable[[Epoch], Any] | None
    cursor: Cursor = field(default_factory=Cursor)
    history: History = field(default_factory=History)
    best: dict[str, Tensor] = field(default_factory=dict)
    epoch_random: RandomState = field(default_factory=dict)
    resumed_random: RandomState | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def run(self, interruption: Interruption, *, progress: bool) -> History:
        """Train until the epochs are done, patience runs out or the caller says so; then take the best parameters."""
        was_training = self.model.training
        try:
            with self._bar(progress) as bar:
                self._validate_initial()
                stop = False
                while self.cursor.epoch < self.epochs and not (stop or self._out_of_patience()):
                    stop = self._run_epoch(interruption, bar)
        finally:
            self.model.train(was_training)
        self.history.stopped_early = self._out_of_patience()
        if self.best:
            self.model.load_state_dict(self.best)
        return self.history

    def _run_epoch(self, interruption: Interruption, bar: tqdm) -> bool:
        self.model.train()
        began = time.monotonic() - self.cursor.seconds
        for batch in self._batches():
            self._learn(batch)
            self.cursor.seconds = time.monotonic() - began
            bar.update()
            if self.folder is not None and self.folder.every is not None and self.cursor.batch % self.folder.every == 0:
                self.save()
            self._stop_if(interruption, saved=False)
        record = self._end_epoch(began)
        bar.set_postfix(_shown(record))
        stop = self.on_epoch is not None and self.on_epoch(record) is True
        if self.folder is not None:
            self.save()
        self._stop_if(interruption, saved=True)
        return stop

    def _learn(self, batch: Batch | None) -> None:
        if batch is not None:
            score = self.learner.update(batch)
            self.cursor.loss += score.loss
            self.cursor.weight += score.weight
        self.cursor.batch += 1

    def _batches(self) -> Iterator[Batch | None]:
        """The epoch's remaining batches; a resumed epoch skips and goes on with the random numbers that it had."""
        if self.resumed_random is None:
            self.epoch_random = checkpoints.random_state(self.device)
        else:
            checkpoints.set_random_state(self.epoch_random, self.device)
        remaining = self.source.batches(self.cursor.epoch, self.cursor.batch)
        if self.resumed_random is not None and self.cursor.batch > 0:
            checkpoints.set_random_state(self.resumed_random, self.device)
        self.resumed_random = None
        return remaining

    def _end_epoch(self, began: float) -> Epoch:
        if not self.cursor.weight > 0:
            raise DataError(f"epoch {self.cursor.epoch} of `data` has no batches with any weight")
        self.learner.end_epoch()
        number, train_loss, valid_loss = self.cursor.epoch, self.cursor.loss / self.cursor.weight, self._valid_loss()
        self.history.epochs.append(Epoch(number, train_loss, valid_loss, time.monotonic() - began))
        self._keep_if_best(number, valid_loss)
        self.cursor, self.epoch_random = Cursor(number + 1), {}
        return self.history.epochs[-1]

    def _validate_initial(self) -> None:
        if self.cursor == Cursor():
            self.history.initial_valid_loss = self._valid_loss()
            self._keep_if_best(-1, self.history.initial_valid_loss)

    def _keep_if_best(self, number: int, loss: float | None) -> None:
        if loss is None or not self.history.improves(loss):
            return
        self.history.best_epoch, self.history.best_valid_loss = number, loss
        if self.patience is not None:
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _out_of_patience(self) -> bool:
        best = self.history.best_epoch
        return self.patience is not None and best is not None and self.cursor.epoch - 1 - best >= self.patience

    @torch.no_grad()
    def _valid_loss(self) -> float | None:
        """Mean loss of the held-out data; random numbers are the same each time and leave no trace in training."""
        if self.held_out is None:
            return None
        self.model.eval()
        total = weight = 0.0
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            for batch in self.held_out.batches(0):
                if batch is not None:
                    loss, share = mean_loss(self.model, self.objective, batch)
                    total, weight = total + float(loss) * share, weight + share
        if not weight > 0:
            raise DataError("`valid` has no batches with any weight")
        return total / weight

    def save(self) -> None:
        """Write the run's state into its folder; of several processes the first one does."""
        assert self.folder is not None
        if place().rank > 0:
            return
        now = checkpoints.random_state(self.device)
        parts = {
            "model": self.model.state_dict(),
            "learner": self.learner.state(),
            "best": self.best,
            "random/epoch": self.epoch_random or now,
            "random/now": now,
        }
        tensors = {f"{prefix}/{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}
        checkpoints.save(Checkpoint(self.folder.setup, self.cursor, self.history, tensors), self.folder.path)

    def restore(self, stored: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ParameterError: one of a run with other settings. FormatError: one of another model.
        """
        assert self.folder is not None
        checkpoints.require_same_setup(stored.setup, self.folder.setup, self.folder.path)
        try:
            self.model.load_state_dict(stored.part("model"))
            self.learner.load_state(stored.part("learner"))
        except (RuntimeError, KeyError) as error:
            raise FormatError(f"the checkpoint in {self.folder.path} belongs to another model: {error}") from error
        self.cursor, self.history, self.best = stored.cursor, stored.history, stored.part("best")
        self.epoch_random, self.resumed_random = stored.part("random/epoch"), stored.part("random/now")

    def _stop_if(self, interruption: Interruption, *, saved: bool) -> None:
        if interruption.requested:
            if not saved:
                self.save()
            raise KeyboardInterrupt(
                "the run's state is in its checkpoint folder; the same call with resume=True goes on from it"
            )

    def _bar(self, progress: bool) -> tqdm:
        batches = self.source.num_batches
        done = 0 if batches is None else self.cursor.epoch * batches + self.cursor.batch
        total = None if batches is None else self.epochs * batches
        return tqdm(
            total=total, initial=done, disable=not progress, desc=self.learner.name, unit="batch", mininterval=0.5
        )


def _shown(epoch: Epoch) -> Mapping[str, str]:
    shown = {"epoch": str(epoch.number), "loss": f"{epoch.train_loss:.4f}"}
    return shown if epoch.valid_loss is None else {**shown, "valid": f"{epoch.valid_loss:.4f}"}
