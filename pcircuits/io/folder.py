"""`save` and `load`: a folder with `circuit.json`, and a tensors file that is named by its checksum.

Since the description names the tensors, replacing it in one step replaces both.
"""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import FormatError, ParameterError, PCircuitsError
from pcircuits.files import read_bytes, read_safetensors, write_atomically
from pcircuits.io.description import KEYS, Description, dtype_named, name_of
from pcircuits.io.tensors import cast, encode_tensors, require_fit
from pcircuits.types import Tensor

FORMAT, VERSION = "pcircuits.circuit", 1
DESCRIPTION = "circuit.json"

_TENSORS = re.compile(r"circuit-[0-9a-f]{16}\.safetensors")
_KEYS = {"format": str, "version": int, "library": str, "checksum": str, "tensors": dict} | KEYS


def save(circuit: Circuit, path: str | os.PathLike, *, dtype: torch.dtype | None = None) -> None:
    """Write a circuit into the folder `path`, which is created, in place of the circuit that it may hold.

    An interruption leaves the old circuit or the new one. With `dtype=torch.float16` parameters take half the space and
    are rounded to 11 bits; `load` gives the circuit its own dtype back. Optimiser state and `requires_grad` are not
    part of a circuit.

    Raises:
        ParameterError: a subclass or input family that `load` would not know, NaN, or values too large for `dtype`.
    """
    description, kept = Description.of(circuit), dtype or circuit.dtype
    if kept not in (circuit.dtype, torch.float16):
        raise ParameterError(f"`dtype` must be torch.float16 or left out, got {dtype}")
    tensors = cast(circuit.state_dict(), kept)
    require_fit(tensors, description.plan(), kept)
    content = encode_tensors(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    stored = {"format": FORMAT, "version": VERSION, "library": _library(), **description.to_json()}
    stored["tensors"] = {"sha256": sha256, "bytes": len(content), "dtype": name_of(kept)}
    folder = Path(path)
    write_atomically(folder / _tensors_name(sha256), content)
    write_atomically(folder / DESCRIPTION, _encode(stored | {"checksum": _checksum(stored)}))
    for old in folder.glob("circuit-*.safetensors"):
        if _TENSORS.fullmatch(old.name) and old.name != _tensors_name(sha256):
            old.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> Circuit:
    """The circuit that `save` wrote into the folder `path`, on the CPU: a Circuit, or an HMM if it was one.

    Raises:
        FormatError: a file that is missing, truncated, changed, of another kind or of a newer version.
    """
    source = Path(path) / DESCRIPTION
    stored = _decode(source)
    try:
        description = Description.from_json(stored)
        plan = description.plan()
        kept = dtype_named(stored["tensors"].get("dtype"), "float16", stored["dtype"])
        tensors = _read_tensors(source, stored["tensors"])
        require_fit(tensors, plan, kept)
        circuit = description.build()
    except FormatError:
        raise
    except (PCircuitsError, RecursionError) as error:
        raise FormatError(
            f"{source} describes no circuit that can be built: {error}; save the circuit again"
        ) from error
    circuit.load_state_dict(cast(tensors, circuit.dtype))
    return circuit


def _decode(source: Path) -> dict[str, Any]:
    """The object in `circuit.json`: of this kind and version, with every key there, of its type, and unchanged."""
    try:
        stored = json.loads(read_bytes(source), parse_constant=_refuse_constant)
        checksum = _checksum(stored)
    except FormatError as error:
        raise FormatError(f"{error}; load needs a folder that save wrote") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not whole JSON: {error}; copy the folder again") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        kind = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        raise FormatError(f"{source} holds {kind!r:.80}, expected {FORMAT!r}; load needs a folder that save wrote")
    version = stored.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        wanted = f"pcircuits {_library()} reads versions 1 to {VERSION}; upgrade pcircuits if it is older than the file"
        raise FormatError(f"{source} has version {version!r:.80}, {wanted}")
    if wrong := [key for key in sorted(_KEYS.keys() | stored.keys()) if type(stored.get(key)) is not _KEYS.get(key)]:
        found = f"{type(stored[wrong[0]]).__name__}" if wrong[0] in stored else "nothing"
        wanted = _KEYS[wrong[0]].__name__ if wrong[0] in _KEYS else "nothing"
        raise FormatError(f"{source} has {found} under {wrong[0]!r:.80}, expected {wanted}; save the circuit again")
    if stored["checksum"] != checksum:
        raise FormatError(f"{source} was changed after it was saved: its checksum differs; save the circuit again")
    return stored


def _read_tensors(source: Path, stored: Mapping[str, Any]) -> dict[str, Tensor]:
    sha256, size = stored.get("sha256"), stored.get("bytes")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise FormatError(f"{source} gives no SHA-256 of its tensors, but {sha256!r:.80}; save the circuit again")
    path = source.with_name(_tensors_name(sha256))
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes"
        raise FormatError(f"{path} {state}, expected {size!r:.80} bytes; copy the folder again")
    return read_safetensors(path, sha256=sha256).tensors


def _tensors_name(sha256: str) -> str:
    return f"circuit-{sha256[:16]}.safetensors"


def _encode(stored: Mapping[str, Any]) -> bytes:
    """One key a line: readable, and graphs of many regions stay compact."""
    return ("{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in stored.items()) + "\n}\n").encode()


def _checksum(stored: Any) -> str:
    """SHA-256 of the object without its checksum, in one canonical spelling."""
    rest = {k: v for k, v in stored.items() if k != "checksum"} if isinstance(stored, dict) else stored
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _library() -> str:
    return importlib.import_module("pcircuits").__version__
