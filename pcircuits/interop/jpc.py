"""Circuits that PyJuice saved (`.jpc`), converted to ours."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Categorical, Gaussian, InputFamily
from pcircuits.distributions.discrete import Discrete
from pcircuits.errors import FormatError, ParameterError, PCircuitsError
from pcircuits.files import read_bytes
from pcircuits.hmm import HMM
from pcircuits.interop.jpc_layout import Layout, lay_out
from pcircuits.interop.jpc_nodes import Budget, InputNode, Node, SumNode, read_nodes
from pcircuits.interop.juice import read_text_jpc
from pcircuits.layers import InputGroup, SumGroup
from pcircuits.structures import chain
from pcircuits.types import Float, Tensor


def read_jpc(path: str | os.PathLike, *, dtype: torch.dtype = torch.float32) -> Circuit:
    """The circuit in a `.jpc` file that PyJuice 2 wrote by `juice.save`, on the CPU; nothing in the file is executed.
    Text files of that name, which ProbabilisticCircuits.jl wrote, are read as `read_spn` says.

    A homogeneous hidden Markov model over variables 0..D-1 in this order becomes an `HMM`, anything else a `Circuit`
    with layer "cp-t" whose regions have as many units as the file's widest product. Weights of sums are normalised, as
    PyJuice does when it loads them. Tied parameters stay tied, zeros stay zeros, and inputs with soft evidence become
    categorical: here every circuit takes soft evidence.

    Raises:
        FormatError: a file that cannot be read, is malformed, names anything but numpy's arrays and known
            distributions, or holds what has no counterpart here: parameters per sample, inputs other than Categorical,
            SoftEvidenceCategorical, Bernoulli and Gaussian, or a root that is not a single sum unit.
        ParameterError: another dtype.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ParameterError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}")
    content = bytearray(read_bytes(path))
    if content.startswith((b"jpc ", b"c ", b"c\n")):
        return read_text_jpc(path, dtype)
    budget = Budget(len(content))
    try:
        nodes = read_nodes(content, budget)
        return _Conversion(nodes, lay_out(nodes, budget), dtype).circuit()
    except (PCircuitsError, OverflowError) as error:
        raise FormatError(f"{path} is no .jpc file that can be converted: {error}") from error


class _Conversion:
    def __init__(self, nodes: Sequence[Node], layout: Layout, dtype: torch.dtype) -> None:
        self.nodes, self.layout, self.dtype = nodes, layout, dtype
        self.graph = layout.graph
        self.families = self._families()

    def circuit(self) -> Circuit:
        if self._is_homogeneous_chain():
            return self._hmm()
        circuit = Circuit(
            self.graph,
            self.families,
            num_units=self.layout.width,
            seed=0,
            dtype=self.dtype,
            sum_ties=self.layout.ties(SumNode),
            input_ties=self.layout.ties(InputNode),
        )
        tables: dict[str, Tensor] = {}
        for region in self._first_of_each_origin():
            for part, table in self._tables(region).items():
                name, row = circuit.plan.rows[region, part]
                if name not in tables:
                    tables[name] = table.new_empty(circuit.plan.groups[name].rows, *table.shape)
                tables[name][row] = table
        for name, group in circuit.named_groups():
            _set(group, tables.pop(name))
        return circuit

    def _hmm(self) -> HMM:
        """Regions are inputs, then the sums from the last step to the first, which is the root."""
        steps, root = self.graph.num_variables, self.graph.root
        initial, emission = self._tables(root)[""][0], self._tables(0)[""]
        no_transition = torch.full((len(initial), len(initial)), 1 / len(initial), dtype=self.dtype)
        transition = no_transition if steps == 1 else self._tables(steps)[""]
        return HMM.from_probs(initial, transition, emission, length=steps)

    def _is_homogeneous_chain(self) -> bool:
        steps, shared = self.graph.num_variables, self.layout.shared
        tied = len(set(shared[:steps])) == 1 and len(set(shared[steps:-1])) <= 1
        return tied and self.graph.regions == chain(steps).regions and isinstance(self.families[0], Categorical)

    def _families(self) -> list[InputFamily]:
        """One a variable."""
        inputs = [node for n, _ in self.layout.regions if isinstance(node := self.nodes[n], InputNode)]
        gaussians = [self._params(node) for node in inputs if node.distribution.kind is Gaussian]
        least_std = min((float(params[:, 1].min()) for params in gaussians), default=1.0)
        families: dict[int, InputFamily] = {}
        for node in inputs:
            family = node.distribution.family(least_std)
            if families.setdefault(node.variable, family) != family:
                raise FormatError(f"variable {node.variable} has inputs {families[node.variable]} and {family}")
        return [families[variable] for variable in range(self.graph.num_variables)]

    def _first_of_each_origin(self) -> list[int]:
        first: dict[tuple, int] = {}
        for region, origin in enumerate(self.layout.shared):
            first.setdefault(origin, region)
        return list(first.values())

    def _params(self, node: InputNode | SumNode) -> Tensor:
        source = node if node.source is None else self.nodes[node.source]
        assert isinstance(source, InputNode | SumNode) and source.params is not None
        return source.params

    def _tables(self, region: int) -> dict[str, Tensor]:
        """The probabilities of each part of a region (see `Plan.rows`)."""
        number, units = self.layout.regions[region]
        node = self.nodes[number]
        assert isinstance(node, InputNode | SumNode)
        rows = torch.tensor(units)
        if isinstance(node, InputNode):
            return {"": node.distribution.table(self._params(node)[rows].to(self.dtype))}
        weights = node.weights(self._params(node))[rows]
        widths = [self.layout.product(child).num_units for child in node.children]
        return {part: table.to(self.dtype) for part, table in _mixture(weights.split(widths, -1), self.layout.width)}


def _mixture(weights: Sequence[Float[Tensor, "K _"]], width: int) -> list[tuple[str, Float[Tensor, "K _"]]]:
    """A sum over several products, as a mixture of a sum over each; their columns padded to `width`."""
    padded = [torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in weights]
    if len(padded) == 1:
        return [("", padded[0])]
    totals = torch.stack([part.sum(-1) for part in padded], -1)
    parts = []
    for part, total in zip(padded, totals.unbind(-1), strict=True):
        part[total == 0, 0] = 1.0  # never reached
        parts.append(part / part.sum(-1, keepdim=True))
    return [(f"_{n}" if n else "", part) for n, part in enumerate(parts)] + [("_mixing", totals)]


@torch.no_grad()
def _set(group: Any, table: Tensor) -> None:
    """Probabilities, whose zeros are kept as the group's support, or moments."""
    if isinstance(group, InputGroup) and isinstance(group.family, Gaussian):
        group.set_parameters(group.family.from_moments(*table.unbind(-1)))
        return
    if not (table > 0).all():
        group.restrict(table > 0)
    if isinstance(group, SumGroup):
        group.set_probabilities(table)
    elif isinstance(group, InputGroup) and isinstance(group.family, Discrete):
        group.set_parameters(group.family.from_table(table))
