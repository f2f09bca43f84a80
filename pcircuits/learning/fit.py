"""`fit`: from a model, data and a learner to a trained model and its history."""

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pcircuits.errors import ParameterError
from pcircuits.learning import checkpoint as checkpoints
from pcircuits.learning.adam import Adam
from pcircuits.learning.anemone import Anemone
from pcircuits.learning.batches import Data, Rows, as_source
from pcircuits.learning.em import EM, MiniBatchEM
from pcircuits.learning.history import Epoch, History
from pcircuits.learning.interruption import Interruption
from pcircuits.learning.learner import Learner, Objective
from pcircuits.learning.loop import Folder, Training
from pcircuits.types import Float, Tensor

LEARNERS: dict[str, type[Learner]] = {kind.name: kind for kind in (EM, MiniBatchEM, Anemone, Adam)}


def fit(  # noqa: PLR0913 - one call holds all that a user may choose
    model: nn.Module,
    data: Data,
    *,
    valid: Data | None = None,
    learner: Learner | str = "em",
    objective: Objective | None = None,
    epochs: int = 20,
    batch_size: int | None = None,
    sample_weights: Float[Tensor, " N"] | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    on_epoch: Callable[[Epoch], Any] | None = None,
    progress: bool = True,
) -> History:
    """Learn the model's parameters in place: by default the maximum likelihood of a circuit by EM.

    Args:
        model: a Circuit; with an `objective` any module.
        data: rows (N, D), or an Evidence where values are missing or soft: both are shuffled each epoch. Or
            batches, which stream: a TokenShards, a list, a DataLoader, or a function of the epoch number, yielding
            rows, Evidence, or pairs (batch, weights). An `objective` gets its batches as they are.
        valid: held-out data, in the same forms; its loss is measured after each epoch, always with the same random
            numbers.
        learner: EM(), MiniBatchEM(), Anemone(), Adam(), or "em", "minibatch_em", "anemone", "adam".
        objective: `objective(model, batch)` returns a loss to minimise or log likelihoods (B,) to maximise. Needs
            Adam.
        batch_size: of rows in memory; 256 if left out.
        sample_weights: how often each row in memory counts, (N,), at least 0.
        patience: stop after this many epochs without a better validation loss, and end with the best parameters,
            which may be the initial ones.
        checkpoint: a folder that holds the run's state after every epoch, and after every `checkpoint_every`
            batches. Ctrl-C saves once more, then raises.
        resume: go on from the folder's checkpoint if it has one. The same call, interrupted anywhere and resumed,
            ends with bit-identical parameters.
        seed: of the order of rows. None: drawn from torch's global generator.
        on_epoch: called with each epoch's record; returning True ends the run.

    Raises:
        DataError, ShapeError, EvidenceError: data that is empty, NaN, outside its domain or of the wrong width,
            before any work where it is in memory.
        ParameterError: settings that do not fit together. FormatError: a checkpoint that cannot be read.
    """
    if checkpoint is not None and not resume and checkpoints.exists(checkpoint):
        raise ParameterError(
            f"{checkpoint} already holds a checkpoint; pass resume=True to go on from it, or remove it"
        )
    _require_settings(
        model, epochs=epochs, patience=patience, valid=valid, checkpoint=checkpoint, checkpoint_every=checkpoint_every
    )
    learner = _learner(learner)
    learner.begin(model, objective)
    stored = checkpoints.load(checkpoint) if checkpoint is not None and checkpoints.exists(checkpoint) else None
    if seed is None:
        seed = int(torch.randint(2**62, ())) if stored is None else stored.setup.get("seed", 0)
    likelihood = objective is None
    source = as_source(
        data, model, likelihood=likelihood, name="data", batch_size=batch_size, sample_weights=sample_weights, seed=seed
    )
    if batch_size is not None and not isinstance(source, Rows):
        raise ParameterError("`batch_size` is for rows in memory; these batches come ready-made")
    held_out = (
        None if valid is None else as_source(valid, model, likelihood=likelihood, name="valid", batch_size=batch_size)
    )
    setup = {"learner": repr(learner), "data": source.description, "seed": seed}
    folder = None if checkpoint is None else Folder(checkpoint, checkpoint_every, setup)
    training = Training(model, learner, objective, source, held_out, epochs, patience, folder, on_epoch)
    if stored is not None:
        training.restore(stored)
    with Interruption(enabled=folder is not None) as interruption:
        return training.run(interruption, progress=progress)


def _learner(learner: Learner | str) -> Learner:
    if isinstance(learner, Learner):
        return copy.copy(learner)
    if learner not in LEARNERS:
        raise ParameterError(f"`learner` must be a learner or one of {', '.join(map(repr, LEARNERS))}; got {learner!r}")
    return LEARNERS[learner]()


def _require_settings(
    model: nn.Module,
    *,
    epochs: int,
    patience: int | None,
    valid: Any,
    checkpoint: str | os.PathLike | None,
    checkpoint_every: int | None,
) -> None:
    if not isinstance(model, nn.Module):
        raise ParameterError(f"`model` must be a Circuit or another torch module, got {type(model).__name__}")
    for name, value in {"epochs": epochs, "patience": patience, "checkpoint_every": checkpoint_every}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ParameterError(f"`{name}` must be a positive integer, got {value!r}")
    if patience is not None and valid is None:
        raise ParameterError("`patience` needs `valid` data to judge by")
    if checkpoint_every is not None and checkpoint is None:
        raise ParameterError("`checkpoint_every` needs a `checkpoint` folder")
