"""Every kernel that `benchmarks.gpu` times, beside the products that it is made of."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu_sides import Draw, Sizes, Work, products_of, sides_of
from benchmarks.peers import bare
from pcircuits.kernels.block_sparse_sum import reference as block_sparse_definition
from pcircuits.kernels.block_sparse_sum import triton as block_sparse
from pcircuits.kernels.categorical import reference as categorical_definition
from pcircuits.kernels.categorical import triton as categorical
from pcircuits.kernels.chain import reference as chain_definition
from pcircuits.kernels.chain import triton as chain
from pcircuits.kernels.dense_sum import reference as dense_definition
from pcircuits.kernels.dense_sum import triton as dense
from pcircuits.kernels.gaussian import reference as gaussian_definition
from pcircuits.kernels.gaussian import triton as gaussian
from pcircuits.kernels.low_rank_sum import reference as low_rank_definition
from pcircuits.kernels.low_rank_sum import triton as low_rank
from pcircuits.kernels.product import reference as product_definition
from pcircuits.kernels.product import triton as product
from pcircuits.kernels.soft_evidence import reference as soft_definition
from pcircuits.kernels.soft_evidence import triton as soft
from pcircuits.kernels.sum_product import reference as level_definition
from pcircuits.kernels.sum_product import triton as level
from pcircuits.types import Tensor


def kernels(sizes: Sizes, draw: Draw) -> Iterator[Work]:
    """One at a time: what a work allocates is freed before the next."""
    for width in sizes.widths:
        yield _level(sizes, width, draw)
        yield _product(sizes, width, draw)
        yield _gated(sizes, width, draw)
        yield _low_rank(sizes, width, draw)
    yield _block_sparse(sizes, draw)
    for states in sizes.states:
        yield _chain(sizes, states, draw)
    yield _soft(sizes, draw)
    yield _top(sizes, draw)
    yield _categorical(sizes, draw)
    yield _gaussian(sizes, draw)


def _level(sizes: Sizes, width: int, draw: Draw) -> Work:
    count, batch = sizes.regions, sizes.batch
    weights, values = draw.rows(count, width, width), draw(2 * count, batch, width)
    scales = torch.zeros(2 * count, batch, dtype=torch.float64, device=draw.device)
    children = torch.arange(2 * count, device=draw.device).view(2, count).T.contiguous()
    flows = draw(count, batch, width)
    products = products_of([(count, width, width)], batch, draw.device)

    def forward(module: Any) -> Tensor:
        return module.sum_product(weights, values, scales, children).values

    def train(module: Any) -> Any:
        found = module.sum_product(weights, values, scales, children)
        return module.sum_product_flow(weights, values, children, found, flows, count=True)

    return Work(
        f"level of {count} regions, K={width}",
        {
            "forward": sides_of(lambda: forward(level), lambda: forward(level_definition), products["forward"]),
            "train": sides_of(lambda: train(level), lambda: train(level_definition), products["train"]),
        },
    )


def _product(sizes: Sizes, width: int, draw: Draw) -> Work:
    """Of two children, rescaled; flows pass through it as they are."""
    count, batch = sizes.regions, sizes.batch
    values = draw(2 * count, batch, width)
    scales = torch.zeros(2 * count, batch, dtype=torch.float64, device=draw.device)
    children = torch.arange(2 * count, device=draw.device).view(2, count).T.contiguous()
    ours, theirs = (
        lambda module=module: module.product(values, scales, children).values
        for module in (product, product_definition)
    )
    return Work(f"products of {count} regions, K={width}", {"forward": sides_of(ours, theirs, None)})


def _gated(sizes: Sizes, width: int, draw: Draw) -> Work:
    count, batch = sizes.regions, sizes.batch
    weights, values, gates = draw.rows(count, width, width), draw(count, batch, width), draw(count, batch, 8, 8)
    flows = draw(count, batch, width)
    products = products_of([(count, width, width)], batch, draw.device)

    def forward(module: Any) -> Tensor:
        return module.linear_sum(weights, values, gates)

    def train(module: Any) -> Any:
        return module.linear_sum_flow(weights, values, forward(module), flows, gates, count=True)

    return Work(
        f"block gates, K={width}",
        {
            "forward": sides_of(lambda: forward(dense), lambda: forward(dense_definition), products["forward"]),
            "train": sides_of(lambda: train(dense), lambda: train(dense_definition), products["train"]),
        },
    )


def _low_rank(sizes: Sizes, width: int, draw: Draw) -> Work:
    count, batch = sizes.regions, sizes.batch
    weights, values = draw.rows(count, width, width), draw(count, batch, width)
    left, right = draw(count, 4, batch, width), draw(count, 4, batch, width)
    products = products_of([(count, width, width)], batch, draw.device)["forward"]
    ours, theirs = (
        lambda module=module: module.low_rank_sum(weights, left, right, values)
        for module in (low_rank, low_rank_definition)
    )
    return Work(f"low rank 4, K={width}", {"forward": sides_of(ours, theirs, products)})


def _block_sparse(sizes: Sizes, draw: Draw) -> Work:
    """Half of the blocks, of side 32; the bare product is the dense one."""
    count, batch, grid = max(1, sizes.regions // 8), sizes.batch, 8 if sizes.regions > 8 else 2
    at = torch.arange(0, grid * grid, 2, device=draw.device)
    pattern = block_sparse.BlockPattern(at // grid, (at % grid + at // grid) % grid, grid, grid)
    blocks, values = draw(count, len(at), 32, 32), draw(count, batch, 32 * grid)
    flows = draw(count, batch, 32 * grid)
    products = products_of([(count, 32 * grid, 32 * grid)], batch, draw.device)
    ours, definition = block_sparse, block_sparse_definition

    def forward(module: Any) -> Tensor:
        return module.block_sparse_sum(blocks, pattern, values)

    def train(module: Any) -> Any:
        return module.block_sparse_sum_flow(blocks, pattern, values, forward(module), flows, count=True)

    return Work(
        f"half the blocks, K={32 * grid}",
        {
            "forward": sides_of(lambda: forward(ours), lambda: forward(definition), products["forward"]),
            "train": sides_of(lambda: train(ours), lambda: train(definition), products["train"]),
        },
    )


def _chain(sizes: Sizes, states: int, draw: Draw) -> Work:
    length, batch = sizes.steps, max(1, sizes.batch // 2)
    weights, inputs, start = draw.rows(states, states), draw(length, batch, states), draw(batch, states)
    scales = torch.zeros(length, batch, dtype=torch.float64, device=draw.device)
    flows = draw(batch, states)
    with torch.device(draw.device):
        products = bare.prepare({}, {"num_states": states, "length": length, "batch": batch})

    def forward(module: Any) -> Tensor:
        return module.chain(weights, inputs, scales, start, scales[0]).values

    def train(module: Any) -> Any:
        return module.chain_flow(weights, inputs, start, forward(module), flows, count=True)

    return Work(
        f"chain of {length} steps, H={states}",
        {
            "forward": sides_of(lambda: forward(chain), lambda: forward(chain_definition), products["forward"]),
            "train": sides_of(lambda: train(chain), lambda: train(chain_definition), products["train"]),
        },
    )


def _soft(sizes: Sizes, draw: Draw) -> Work:
    """Dense soft evidence of all categories on the widest chain's states."""
    states, count = sizes.states[-1], 2 * sizes.batch
    table = draw.rows(states, sizes.categories).T.contiguous().unsqueeze(0)
    log_weights, shares = draw(1, count, sizes.categories).log(), draw(1, count, states)
    rows = torch.zeros(1, dtype=torch.long, device=draw.device)
    products = products_of([(1, states, sizes.categories)], count, draw.device)

    def train(module: Any) -> Any:
        values = module.soft_values(table, rows, log_weights)[0]
        return (
            values,
            module.soft_posterior(table, rows, log_weights, shares),
            module.soft_counts(log_weights, rows, shares, 1),
        )

    ours, theirs = (
        lambda module=module: module.soft_values(table, rows, log_weights)[0] for module in (soft, soft_definition)
    )
    return Work(
        f"soft evidence, V={sizes.categories}, H={states}",
        {
            "forward": sides_of(ours, theirs, products["forward"]),
            "train": sides_of(lambda: train(soft), lambda: train(soft_definition), products["train"]),
        },
    )


