"""Writes `.jpc` files in PyJuice's layout, and evaluates their nodes unit by unit, without our reader or circuits."""

import io
import math
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PREFIX = "pyjuice.nodes.distributions"
Entry = dict[str, Any]


class Plain:
    """State as PyJuice's distributions have it."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update({"post_fw_fns": [], "post_bp_fns": [], "sampling_fns": []}, **fields)


class Reduced(Plain):
    """A distribution that names its constructor's arguments instead."""

    def __reduce__(self) -> tuple:
        return type(self), (self.num_cats, True)

    def __init__(self, num_cats: int, _: bool = True) -> None:
        super().__init__(num_cats=num_cats)


CLASSES = {"Categorical": Plain, "SoftEvidenceCategorical": Reduced, "Bernoulli": Plain, "Gaussian": Plain}
MODULES = {
    "Categorical": "categorical", "SoftEvidenceCategorical": "softevi_categorical",
    "Bernoulli": "bernoulli", "Gaussian": "gaussian",
}  # fmt: skip


@contextmanager
def stand_ins() -> Iterator[dict[str, type]]:
    """Classes with the names of PyJuice's, importable while pickles are written."""
    classes = {}
    parents = [PREFIX.rsplit(".", n)[0] for n in range(3)]
    for module in [*parents, *(f"{PREFIX}.{name}" for name in MODULES.values())]:
        sys.modules[module] = types.ModuleType(module)
    for name, base in CLASSES.items():
        module = f"{PREFIX}.{MODULES[name]}"
        classes[name] = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, classes[name])
    try:
        yield classes
    finally:
        for module in [name for name in sys.modules if name.split(".")[0] == "pyjuice"]:
            del sys.modules[module]


def dist(name: str, protocol: int = 4, **fields: Any) -> bytes:
    with stand_ins() as classes:
        return pickle.dumps(classes[name](**fields), protocol)


def write(path: Path, nodes: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(nodes, protocol))
    return path


class _Named(pickle.Unpickler):
    """Distributions as the stand-ins, for the evaluation below; used on files that tests or PyJuice wrote."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pyjuice."):
            return type(name, (CLASSES[name],), {})
        return super().find_class(module, name)


def read(content: bytes) -> Any:
    return _Named(io.BytesIO(content)).load()


def log_prob(nodes: list[Entry], x: list[float]) -> float:
    """Of one assignment: the natural meaning of the layout, one unit at a time."""
    values: list[np.ndarray] = []
    for node in nodes:
        params = nodes[node["source_node"]]["params"] if "source_node" in node else node.get("params")
        kind, size = node["type"], node["block_size"]
        count = node["num_node_blocks"] * size
        if kind == "Input":
            values.append(_input(read(node["dist"]), params.astype(np.float64).reshape(count, -1), x[node["scope"][0]]))
        elif kind == "Product":
            edges, is_block = node["edge_ids"], len(node["edge_ids"]) == node["num_node_blocks"]
            total = np.zeros(count)
            for unit in range(count):
                for c, child in enumerate(node["chs"]):
                    n = edges[unit // size, c] * size + unit % size if is_block else edges[unit, c]
                    total[unit] += values[child][n]
            values.append(total)
        else:
            values.append(_sum(node, params.astype(np.float64), np.concatenate([values[c] for c in node["chs"]])))
    return float(values[-1][0])


def _sum(node: Entry, params: np.ndarray, below: np.ndarray) -> np.ndarray:
    size, child_size = params.shape[1:]
    reached, weight = np.zeros(node["num_node_blocks"] * size), np.zeros(node["num_node_blocks"] * size)
    for e, (i, j) in enumerate(node["edge_ids"].T):
        for a in range(size):
            for b in range(child_size):
                reached[i * size + a] += params[e, a, b] * math.exp(below[j * child_size + b])
                weight[i * size + a] += params[e, a, b]
    with np.errstate(divide="ignore"):
        return np.log(reached / weight)


def _input(distribution: Any, params: np.ndarray, value: float) -> np.ndarray:
    name = type(distribution).__name__
    if name == "Gaussian":
        mean, std = params.T
        return -0.5 * ((value - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    if name == "Bernoulli":
        return np.log(params[:, 0] if value else 1 - params[:, 0])
    return np.log(params[:, int(value)] / params.sum(1))


class Builder:
    """Random nodes over random regions: blocks, sparse edges, units taken in any order, shared inputs."""

    def __init__(self, seed: int, num_variables: int, block_size: int, num_categories: int = 2) -> None:
        self.random, self.block_size, self.num_categories = np.random.default_rng(seed), block_size, num_categories
        self.nodes: list[Entry] = []
        self.inputs: dict[int, list[int]] = {}
        self.num_variables = num_variables

    def build(self) -> list[Entry]:
        products = [self.product(list(range(self.num_variables))) for _ in range(self.random.integers(1, 3))]
        self.sum(products, num_blocks=1, block_size=1)
        return self.nodes

    def region(self, variables: list[int]) -> int:
        if len(variables) == 1 and self.random.random() < 0.7:
            return self.input(variables[0])
        return self.sum([self.product(variables) for _ in range(self.random.integers(1, 3))], self.blocks())

    def input(self, variable: int) -> int:
        num_blocks = self.blocks()
        entry = {"scope": [variable], "dist": dist("Categorical", num_cats=self.num_categories)}
        if (sources := self.inputs.get(num_blocks)) and self.random.random() < 0.5:
            entry["source_node"] = sources[0]
        else:
            rows = self.random.dirichlet(np.ones(self.num_categories), num_blocks * self.block_size)
            entry["params"] = rows.astype(np.float32).ravel()
            self.inputs.setdefault(num_blocks, []).append(len(self.nodes))
        return self.add("Input", num_blocks, self.block_size, (), **entry)

    def product(self, variables: list[int]) -> int:
        cut = self.random.integers(1, len(variables)) if len(variables) > 1 else 1
        shuffled = self.random.permutation(variables).tolist()
        parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
        children = tuple(self.input(p[0]) if len(p) == 1 else self.region(p) for p in parts)
        num_blocks, sparse = self.blocks(), self.random.random() < 0.5
        limits = [self.nodes[c]["num_node_blocks"] * (self.block_size if sparse else 1) for c in children]
        rows = num_blocks * (self.block_size if sparse else 1)
        edges = np.stack([self.random.integers(0, limit, rows) for limit in limits], -1)
        if sparse and rows == num_blocks:
            edges = edges % np.array([self.nodes[c]["num_node_blocks"] for c in children])
        return self.add("Product", num_blocks, self.block_size, children, edge_ids=edges)

    def sum(self, products: list[int], num_blocks: int, block_size: int | None = None) -> int:
        block_size = block_size or self.block_size
        width = sum(self.nodes[p]["num_node_blocks"] for p in products)
        kept = self.random.random((num_blocks, width)) < 0.7
        kept[np.arange(num_blocks), self.random.integers(0, width, num_blocks)] = True
        edges = np.stack(np.nonzero(kept))
        params = self.random.random((edges.shape[1], block_size, self.block_size)).astype(np.float32) + 0.01
        params /= params.sum()
        return self.add("Sum", num_blocks, block_size, tuple(products), edge_ids=edges, params=params)

    def blocks(self) -> int:
        return int(self.random.integers(1, 3))

    def add(self, kind: str, num_blocks: int, block_size: int, children: tuple[int, ...], **entry: Any) -> int:
        node = {"type": kind, "num_node_blocks": num_blocks, "block_size": block_size, "chs": children}
        self.nodes.append(node | entry)
        return len(self.nodes) - 1
