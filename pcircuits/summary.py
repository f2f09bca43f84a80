"""What `print(circuit)` says."""

from collections import Counter
from typing import TYPE_CHECKING

from torch import Tensor

from pcircuits.plan import InputLevel, MixingLevel

if TYPE_CHECKING:
    from pcircuits.circuit import Circuit

_MOST_FAMILIES = 4
_MOST_PAIRS = 1 << 18  # of units whose overlap is looked at: determinism beyond that is left to `check`


def summary(circuit: "Circuit", **more: str) -> str:
    """Aligned lines on a circuit's variables, structure, units, parameters, memory and properties, after `more` of a
    kind's own. Nothing is computed that takes longer than a pass.
    """
    lines = {
        **more,
        "variables": _variables(circuit),
        "structure": _structure(circuit),
        "units": _units(circuit),
        "parameters": _parameters(circuit),
        "properties": _properties(circuit),
    }
    width = max(map(len, lines))
    return "\n".join([type(circuit).__name__, *(f"  {name:{width}}  {text}" for name, text in lines.items())])


def _variables(circuit: "Circuit") -> str:
    kinds = Counter(circuit.inputs).most_common()
    shown = [f"{count} {family!r}" for family, count in kinds[:_MOST_FAMILIES]]
    rest = sum(count for _, count in kinds[_MOST_FAMILIES:])
    return f"{circuit.num_variables}: {', '.join(shown)}{f' and {rest} of other families' if rest else ''}"


def _structure(circuit: "Circuit") -> str:
    graph = circuit.graph
    kind = "a tree" if graph.is_tree else "shared regions or several partitions a region"
    return f"{len(graph.regions):,} regions, {graph.num_partitions:,} partitions, depth {graph.depth}, {kind}"


def _units(circuit: "Circuit") -> str:
    levels = circuit.plan.levels
    total = sum(level.num_rows * level.num_units for level in levels)
    most = "up to " if len({level.num_units for level in levels}) > 2 else ""
    return f"{most}{circuit.num_units} a region, {total:,} in {len(levels)} levels of layer {circuit.layer!r}"


def _parameters(circuit: "Circuit") -> str:
    size = sum(t.numel() * t.element_size() for t in (*circuit.parameters(), *circuit.buffers()))
    dtype = str(circuit.dtype).removeprefix("torch.")
    return f"{circuit.num_parameters:,} in {dtype} on {circuit.device}, {_in_words(size)}{_removed(circuit)}"


def _removed(circuit: "Circuit") -> str:
    """The share of entries that support masks exclude."""
    masks = [group.support for _, group in circuit.named_groups() if isinstance(group.support, Tensor)]
    if not masks:
        return ""
    allowed = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    return f" with masks, which leave {allowed:.0%} of what they cover"


def _properties(circuit: "Circuit") -> str:
    structured = "" if circuit.graph.is_structured_decomposable else "not "
    return f"smooth, decomposable, {structured}structured-decomposable, {_determinism(circuit)}"


def _determinism(circuit: "Circuit") -> str:
    levels = circuit.plan.levels
    pairs = sum(level.num_rows * level.num_units**2 for level in levels)
    inner = [level for level in levels if not isinstance(level, InputLevel)]
    if pairs > _MOST_PAIRS or any(isinstance(level, MixingLevel) for level in inner):
        return "determinism: see pcircuits.check"
    return {True: "deterministic", False: "not deterministic", None: "determinism unknown"}[circuit.determinism()]


def _in_words(size: float | int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
