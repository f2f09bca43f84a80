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
from pcircuits.errors import FormatError, ParameterError, PCircuitsError, StructureError
from pcircuits.files import read_bytes, read_safetensors, real_parts, write_atomically
from pcircuits.io.derivation import derivation_of, rebuild
from pcircuits.io.description import KEYS, Description, dtype_named, name_of, real_name
from pcircuits.io.tensors import cast, encode_tensors, require_fit
from pcircuits.types import Tensor

FORMAT, DERIVED, VERSION = "pcircuits.circuit", "pcircuits.derived", 1
DESCRIPTION = "circuit.json"

_TENSORS = re.compile(r"circuit-[0-9a-f]{16}\.safetensors")
_COMMON = {"format": str, "version": int, "library": str, "checksum": str, "tensors": dict}
_KEYS: dict[str, dict[str, type]] = {
    FORMAT: _COMMON | KEYS,
    DERIVED: _COMMON | {"dtype": str, "parts": list, "steps": list},
}


def save(circuit: Circuit, path: str | os.PathLike, *, dtype: torch.dtype | None = None) -> None:
    """Write a circuit into the folder `path`, which is created, in place of the circuit that it may hold.

    An interruption leaves the old circuit or the new one. With `dtype=torch.float16` parameters take half the space and
    are rounded to 11 bits; `load` gives the circuit its own dtype back. Optimiser state and `requires_grad` are not
    part of a circuit. Of a product, conjugate, marginal, conditional or derivative the circuits that it comes of are
    written, each once, and how it comes of them.

    Raises:
        ParameterError: a subclass or input family that `load` would not know, NaN, or values too large for `dtype`.
    """
    parts, steps = derivation_of(circuit)
    descriptions, real = [Description.of(part) for part in parts], circuit.dtype.to_real()
    kept = dtype or real
    if kept not in (real, torch.float16) or any(part.dtype.to_real() != real for part in parts):
        raise ParameterError(f"`dtype` must be torch.float16 or left out, and all circuits' dtypes equal; got {dtype}")
    tensors: dict[str, Tensor] = {}
    for prefix, part, description in zip(_prefixes(len(parts), bool(steps)), parts, descriptions, strict=True):
        own = cast({name: real_parts(tensor) for name, tensor in part.state_dict().items()}, kept)
        require_fit(own, description.plan(), kept, signed=description.is_signed, pairs=description.dtype.is_complex)
        tensors |= {prefix + name: tensor for name, tensor in own.items()}
    content = encode_tensors(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    described = descriptions[0].to_json()
    if steps:
        described = {"dtype": name_of(real), "parts": [d.to_json() for d in descriptions], "steps": steps}
    stored = {"format": DERIVED if steps else FORMAT, "version": VERSION, "library": _library(), **described}
    stored["tensors"] = {"sha256": sha256, "bytes": len(content), "dtype": name_of(kept)}
    folder = Path(path)
    write_atomically(folder / _tensors_name(sha256), content)
    write_atomically(folder / DESCRIPTION, _encode(stored | {"checksum": _checksum(stored)}))
    for old in folder.glob("circuit-*.safetensors"):
        if _TENSORS.fullmatch(old.name) and old.name != _tensors_name(sha256):
            old.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> Circuit:
    """The circuit that `save` wrote into the folder `path`, on the CPU, of the class that it had.

    Raises:
        FormatError: a file that is missing, truncated, changed, of another kind or of a newer version.
    """
    source = Path(path) / DESCRIPTION
    stored = _decode(source)
    try:
        return _build(source, stored)
    except FormatError:
        raise
    except (PCircuitsError, RecursionError) as error:
        raise FormatError(
            f"{source} describes no circuit that can be built: {error}; save the circuit again"
        ) from error


def _build(source: Path, stored: Mapping[str, Any]) -> Circuit:
    """Nothing is built before all that is described was found to fit."""
    steps = stored.get("steps", [])
    descriptions = [Description.from_json(part) for part in _parts(stored)]
    plans = [description.plan() for description in descriptions]
    kept = dtype_named(stored["tensors"].get("dtype"), "float16", real_name(stored["dtype"]))
    tensors = _read_tensors(source, stored["tensors"])
    own = []
    for prefix, plan, description in zip(_prefixes(len(plans), bool(steps)), plans, descriptions, strict=True):
        names = [name for name in tensors if name.startswith(prefix)]
        own.append({name.removeprefix(prefix): tensors.pop(name) for name in names})
        require_fit(own[-1], plan, kept, signed=description.is_signed, pairs=description.dtype.is_complex)
    if tensors:
        raise ParameterError(f"tensors do not belong here: {', '.join(sorted(tensors)[:3])}")
    parts = [description.build() for description in descriptions]
    for part, found in zip(parts, own, strict=True):
        part.load_state_dict(_as_held(cast(found, part.dtype.to_real()), part))
    return rebuild(parts, steps)


def _parts(stored: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Descriptions of the circuits with parameters, in order."""
    if stored["format"] == FORMAT:
        return [stored]
    parts, steps, real = stored["parts"], stored["steps"], stored["dtype"]
    if not parts or not steps:
        raise StructureError("'parts' and 'steps' must not be empty")
    for part in parts:
        if not isinstance(part, dict) or part.keys() != KEYS.keys():
            raise StructureError(f"each of 'parts' must have {', '.join(KEYS)}; got {part!r:.80}")
        if wrong := [key for key, kind in KEYS.items() if type(part[key]) is not kind]:
            raise StructureError(f"{wrong[0]!r} of a part must be {KEYS[wrong[0]].__name__}")
        if real_name(part["dtype"]) != real:
            raise StructureError(f"'dtype' of a part must be {real}, or complex of it; got {part['dtype']!r:.80}")
    return parts


def _as_held(found: Mapping[str, Tensor], part: Circuit) -> dict[str, Tensor]:
    """Pairs of real and imaginary parts as complex numbers, where the circuit has such."""
    held = part.state_dict()
    pairs = {name for name, tensor in held.items() if tensor.is_complex()}
    return {name: torch.view_as_complex(t) if name in pairs else t for name, t in found.items()}


def _prefixes(parts: int, derived: bool) -> list[str]:
    """Of the names of each part's tensors."""
    return [f"parts.{n}." for n in range(parts)] if derived else [""]


def _decode(source: Path) -> dict[str, Any]:
    """The object in `circuit.json`: of this kind and version, with every key there, of its type, and unchanged."""
    try:
        stored = json.loads(read_bytes(source), parse_constant=_refuse_constant)
        checksum = _checksum(stored)
    except FormatError as error:
        raise FormatError(f"{error}; load needs a folder that save wrote") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not whole JSON: {error}; copy the folder again") from error
    if not isinstance(stored, dict) or stored.get("format") not in list(_KEYS):
        kind = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        raise FormatError(f"{source} holds {kind!r:.80}, expected {FORMAT!r}; load needs a folder that save wrote")
    version = stored.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        wanted = f"pcircuits {_library()} reads versions 1 to {VERSION}; upgrade pcircuits if it is older than the file"
        raise FormatError(f"{source} has version {version!r:.80}, {wanted}")
    keys = _KEYS[stored["format"]]
    if wrong := [key for key in sorted(keys.keys() | stored.keys()) if type(stored.get(key)) is not keys.get(key)]:
        found = f"{type(stored[wrong[0]]).__name__}" if wrong[0] in stored else "nothing"
        wanted = keys[wrong[0]].__name__ if wrong[0] in keys else "nothing"
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
