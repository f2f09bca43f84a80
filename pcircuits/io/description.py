"""A circuit without its parameters, as a JSON object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import FAMILIES, InputFamily
from pcircuits.errors import ParameterError, StructureError
from pcircuits.folding import compile_plan
from pcircuits.hmm import HMM
from pcircuits.operations import SignedCircuit
from pcircuits.plan import Plan
from pcircuits.structures import RegionGraph, chain

CLASSES: dict[str, type[Circuit]] = {kind.__name__: kind for kind in (Circuit, HMM, SignedCircuit)}
KEYS: dict[str, type] = {
    "class": str,
    "dtype": str,
    "num_units": int,
    "layer": str,
    "families": list,
    "inputs": list,
    "ties": dict,
    "graph": dict,
}
_DTYPES = {name: getattr(torch, name) for name in ("float16", "float32", "float64", "complex64", "complex128")}


@dataclass(frozen=True)
class Description:
    """Everything that a circuit is built from. In JSON `inputs` counts into `families`, which has each family once."""

    kind: str
    graph: RegionGraph
    inputs: tuple[InputFamily, ...]
    num_units: int
    layer: str
    ties: dict[str, dict[int, str]]
    dtype: torch.dtype

    @classmethod
    def of(cls, circuit: Circuit) -> "Description":
        """Raises ParameterError where `from_json` would not know the class or a family."""
        kind, ties = type(circuit).__name__, {part: dict(named) for part, named in circuit.ties.items()}
        if CLASSES.get(kind) is not type(circuit):
            raise ParameterError(f"save writes {', '.join(CLASSES)}, got a {type(circuit).__qualname__}")
        if unknown := [family for family in circuit.inputs if FAMILIES.get(family.name) is not type(family)]:
            raise ParameterError(
                f"{unknown[0]!r} is not in pcircuits.distributions.FAMILIES, so load could not find it"
            )
        return cls(kind, circuit.graph, circuit.inputs, circuit.num_units, circuit.layer, ties, circuit.dtype)

    def to_json(self) -> dict[str, Any]:
        families = list(dict.fromkeys(self.inputs))
        place = {family: n for n, family in enumerate(families)}
        return {
            "class": self.kind,
            "dtype": name_of(self.dtype),
            "num_units": self.num_units,
            "layer": self.layer,
            "families": [family.to_json() for family in families],
            "inputs": [place[family] for family in self.inputs],
            "ties": {part: _by_name(ties) for part, ties in self.ties.items()},
            "graph": self.graph.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Description":
        """What `to_json` wrote; the keys must be there, with values of the types in `KEYS`.

        Raises:
            StructureError, ParameterError: anything else that does not describe a circuit.
        """
        if stored["class"] not in CLASSES:
            raise StructureError(f"'class' must be one of {', '.join(CLASSES)}, got {stored['class']!r:.80}")
        families = [_family(entry) for entry in stored["families"]]
        if bad := [n for n in stored["inputs"] if type(n) is not int or not 0 <= n < len(families)]:
            raise StructureError(f"'inputs' must count into {len(families)} families, got {bad[0]!r:.80}")
        return cls(
            stored["class"],
            RegionGraph.from_json(stored["graph"]),
            tuple(families[n] for n in stored["inputs"]),
            stored["num_units"],
            stored["layer"],
            {part: _by_region(stored["ties"], part) for part in ("sum", "input")},
            dtype_named(stored["dtype"], "float32", "float64", "complex64", "complex128"),
        )

    def plan(self) -> Plan:
        """Its folded levels, from which the shapes of its parameters follow before memory is taken for any."""
        if self.kind == "HMM" and (self.graph != chain(len(self.inputs)) or self.layer != "cp-t"):
            raise StructureError("an HMM needs a chain and layer 'cp-t'")
        return compile_plan(self.graph, self.inputs, self.num_units, self.layer, **self._ties)

    def build(self) -> Circuit:
        """The circuit, with parameters that wait to be loaded; its seed spares torch's global generator."""
        if self.kind == "HMM":
            categories = self.inputs[0].num_categories or 0
            hmm = HMM(self.num_units, categories, len(self.inputs), seed=0, dtype=self.dtype)
            if (hmm.ties, hmm.inputs) != (self.ties, self.inputs):
                raise StructureError("an HMM needs categorical inputs, and its initial, transition and emission ties")
            return hmm
        sizes: dict[str, Any] = {"num_units": self.num_units, "layer": self.layer, **self._ties}
        return CLASSES[self.kind](self.graph, self.inputs, seed=0, dtype=self.dtype, **sizes)

    @property
    def is_signed(self) -> bool:
        return self.kind == SignedCircuit.__name__

    @property
    def _ties(self) -> dict[str, Any]:
        return {f"{part}_ties": ties for part, ties in self.ties.items()}


def dtype_named(name: Any, *allowed: str) -> torch.dtype:
    if name not in allowed:
        raise StructureError(f"a dtype must be {' or '.join(allowed)}, got {name!r:.80}")
    return _DTYPES[name]


def real_name(name: str) -> str:
    """Of the real and imaginary parts of numbers of a dtype."""
    return name_of(_DTYPES[name].to_real()) if name in _DTYPES else name


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _family(entry: Any) -> InputFamily:
    kind = entry.get("family") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise StructureError(f"an input family must be one of {', '.join(FAMILIES)}, got {entry!r:.80}")
    arguments = {key: value for key, value in entry.items() if key != "family"}
    for key, value in arguments.items():
        if isinstance(value, dict) and "family" in value:
            arguments[key] = _family(value)
    try:
        return FAMILIES[kind](**arguments)
    except (TypeError, OverflowError) as error:
        raise StructureError(f"{entry!r:.80} is no input family: {error}") from error


def _by_name(ties: Mapping[int, str]) -> dict[str, list[int]]:
    named: dict[str, list[int]] = {}
    for region, name in ties.items():
        named.setdefault(name, []).append(region)
    return named


def _by_region(ties: Mapping[str, Any], part: str) -> dict[int, str]:
    named = ties.get(part)
    if not isinstance(named, dict) or not all(isinstance(regions, list) for regions in named.values()):
        raise StructureError(f"'ties' must list the regions of each {part} group, got {named!r:.80}")
    if bad := [region for regions in named.values() for region in regions if type(region) is not int]:
        raise StructureError(f"'ties' must list region ids, got {bad[0]!r:.80}")
    return {region: name for name, regions in named.items() for region in regions}
