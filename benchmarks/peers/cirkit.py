"""cirkit on the same circuit, layer by layer, with the same parameters; folded and optimised by its own compiler.

`train` is its forward pass and the gradients of all parameters, which are what EM counts are to ours; it has no EM.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from cirkit.backend.torch.queries import IntegrateQuery
from cirkit.pipeline import PipelineContext
from cirkit.symbolic.circuit import Circuit
from cirkit.symbolic.initializers import ConstantTensorInitializer
from cirkit.symbolic.layers import CategoricalLayer, HadamardLayer, KroneckerLayer, Layer, SumLayer
from cirkit.symbolic.parameters import MixingWeightParameter, Parameter, SoftmaxParameter, TensorParameter
from cirkit.utils.scope import Scope


def prepare(arrays: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    x = torch.from_numpy(arrays["x"])
    missing = ~torch.from_numpy(arrays["observed"])
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
    circuit = context.compile(_Symbolic(arrays, options).circuit)
    for module in circuit.modules():
        if hasattr(module, "_initializer_"):
            module._initializer_ = torch.nn.init.normal_  # held our arrays, memory that its users do not spend
    marginalise = IntegrateQuery(circuit)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return circuit(x).flatten()

    def half_missing() -> torch.Tensor:
        with torch.no_grad():
            return marginalise(x, integrate_vars=missing).flatten()

    def train() -> torch.Tensor:
        circuit.zero_grad()
        total = circuit(x).sum()
        total.backward()
        return total.detach()

    def gradient() -> list[float]:
        """Sums of squares over the weights of sums and over the inputs."""
        train()
        sums = {True: 0.0, False: 0.0}
        for parameter in circuit.parameters():
            is_input = parameter.shape[-1] == options["num_categories"]
            sums[is_input] += parameter.grad.double().square().sum().item()
        return [sums[False], sums[True]]

    return {"forward": forward, "half_missing": half_missing, "train": train, "gradient": gradient}


class _Symbolic:
    """Builds the symbolic circuit of a region graph as `pcircuits.folding.compile_plan` defines its layers."""

    def __init__(self, arrays: dict[str, np.ndarray], options: dict[str, Any]) -> None:
        self.arrays, self.options, self.units = arrays, options, options["num_units"]
        self.rows = {(region, part): (group, row) for region, part, group, row in options["rows"]}
        self.layers: list[Layer] = []
        self.children: dict[Layer, list[Layer]] = {}
        regions = options["graph"]["regions"]
        of_region: list[Layer] = []
        for index, region in enumerate(regions):
            if isinstance(region, int):
                of_region.append(self._input(index, region))
                continue
            outputs = 1 if index == len(regions) - 1 else self.units
            parts = [
                self._partition(index, f"_{n}" if n else "", [of_region[c] for c in children], outputs)
                for n, children in enumerate(region)
            ]
            of_region.append(parts[0] if len(parts) == 1 else self._mixing(index, parts, outputs))
        self.circuit = Circuit(self.layers, self.children, [of_region[-1]])

    def _input(self, region: int, variable: int) -> Layer:
        layer = CategoricalLayer(
            Scope([variable]),
            self.units,
            num_categories=self.options["num_categories"],
            probs=self._normalised("input", region, ""),
        )
        return self._add(layer, [])

    def _partition(self, region: int, part: str, children: list[Layer], outputs: int) -> Layer:
        layer = self.options["layer"]
        if layer == "cp" and len(children) > 1:
            summed = [self._sum(region, f"{part}_child{a}", child, self.units) for a, child in enumerate(children)]
            product = self._add(HadamardLayer(self.units, arity=len(summed)), summed)
            return product if outputs == self.units else self._sum(region, part, product, outputs)
        if len(children) == 1:
            return self._sum(region, part, children[0], outputs)
        kind = KroneckerLayer if layer == "tucker" and len(children) == 2 else HadamardLayer
        return self._sum(region, part, self._add(kind(self.units, arity=len(children)), children), outputs)

    def _sum(self, region: int, part: str, child: Layer, outputs: int) -> Layer:
        weight = self._normalised("sum", region, part)
        return self._add(SumLayer(child.num_output_units, outputs, weight=weight), [child])

    def _mixing(self, region: int, parts: list[Layer], outputs: int) -> Layer:
        weight = self._normalised("sum", region, "_mixing")
        weight = Parameter.from_unary(MixingWeightParameter(weight.shape), weight)
        return self._add(SumLayer(outputs, outputs, arity=len(parts), weight=weight), parts)

    def _normalised(self, kind: str, region: int, part: str) -> Parameter:
        group, row = self.rows[region, part]
        table = self.arrays[f"{kind}:{group}"][row]
        tensor = TensorParameter(*table.shape, initializer=ConstantTensorInitializer(table))
        return Parameter.from_unary(SoftmaxParameter(table.shape, axis=-1), tensor)

    def _add(self, layer: Layer, children: list[Layer]) -> Layer:
        self.layers.append(layer)
        if children:
            self.children[layer] = children
        return layer
