"""The region graph as Graphviz's text."""

import json

from pcircuits.circuit import Circuit
from pcircuits.errors import StructureError
from pcircuits.structures import RegionGraph


def dot(graph: Circuit | RegionGraph) -> str:
    """The region graph in the DOT language, for Graphviz's `dot` and what else reads it; needs neither it nor
    matplotlib.

    Region r is node `r`, an ellipse where it sums; its partition k is node `r.k`, a point; an input region is a box
    with its variables and, of a circuit, their families. Edges lead from a region to what it is made of.

    >>> from pcircuits.structures import factorized
    >>> print(dot(factorized(1)))
    digraph {
      "0" [shape=box, label="x0"];
      "1" [label="+"];
      "1.0" [shape=point];
      "1" -> "1.0";
      "1.0" -> "0";
    }

    Raises:
        StructureError: neither a circuit nor a region graph.
    """
    if not isinstance(graph, Circuit | RegionGraph):
        raise StructureError(f"dot writes a Circuit or a RegionGraph, got {type(graph).__name__}")
    inputs = graph.inputs if isinstance(graph, Circuit) else None
    lines = []
    for number, region in enumerate((graph.graph if isinstance(graph, Circuit) else graph).regions):
        if region.is_input:
            label = ", ".join(f"x{v}" for v in region.variables)
            if inputs is not None:
                label += f"\n{inputs[region.variables[0]]!r}"
            lines.append(f'"{number}" [shape=box, label={json.dumps(label, ensure_ascii=False)}];')
            continue
        lines.append(f'"{number}" [label="+"];')
        for k, partition in enumerate(region.partitions):
            lines += [f'"{number}.{k}" [shape=point];', f'"{number}" -> "{number}.{k}";']
            lines += [f'"{number}.{k}" -> "{child}";' for child in partition.children]
    return "\n".join(["digraph {", *(f"  {line}" for line in lines), "}"])
