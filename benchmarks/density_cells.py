"""What the density benchmark trains, one cell a data set, model, setting and seed, and the files that keep it."""

import io
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import debd
from benchmarks.density_models import FAMILIES
from benchmarks.side import Side, Workload
from pcircuits.files import write_atomically
from pcircuits.types import Float, Tensor

PEERS = {"cirkit, Chow-Liu tree": "cirkit_density", "SPFlow, Einet": "spflow_density"}
"""Adapters in `benchmarks/peers`."""


class Cell(NamedTuple):
    """`setting`: options of the family's function, or of the peer's adapter, as JSON."""

    data: str
    family: str
    setting: str
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        return json.loads(self.setting)

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w.]+", "_", "-".join(map(str, self))) + ".npz"


def cell(data: str, family: str, options: Mapping[str, Any], seed: int) -> Cell:
    return Cell(data, family, json.dumps(options, sort_keys=True), seed)


class Outcome(NamedTuple):
    """Log-likelihoods of every row, parameters, epochs, and processor seconds of training (the machine is shared)."""

    valid: Float[Tensor, " V"]
    test: Float[Tensor, " T"]
    num_parameters: int
    epochs: int
    seconds: float


@dataclass
class Work:
    """A folder of outcomes, one file a cell, so that an interrupted run goes on where it stopped."""

    folder: Path
    rows: int | None = None
    python: Path | None = None
    known: dict[Cell, Outcome] = field(default_factory=dict)

    def find(self, of: Cell) -> Outcome | None:
        """A cell's outcome, if it was trained."""
        if of not in self.known and (path := self.folder / of.file_name).is_file():
            with np.load(path) as stored:
                valid, test = (torch.from_numpy(stored[name]) for name in ("valid", "test"))
                parameters, epochs, seconds = stored["facts"].tolist()
            self.known[of] = Outcome(valid, test, int(parameters), int(epochs), seconds)
        return self.known.get(of)

    def need(self, of: Cell) -> Outcome:
        """A cell's outcome, trained now if it was not."""
        if (found := self.find(of)) is not None:
            return found
        data = debd.load(of.data, rows=self.rows)
        found = self._by_peer(of, data) if of.family in PEERS else _train(of, data)
        content = io.BytesIO()
        np.savez(content, valid=found.valid.numpy(), test=found.test.numpy(), facts=np.array(found[2:], dtype=float))
        write_atomically(self.folder / of.file_name, content.getvalue())
        self.known[of] = found
        return found

    def _by_peer(self, of: Cell, data: debd.Data) -> Outcome:
        arrays = {part: rows.numpy() for part, rows in data._asdict().items()}
        assert self.python is not None
        with Side(of.family, f"benchmarks.peers.{PEERS[of.family]}", python=self.python) as side:
            side.prepare(Workload(of.data, arrays, {**of.options, "seed": of.seed}))
            facts = side.numbers("fit")
            valid, test = (torch.from_numpy(side.numbers(part)) for part in ("valid", "test"))
        return Outcome(valid, test, int(facts[0]), int(facts[1]), float(facts[2]))


def _train(of: Cell, data: debd.Data) -> Outcome:
    start = time.process_time()
    fitted = FAMILIES[of.family](data, of.seed, **of.options)
    seconds = time.process_time() - start
    return Outcome(
        fitted.log_prob(data.valid), fitted.log_prob(data.test), fitted.num_parameters, fitted.epochs, seconds
    )
