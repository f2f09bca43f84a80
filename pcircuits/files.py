"""Files on disk: written whole or not at all, read with one kind of error. Tensors as safetensors, never pickle."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from pcircuits.errors import FormatError
from pcircuits.types import Tensor

__all__ = ["TensorFile", "read_bytes", "read_safetensors", "real_parts", "write_atomically", "write_safetensors"]


class TensorFile(NamedTuple):
    """What a safetensors file holds: named tensors on the CPU, and text by key."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Put `content` at `path` so that an interruption leaves the old file or the new one, never a part.

    Folders on the way are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write tensors (any device, any strides, views allowed) and text; returns the SHA-256 of the file.

    Complex tensors are written as their real and imaginary parts, a last axis of two: the text `complex` lists them.
    """
    own = {name: real_parts(tensor.detach()).cpu().clone().contiguous() for name, tensor in tensors.items()}
    text, pairs = dict(metadata or {}), [name for name, tensor in tensors.items() if tensor.is_complex()]
    if pairs:
        text["complex"] = json.dumps(pairs)
    content = safetensors.torch.save(own, text or None)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_safetensors(path: str | os.PathLike, *, sha256: str | None = None) -> TensorFile:
    """What `write_safetensors` wrote.

    Raises:
        FormatError: a file that is missing, truncated, of another kind, or whose checksum is not `sha256`.
    """
    content = read_bytes(path)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise FormatError(f"{path} is not the file that was saved: its SHA-256 is {found}, expected {sha256}")
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__", {})
        pairs = json.loads(metadata.pop("complex", "[]"))
        if not (isinstance(pairs, list) and all(isinstance(name, str) for name in pairs)):
            raise ValueError(f"'complex' must list names of tensors, got {pairs!r:.80}")
        for name in pairs:
            tensors[name] = torch.view_as_complex(tensors[name])
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FormatError(f"{path} is not a whole safetensors file ({len(content)} bytes): {error}") from error
    return TensorFile(tensors, metadata)


def real_parts(tensor: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts, a last axis of two; any other as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file.

    Raises:
        FormatError: a file that cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
