"""A head as files: `prior/` (see `pc.save`), `head.safetensors` and `head.json`. Never pickle, never the backbone."""

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
FIELDS = {"backbone", "options", "sha256"}


class BackboneInfo(NamedTuple):
    """The backbone that a head belongs to."""

    name: str
    vocab_size: int
    mask_id: int


def save_head(
    head: CoupledHead, folder: str | os.PathLike, backbone: BackboneInfo, dtype: torch.dtype | None = None
) -> None:
    """Writes each file atomically, the description with the other's checksum last."""
    folder = Path(folder)
    pc.save(head.prior, folder / PRIOR_FOLDER, dtype=dtype)
    sha256 = write_safetensors(folder / TENSORS_FILE, _own_tensors(head))
    config = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "backbone": backbone._asdict(),
        "options": head.options,
        "sha256": sha256,
    }
    write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=1).encode() + b"\n")


def load_head(folder: str | os.PathLike) -> tuple[CoupledHead, BackboneInfo]:
    """What `save_head` wrote.

    Raises:
        pc.FormatError: files that are missing, truncated, tampered with, or of a newer version.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    tensors = read_safetensors(folder / TENSORS_FILE, sha256=config["sha256"]).tensors
    prior = pc.load(folder / PRIOR_FOLDER)
    try:
        head = CoupledHead(prior, **config["options"])
        backbone = BackboneInfo(**config["backbone"])
    except (TypeError, ValueError) as error:
        raise pc.FormatError(f"{folder / CONFIG_FILE} does not describe a head: {error}") from error
    if set(tensors) != set(_own_tensors(head)):
        raise pc.FormatError(f"{folder / TENSORS_FILE} holds {sorted(tensors)}, expected {sorted(_own_tensors(head))}")
    head.load_state_dict(tensors, strict=False)
    return head, backbone


def _own_tensors(head: CoupledHead) -> dict[str, Tensor]:
    """What is not the prior's."""
    return {name: tensor for name, tensor in head.state_dict().items() if not name.startswith("prior.")}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_bytes(path))
        kind, version = config["format"], config["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise pc.FormatError(f"{path} does not describe a saved head: {error!r}") from error
    if kind != FORMAT:
        raise pc.FormatError(f"{path} describes {kind!r}, expected {FORMAT!r}")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise pc.FormatError(f"{path} has version {version!r}, this package reads up to {FORMAT_VERSION}; upgrade it")
    if missing := FIELDS - set(config):
        raise pc.FormatError(f"{path} lacks {', '.join(sorted(missing))}")
    return config