def _top(sizes: Sizes, draw: Draw) -> Work:
    states, count, kept = sizes.states[-1], 2 * sizes.batch, min(64, sizes.categories)
    table = draw.rows(states, sizes.categories).T.contiguous().unsqueeze(0)
    log_weights, shares = draw(1, count, kept).log(), draw(1, count, states)
    categories = draw.integers(sizes.categories, 1, count, kept)
    rows = torch.zeros(1, dtype=torch.long, device=draw.device)

    def forward(module: Any) -> Tensor:
        return module.top_values(table, rows, log_weights, categories)[0]

    def train(module: Any) -> Any:
        return (
            forward(module),
            module.top_posterior(table, rows, log_weights, categories, shares),
            module.top_counts(log_weights, categories, rows, shares, 1, sizes.categories),
        )

    return Work(
        f"top-{kept} evidence, H={states}",
        {
            "forward": sides_of(lambda: forward(soft), lambda: forward(soft_definition), None),
            "train": sides_of(lambda: train(soft), lambda: train(soft_definition), None),
        },
    )


def _categorical(sizes: Sizes, draw: Draw) -> Work:
    """The definition is torch's own index_select and index_add."""
    count, units, values = 2 * sizes.regions, sizes.widths[-1], min(256, sizes.categories)
    table, flows = draw(count, values, units), draw(count, sizes.batch, units)
    x = draw.integers(values, count, sizes.batch)
    rows, observed = torch.arange(count, device=draw.device), torch.ones_like(x, dtype=torch.bool)

    def forward(module: Any) -> Tensor:
        return module.categorical_values(table, rows, x, observed)

    def counts(module: Any) -> Tensor:
        return module.categorical_counts(flows, rows, x, observed, count, values)

    return Work(
        f"categorical inputs, V={values}, K={units}",
        {
            "forward": sides_of(lambda: forward(categorical), lambda: forward(categorical_definition), None),
            "counts": sides_of(lambda: counts(categorical), lambda: counts(categorical_definition), None),
        },
    )


def _gaussian(sizes: Sizes, draw: Draw) -> Work:
    count, units = 2 * sizes.regions, sizes.widths[-1]
    mean, std, x = draw(count, units), draw(count, units), draw(count, sizes.batch)
    rows, observed = torch.arange(count, device=draw.device), torch.ones_like(x, dtype=torch.bool)
    flows = draw(count, sizes.batch, units)

    def forward(module: Any) -> Tensor:
        return module.gaussian_values(mean, std, rows, x, observed)[0]

    def counts(module: Any) -> Tensor:
        return module.gaussian_counts(mean, std, rows, x, observed, flows)

    return Work(
        f"Gaussian inputs, K={units}",
        {
            "forward": sides_of(lambda: forward(gaussian), lambda: forward(gaussian_definition), None),
            "counts": sides_of(lambda: counts(gaussian), lambda: counts(gaussian_definition), None),
        },
    )
