"""A run on disk: `checkpoint.json` names the file that holds its tensors, so that both change in one step."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pcircuits.errors import FormatError, ParameterError
from pcircuits.files import read_bytes, read_safetensors, write_atomically, write_safetensors
from pcircuits.learning.history import History
from pcircuits.types import Tensor

FORMAT, VERSION = "pcircuits.fit", 1
DESCRIPTION = "checkpoint.json"
RandomState = dict[str, Tensor]
_FIELDS = {"setup", "cursor", "history", "tensors", "sha256"}


@dataclass
class Cursor:
    """How far a run has come: the next batch, and the loss of the epoch's batches before it."""

    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    weight: float = 0.0
    seconds: float = 0.0


@dataclass
class Checkpoint:
    """All that a run needs to go on as if it had not been interrupted. `setup` may not change in between."""

    setup: dict[str, Any]
    cursor: Cursor
    history: History
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix/`, without it."""
        return {name.removeprefix(f"{prefix}/"): t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}


def exists(folder: str | os.PathLike) -> bool:
    return (Path(folder) / DESCRIPTION).is_file()


def save(checkpoint: Checkpoint, folder: str | os.PathLike) -> None:
    """Replace the folder's checkpoint; an interruption in between leaves the one before."""
    folder = Path(folder)
    name = f"state-{checkpoint.cursor.epoch}-{checkpoint.cursor.batch}-{secrets.token_hex(4)}.safetensors"
    description = {
        "format": FORMAT,
        "version": VERSION,
        "setup": checkpoint.setup,
        "cursor": asdict(checkpoint.cursor),
        "history": checkpoint.history.to_json(),
        "tensors": name,
        "sha256": write_safetensors(folder / name, checkpoint.tensors),
    }
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1).encode() + b"\n")
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load(folder: str | os.PathLike) -> Checkpoint:
    """What `save` wrote.

    Raises:
        FormatError: files that are missing, truncated, tampered with, of another kind or of a newer version.
    """
    path = Path(folder) / DESCRIPTION
    try:
        stored = json.loads(read_bytes(path))
        kind, version = stored["format"], stored["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} does not describe a checkpoint: {error!r}") from error
    if kind != FORMAT:
        raise FormatError(f"{path} describes {kind!r}, expected {FORMAT!r}")
    if not isinstance(version, int) or version > VERSION:
        raise FormatError(f"{path} has version {version!r}, this package reads up to {VERSION}; upgrade it")
    if missing := _FIELDS - set(stored):
        raise FormatError(f"{path} lacks {', '.join(sorted(missing))}")
    try:
        cursor, history = Cursor(**stored["cursor"]), History.from_json(stored["history"])
        tensors = read_safetensors(path.with_name(Path(stored["tensors"]).name), sha256=stored["sha256"]).tensors
    except (TypeError, KeyError) as error:
        raise FormatError(f"{path} does not describe a checkpoint: {error!r}") from error
    return Checkpoint(stored["setup"], cursor, history, tensors)


def require_same_setup(found: Mapping[str, Any], expected: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """Refuse to go on with other settings: the result would be that of neither run."""
    for key, value in expected.items():
        if found.get(key) != value:
            raise ParameterError(
                f"the checkpoint in {folder} was made with {key} {found.get(key)!r}, this call has {value!r}"
            )


def random_state(device: torch.device) -> RandomState:
    """The states of torch's global generators that a model on this device may draw from, as bytes."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
