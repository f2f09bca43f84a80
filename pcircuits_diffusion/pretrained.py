"""A head as files: `prior/` (see `pc.save`), `head.safetensors` and `head.json`. Never pickle, never the backbone."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pcircuits as pc
from pcircuits.files import read_bytes, read_safetensors, write_atomically, write_safetensors
from pcircuits.types import Tensor
from pcircuits_diffusion.head import CoupledHead

FORMAT, FORMAT_VERSION = "pcircuits_diffusion.head", 1
CONFIG_FILE, TENSORS_FILE, PRIOR_FOLDER = "head.json", "head.safetensors", "prior"
PRIOR_FILE = f"{PRIOR_FOLDER}/circuit.json"  # names the prior's tensors by their checksum
FILES = (CONFIG_FILE, TENSORS_FILE, PRIOR_FILE, f"{PRIOR_FOLDER}/circuit-*.safetensors")
FIELDS = {"backbone", "options", "sha256"}


class BackboneInfo(NamedTuple):
    """The backbone that a head belongs to: `name` and `revision` as `load_backbone` takes them, and what it must have;
    `mask_id` is None where it is not known.
    """

    name: str
    vocab_size: int
    mask_id: int | None
    revision: str | None = None

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "BackboneInfo":
        """Raises TypeError for what `_asdict` did not write."""
        info, optional = cls(**stored), (int, type(None))
        if not (isinstance(info.name, str) and type(info.vocab_size) is int and type(info.mask_id) in optional):
            raise TypeError(f"'backbone' is {stored!r:.200}")
        if not isinstance(info.revision, str | None):
            raise TypeError(f"the backbone's revision is {info.revision!r:.80}")
        return info


def save_head(
    head: CoupledHead, folder: str | os.PathLike, backbone: BackboneInfo, dtype: torch.dtype | None = None
) -> None:
    """Writes each file atomically, the description with the others' checksums last: `load_head` notices a folder in
    which saving was interrupted. `dtype=torch.float16` halves the prior.

    Raises:
        pc.ParameterError: options of the head that JSON cannot hold.
    """
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "libraries": {"pcircuits": pc.__version__, "torch": torch.__version__},
        "backbone": backbone._asdict(),
        "options": head.options,
    }
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise pc.ParameterError(f"the head has options that {CONFIG_FILE} cannot hold: {error}") from error
    pc.save(head.prior, folder / PRIOR_FOLDER, dtype=dtype)
    config["sha256"] = {
        TENSORS_FILE: write_safetensors(folder / TENSORS_FILE, _own_tensors(head)),
        PRIOR_FILE: _sha256(folder / PRIOR_FILE),
    }
    write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=1).encode() + b"\n")


def load_head(folder: str | os.PathLike) -> tuple[CoupledHead, BackboneInfo]:
    """What `save_head` wrote.

    Raises:
        pc.FormatError: files that are missing, truncated, tampered with, of different saves or of a newer version.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    tensors = read_safetensors(folder / TENSORS_FILE, sha256=config["sha256"][TENSORS_FILE]).tensors
    if _sha256(folder / PRIOR_FILE) != config["sha256"][PRIOR_FILE]:
        raise pc.FormatError(f"{folder / PRIOR_FILE} is not the prior that this head was saved with; save it again")
    prior = pc.load(folder / PRIOR_FOLDER)
    try:
        head = CoupledHead(prior, **config["options"])
        backbone = BackboneInfo.from_json(config["backbone"])
    except (TypeError, ValueError) as error:
        raise pc.FormatError(f"{folder / CONFIG_FILE} does not describe a head: {error}") from error
    _load_tensors(head, tensors, folder / TENSORS_FILE)
    return head, backbone


def _own_tensors(head: CoupledHead) -> dict[str, Tensor]:
    """What is not the prior's."""
    return {name: tensor for name, tensor in head.state_dict().items() if not name.startswith("prior.")}


def _load_tensors(head: CoupledHead, tensors: dict[str, Tensor], path: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in _own_tensors(head).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        raise pc.FormatError(f"{path} holds {found}, expected {shapes}")
    head.load_state_dict(tensors, strict=False)


def _read_config(path: Path) -> dict[str, Any]:
    content = read_bytes(path)
    try:
        config = json.loads(content)
        kind, version = config["format"], config["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise pc.FormatError(f"{path} does not describe a saved head: {error!r}") from error
    if kind != FORMAT:
        raise pc.FormatError(f"{path} describes {kind!r}, expected {FORMAT!r}")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise pc.FormatError(f"{path} has version {version!r}, this package reads up to {FORMAT_VERSION}; upgrade it")
    if missing := FIELDS - set(config):
        raise pc.FormatError(f"{path} lacks {', '.join(sorted(missing))}")
    wrong = [field for field in sorted(FIELDS) if not isinstance(config[field], dict)]
    if wrong or set(config["sha256"]) != {TENSORS_FILE, PRIOR_FILE}:
        raise pc.FormatError(f"{path} does not describe a head: {(wrong or ['sha256'])[0]!r} is malformed")
    return config


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()
