"""One row a kernel: its definition, how to call it, and random arguments of given sizes.

Arguments are float64; tests make float32 of them for the kernel and differentiate both sides.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import torch

from pcircuits.kernels.block_sparse_sum.reference import BlockPattern

Sizes = Mapping[str, int]
Arguments = dict[str, Any]


class Draw:
    """Positive numbers; with `zeros` a third of them are 0, and so is all of the first row of the last axis."""

    def __init__(self, seed: int, zeros: bool) -> None:
        self.generator, self.zeros = torch.Generator().manual_seed(seed), zeros

    def positive(self, *shape: int) -> torch.Tensor:
        x = 0.1 + 0.9 * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if self.zeros:
            x = torch.where(torch.rand(shape, generator=self.generator) < 0.3, 0.0, x)
            x[(0,) * (len(shape) - 1)] = 0.0
        return x

    def log(self, *shape: int) -> torch.Tensor:
        """Logarithms, real `-inf` among them with `zeros`."""
        return 3.0 * self.positive(*shape).log()

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=self.generator)

    def observed(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator) < 0.7


class Case(NamedTuple):
    """`inputs` names what is differentiated. Outputs after the first `differentiable` ones have no gradient."""

    folder: str
    function: str
    sizes: dict[str, int]
    make: Callable[[Sizes, Draw], Arguments]
    inputs: tuple[str, ...]
    differentiable: int = 1
    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.function}{self.label}"

    def definition(self, arguments: Arguments) -> tuple[torch.Tensor, ...]:
        return self._call("reference", arguments)

    def kernel(self, arguments: Arguments) -> tuple[torch.Tensor, ...]:
        return self._call("triton", arguments)

    def _call(self, module: str, arguments: Arguments) -> tuple[torch.Tensor, ...]:
        found = getattr(import_module(f"pcircuits.kernels.{self.folder}.{module}"), self.function)(**arguments)
        return (found,) if isinstance(found, torch.Tensor) else tuple(found)


def _sum(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, o, j = (sizes[axis] for axis in "FBOJ")
    return {"weights": draw.positive(f, o, j), "values": draw.positive(f, b, j)}


def _gated(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, o, j, g = (sizes[axis] for axis in "FBOJG")
    sizes = {**sizes, "O": o * g, "J": j * g}
    return {**_sum(sizes, draw), "gates": draw.positive(f, b, g, g)}


def _flow(make: Callable[[Sizes, Draw], Arguments]) -> Callable[[Sizes, Draw], Arguments]:
    """With the outputs of the sum and flows of them, which are zero where the outputs are."""

    def with_flows(sizes: Sizes, draw: Draw) -> Arguments:
        given = make(sizes, draw)
        module = "block_sparse_sum" if "blocks" in given else "low_rank_sum" if "left" in given else "dense_sum"
        function = "linear_sum" if module == "dense_sum" else module
        out = getattr(import_module(f"pcircuits.kernels.{module}.reference"), function)(**given)
        return {**given, "outputs": out, "flows": draw.positive(*out.shape)}

    return with_flows


def _counting(make: Callable[[Sizes, Draw], Arguments]) -> Callable[[Sizes, Draw], Arguments]:
    return lambda sizes, draw: {**_flow(make)(sizes, draw), "count": True}


def _outer(sizes: Sizes, draw: Draw) -> Arguments:
    given = _gated(sizes, draw)
    outputs = draw.positive(sizes["F"], sizes["B"], sizes["O"] * sizes["G"])
    return {"outputs": outputs, "values": given["values"], "gates": given["gates"]}


def _products(sizes: Sizes, draw: Draw, tied: bool = True) -> Arguments:
    """Children that are shared, or that are all read in another order."""
    f, b, j, a = sizes["F"], sizes["B"], sizes.get("J", sizes.get("K", 0)), sizes["A"]
    table = f + 1 if tied else a * f
    return {
        "values": draw.positive(table, b, j),
        "scales": draw.log(table, b).nan_to_num(neginf=-7.0),
        "children": draw.integers(table, f, a) if tied else torch.arange(a * f).flip(0).view(f, a),
    }


def _with_potentials(sizes: Sizes, draw: Draw) -> Arguments:
    return {**_products(sizes, draw), "potentials": draw.log(sizes["F"], sizes["B"], sizes["K"])}


def _level(sizes: Sizes, draw: Draw) -> Arguments:
    groups = max(1, sizes["F"] // 2)
    rows = draw.integers(groups, sizes["F"])
    return {**_products(sizes, draw), "weights": draw.positive(groups, sizes["O"], sizes["J"]), "rows": rows}


def _untied_level(sizes: Sizes, draw: Draw) -> Arguments:
    f, o, j = (sizes[axis] for axis in "FOJ")
    return {**_products(sizes, draw, tied=False), "weights": draw.positive(f, o, j)}


def _level_flow(sizes: Sizes, draw: Draw) -> Arguments:
    from pcircuits.kernels.sum_product.reference import sum_product

    given = _level(sizes, draw)
    found = sum_product(**given)
    del given["scales"]
    return {**given, "level": found, "flows": draw.positive(*found.values.shape), "count": True}


def _low_rank(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, o, j, r = (sizes[axis] for axis in "FBOJR")
    return {**_sum(sizes, draw), "left": draw.positive(f, r, b, o), "right": draw.positive(f, r, b, j)}


def _segments(sizes: Sizes, draw: Draw) -> Arguments:
    n, s, k = (sizes[axis] for axis in "NSK")
    return {
        "values": draw.positive(n, k),
        "segments": draw.integers(s + 1, n) - 1,
        "num_segments": s,
        "sources": draw.integers(n, n),
        "factors": draw.positive(1, n)[0] if not draw.zeros else draw.positive(2, n)[1],
    }


def _categories(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, v = (sizes[axis] for axis in "FBV")
    groups = max(1, f - 1)
    return {
        "rows": draw.integers(groups, f),
        "values": draw.integers(v, f, b),
        "observed": draw.observed(f, b),
    }


def _categorical(sizes: Sizes, draw: Draw) -> Arguments:
    return {**_categories(sizes, draw), "table": draw.positive(max(1, sizes["F"] - 1), sizes["V"], sizes["K"])}


def _categorical_counts(sizes: Sizes, draw: Draw) -> Arguments:
    flows = draw.positive(sizes["F"], sizes["B"], sizes["K"])
    groups = max(1, sizes["F"] - 1)
    return {**_categories(sizes, draw), "flows": flows, "num_groups": groups, "num_categories": sizes["V"]}


def _soft(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, v, k = (sizes[axis] for axis in "FBVK")
    groups = max(1, f // 2)
    rows = draw.integers(groups, f)
    return {"table": draw.positive(groups, v, k), "rows": rows, "log_weights": draw.log(f, b, v)}


def _soft_posterior(sizes: Sizes, draw: Draw) -> Arguments:
    return {**_soft(sizes, draw), "shares": draw.positive(sizes["F"], sizes["B"], sizes["K"])}


def _soft_counts(sizes: Sizes, draw: Draw) -> Arguments:
    given = _soft_posterior(sizes, draw)
    return {"num_groups": len(given.pop("table")), **given}


def _top(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, c = (sizes[axis] for axis in "FBC")
    given = _soft(sizes, draw)
    return {**given, "log_weights": draw.log(f, b, c), "categories": draw.integers(sizes["V"], f, b, c)}


def _top_posterior(sizes: Sizes, draw: Draw) -> Arguments:
    return {**_top(sizes, draw), "shares": draw.positive(sizes["F"], sizes["B"], sizes["K"])}


def _top_counts(sizes: Sizes, draw: Draw) -> Arguments:
    given = _top_posterior(sizes, draw)
    return {"num_groups": len(given.pop("table")), "num_categories": sizes["V"], **given}


def _gaussian(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, k = (sizes[axis] for axis in "FBK")
    groups = max(1, f - 1)
    return {
        "mean": draw.positive(groups, k),
        "std": 0.1 + draw.positive(groups, k),
        "rows": draw.integers(groups, f),
        "values": 2 * draw.positive(f, b),
        "observed": draw.observed(f, b),
    }


def _gaussian_counts(sizes: Sizes, draw: Draw) -> Arguments:
    return {**_gaussian(sizes, draw), "flows": draw.positive(sizes["F"], sizes["B"], sizes["K"])}


def _chain(sizes: Sizes, draw: Draw) -> Arguments:
    t, b, h = (sizes[axis] for axis in "TBH")
    return {
        "weights": draw.positive(h, h) / h,
        "inputs": draw.positive(t, b, h),
        "input_scales": draw.log(t, b).nan_to_num(neginf=-7.0),
        "start": draw.positive(b, h),
        "start_scale": draw.log(1, b)[0].nan_to_num(neginf=-7.0),
    }


def _chain_flow(sizes: Sizes, draw: Draw) -> Arguments:
    from pcircuits.kernels.chain.reference import chain

    given = _chain(sizes, draw)
    values = chain(**given).values
    kept = {name: given[name] for name in ("weights", "inputs", "start")}
    return {**kept, "values": values, "flows": draw.positive(*values.shape[1:]), "count": True}


def _block_sparse(sizes: Sizes, draw: Draw) -> Arguments:
    f, b, o, j = (sizes[axis] for axis in "FBOJ")
    at = torch.arange(o * j).view(o, j)[torch.rand(o, j, generator=draw.generator) < 0.6]
    at = at if len(at) else torch.zeros(1, dtype=torch.long)
    pattern = BlockPattern(at // j, at % j, o, j)
    blocks, values = draw.positive(f, len(at), 16, 16), draw.positive(f, b, 16 * j)
    return {"blocks": blocks, "pattern": pattern, "values": values}


def _block_sparse_outer(sizes: Sizes, draw: Draw) -> Arguments:
    given = _block_sparse(sizes, draw)
    outputs = draw.positive(sizes["F"], sizes["B"], 16 * sizes["O"])
    return {"outputs": outputs, "pattern": given["pattern"], "values": given["values"]}


_FBOJ = {"F": 2, "B": 3, "O": 5, "J": 7}
_FBVK = {"F": 3, "B": 4, "V": 9, "K": 5}
_WX, _FLOWS = ("weights", "values"), ("values", "outputs", "flows")
CASES = (
    Case("dense_sum", "linear_sum", _FBOJ, _sum, _WX),
    Case("dense_sum", "linear_sum", {**_FBOJ, "G": 3}, _gated, (*_WX, "gates"), label="_gated"),
    Case("dense_sum", "outer_sum", {**_FBOJ, "G": 2}, _outer, ("outputs", "values", "gates")),
    Case("dense_sum", "linear_sum_flow", _FBOJ, _counting(_sum), ("weights", *_FLOWS), 2),
    Case(
        "dense_sum",
        "linear_sum_flow",
        {**_FBOJ, "G": 3},
        _counting(_gated),
        ("weights", "gates", *_FLOWS),
        2,
        label="_gated",
    ),
    Case("product", "product", {"F": 3, "B": 4, "K": 5, "A": 3}, _products, ("values",)),
    Case(
        "product",
        "product",
        {"F": 3, "B": 4, "K": 5, "A": 1},
        _with_potentials,
        ("values", "potentials"),
        label="_with_potentials",
    ),
    Case("sum_product", "sum_product", {**_FBOJ, "A": 3}, _level, _WX),
    Case("sum_product", "sum_product", {**_FBOJ, "A": 2}, _untied_level, _WX, label="_untied"),
    Case(
        "sum_product",
        "sum_product_flow",
        {**_FBOJ, "F": 4, "A": 2},
        _level_flow,
        ("weights", "values", "flows"),
        2,
    ),
    Case("low_rank_sum", "low_rank_sum", {**_FBOJ, "R": 3}, _low_rank, ("left", "right", *_WX)),
    Case(
        "low_rank_sum",
        "low_rank_sum_flow",
        {**_FBOJ, "R": 2},
        _counting(_low_rank),
        ("weights", "left", "right", *_FLOWS),
        2,
    ),
    Case("block_sparse_sum", "block_sparse_sum", {"F": 2, "B": 3, "O": 3, "J": 2}, _block_sparse, ("blocks", "values")),
    Case(
        "block_sparse_sum",
        "block_sparse_outer",
        {"F": 2, "B": 3, "O": 3, "J": 2},
        _block_sparse_outer,
        ("outputs", "values"),
    ),
    Case(
        "block_sparse_sum",
        "block_sparse_sum_flow",
        {"F": 2, "B": 3, "O": 3, "J": 2},
        _counting(_block_sparse),
        ("blocks", *_FLOWS),
        2,
    ),
    Case("chain", "chain", {"T": 4, "B": 3, "H": 6}, _chain, ("weights", "inputs", "start")),
    Case("chain", "chain", {"T": 2, "B": 2, "H": 66}, _chain, ("weights", "inputs", "start"), label="_by_steps"),
    Case("chain", "chain_flow", {"T": 4, "B": 3, "H": 6}, _chain_flow, ("weights", "inputs", "start", "flows"), 2),
    Case("segment_sum", "segment_sum", {"N": 40, "S": 5, "K": 7}, _segments, ("values", "factors")),
    Case("categorical", "categorical_values", _FBVK, _categorical, ("table",)),
    Case("categorical", "categorical_counts", _FBVK, _categorical_counts, ("flows",)),
    Case("soft_evidence", "soft_values", _FBVK, _soft, ("table", "log_weights")),
    Case("soft_evidence", "soft_posterior", _FBVK, _soft_posterior, ("table", "log_weights", "shares")),
    Case("soft_evidence", "soft_counts", _FBVK, _soft_counts, ("log_weights", "shares")),
    Case("soft_evidence", "top_values", {**_FBVK, "C": 4}, _top, ("table", "log_weights")),
    Case("soft_evidence", "top_posterior", {**_FBVK, "C": 4}, _top_posterior, ("table", "log_weights", "shares")),
    Case("soft_evidence", "top_counts", {**_FBVK, "C": 4}, _top_counts, ("log_weights", "shares")),
    Case("gaussian", "gaussian_values", {"F": 3, "B": 4, "K": 5}, _gaussian, ("mean", "std")),
    Case("gaussian", "gaussian_counts", {"F": 3, "B": 4, "K": 5}, _gaussian_counts, ("mean", "std", "flows")),
)
