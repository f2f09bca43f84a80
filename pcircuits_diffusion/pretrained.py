"""A head as files: `prior/` (see `pc.save`), `head.safetensors` and `head.json`; a mixture has its shares there, and a
folder `part-<n>` for each of its heads. Never pickle, never the backbone.
"""

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
from pcircuits_diffusion.mixture import HeadMixture

FORMAT, MIXTURE_FORMAT, FORMAT_VERSION = "pcircuits_diffusion.head", "pcircuits_diffusion.mixture", 1
CONFIG_FILE, TENSORS_FILE, PRIOR_FOLDER = "head.json", "head.safetensors", "prior"
PRIOR_FILE = f"{PRIOR_FOLDER}/circuit.json"  # names the prior's tensors by their checksum
PART_FOLDER = "part-{}"
HEAD_FILES = (CONFIG_FILE, TENSORS_FILE, PRIOR_FILE, f"{PRIOR_FOLDER}/circuit-*.safetensors")
FILES = (*HEAD_FILES, *(f"{PART_FOLDER.format('*')}/{name}" for name in HEAD_FILES))
FIELDS = {FORMAT: {"backbone", "options", "sha256"}, MIXTURE_FORMAT: {"backbone", "sha256"}}


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
    head: CoupledHead | HeadMixture,
    folder: str | os.PathLike,
    backbone: BackboneInfo,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes each file atomically, the description with the others' checksums last: `load_head` notices a folder in
    which saving was interrupted. `dtype=torch.float16` halves the prior. What the heads of a mixture share is written
    once a head, and is not shared when it comes back.

    Raises:
        pc.ParameterError: options of the head that JSON cannot hold.
    """
    folder = Path(folder)
    common = {
        "version": FORMAT_VERSION,
        "libraries": {"pcircuits": pc.__version__, "torch": torch.__version__},
        "backbone": backbone._asdict(),
    }
    if isinstance(head, HeadMixture):
        config, sums = {"format": MIXTURE_FORMAT, **common}, _save_mixture(head, folder, backbone, dtype)
    else:
        config = {"format": FORMAT, **common, "options": head.options}
        sums = _save_single(head, folder, config, dtype)
    config["sha256"] = sums
    write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=1).encode() + b"\n")


def _save_single(head: CoupledHead, folder: Path, config: dict, dtype: torch.dtype | None) -> dict[str, str]:
    """Checksums of what was written."""
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise pc.ParameterError(f"the head has options that {CONFIG_FILE} cannot hold: {error}") from error
    pc.save(head.prior, folder / PRIOR_FOLDER, dtype=dtype)
    tensors = write_safetensors(folder / TENSORS_FILE, _own_tensors(head))
    return {TENSORS_FILE: tensors, PRIOR_FILE: _sha256(folder / PRIOR_FILE)}


def _save_mixture(
    mixture: HeadMixture, folder: Path, backbone: BackboneInfo, dtype: torch.dtype | None
) -> dict[str, str]:
    """Checksums of what was written."""
    names = [PART_FOLDER.format(number) for number in range(len(mixture.parts))]
    for name, head in zip(names, mixture.parts, strict=True):
        save_head(head, folder / name, backbone, dtype)
    own = {"log_shares": mixture.log_shares.detach()}
    found = {TENSORS_FILE: write_safetensors(folder / TENSORS_FILE, own)}
    return found | {f"{name}/{CONFIG_FILE}": _sha256(folder / name / CONFIG_FILE) for name in names}


def load_head(folder: str | os.PathLike) -> tuple[CoupledHead | HeadMixture, BackboneInfo]:
    """What `save_head` wrote.

    Raises:
        pc.FormatError: files that are missing, truncated, tampered with, of different saves or of a newer version.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    read = _load_mixture if config["format"] == MIXTURE_FORMAT else _load_single
    try:
        backbone = BackboneInfo.from_json(config["backbone"])
        return read(folder, config), backbone
    except (TypeError, ValueError) as error:
        if isinstance(error, pc.FormatError):
            raise
        raise pc.FormatError(f"{folder / CONFIG_FILE} does not describe a head: {error}") from error


def _load_single(folder: Path, config: dict[str, Any]) -> CoupledHead:
    tensors = read_safetensors(folder / TENSORS_FILE, sha256=config["sha256"][TENSORS_FILE]).tensors
    if _sha256(folder / PRIOR_FILE) != config["sha256"][PRIOR_FILE]:
        raise pc.FormatError(f"{folder / PRIOR_FILE} is not the prior that this head was saved with; save it again")
    head = CoupledHead(pc.load(folder / PRIOR_FOLDER), **config["options"])
    _load_tensors(head, tensors, folder / TENSORS_FILE)
    return head


def _load_mixture(folder: Path, config: dict[str, Any]) -> HeadMixture:
    sums, heads = dict(config["sha256"]), []
    shares = read_safetensors(folder / TENSORS_FILE, sha256=sums.pop(TENSORS_FILE)).tensors
    for number in range(len(sums)):
        path = folder / PART_FOLDER.format(number) / CONFIG_FILE
        if _sha256(path) != sums[path.relative_to(folder).as_posix()]:
            raise pc.FormatError(f"{path} is not of the head that this mixture was saved with; save it again")
        head, _ = load_head(path.parent)
        if not isinstance(head, CoupledHead):
            raise pc.FormatError(f"{path} must describe a single head")
        heads.append(head)
    mixture = HeadMixture(heads)
    if {name: tuple(t.shape) for name, t in shares.items()} != {"log_shares": tuple(mixture.log_shares.shape)}:
        raise pc.FormatError(f"{folder / TENSORS_FILE} must hold the {len(heads)} heads' `log_shares` alone")
    mixture.load_state_dict(shares, strict=False)
    return mixture


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
    if kind not in (FORMAT, MIXTURE_FORMAT):
        raise pc.FormatError(f"{path} describes {kind!r}, expected {FORMAT!r} or {MIXTURE_FORMAT!r}")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise pc.FormatError(f"{path} has version {version!r}, this package reads up to {FORMAT_VERSION}; upgrade it")
    fields = FIELDS[kind]
    if missing := fields - set(config):
        raise pc.FormatError(f"{path} lacks {', '.join(sorted(missing))}")
    wrong = [field for field in sorted(fields) if not isinstance(config[field], dict)]
    if wrong or set(config["sha256"]) != _checked_files(kind, config["sha256"]):
        raise pc.FormatError(f"{path} does not describe a head: {(wrong or ['sha256'])[0]!r} is malformed")
    return config


def _checked_files(kind: str, sums: dict[str, Any]) -> set[str]:
    """The files whose checksums a description of so many entries must give."""
    if kind == FORMAT:
        return {TENSORS_FILE, PRIOR_FILE}
    return {TENSORS_FILE, *(f"{PART_FOLDER.format(number)}/{CONFIG_FILE}" for number in range(max(2, len(sums) - 1)))}


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()
