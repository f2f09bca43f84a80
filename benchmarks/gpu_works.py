"""What `benchmarks.gpu` times: every kernel, and whole circuits, beside the products that they are made of.

A work's actions map each side to a call. Sizes come from `FULL` on a device and from `DRY` where only the program is
tried.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

import pcircuits as pc
from benchmarks.bounds import BARE, OURS
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
from pcircuits.kernels.soft_evidence import reference as soft_definition
from pcircuits.kernels.soft_evidence import triton as soft
from pcircuits.kernels.sum_product import reference as level_definition
from pcircuits.kernels.sum_product import triton as level
from pcircuits.types import Tensor

DEFINITION, TF32 = "definition", "bare products in tf32"
Call = Callable[[], Any]


class Sizes(NamedTuple):
    """Regions, batch, widths of levels; states and steps of chains; categories; side of an image."""

    regions: int
    batch: int
    widths: tuple[int, ...]
    states: tuple[int, ...]
    steps: int
    categories: int
    side: int


FULL = Sizes(400, 128, (32, 64), (64, 256, 1024), 32, 126_464, 28)
DRY = Sizes(2, 5, (16,), (16, 80), 3, 40, 2)


class Work(NamedTuple):
    """`actions[action][side]`; sides that give tensors under "forward" must give the same, bare products aside."""

    name: str
    actions: Mapping[str, Mapping[str, Call]]


def works(sizes: Sizes, device: torch.device, seed: int) -> Iterator[Work]:
    """One at a time: what a work allocates is freed before the next."""
    draw = _Draw(device, seed)
    for width in sizes.widths:
        yield _level(sizes, width, draw)
        yield _gated(sizes, width, draw)
        yield _low_rank(sizes, width, draw)
    yield _block_sparse(sizes, draw)
    for states in sizes.states:
        yield _chain(sizes, states, draw)
    yield _soft(sizes, draw)
    yield _top(sizes, draw)
    yield _categorical(sizes, draw)
    yield _gaussian(sizes, draw)
    for width in sizes.widths:
        yield _image(sizes, width, draw)
    for states in sizes.states:
        yield _hmm(sizes, states, draw)


class _Draw:
    def __init__(self, device: torch.device, seed: int) -> None:
        self.device, self.generator = device, torch.Generator(device).manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return 0.01 + torch.rand(shape, generator=self.generator, device=self.device)

    def rows(self, *shape: int) -> Tensor:
        """Adding up to one over the last axis."""
        x = self(*shape)
        return x / x.sum(-1, keepdim=True)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def _in_tf32(call: Call) -> Call:
    def run() -> Any:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return run


def _sides(ours: Call, definition: Call, products: Call | None) -> dict[str, Call]:
    found = {OURS: ours, DEFINITION: definition}
    return found if products is None else {**found, BARE: products, TF32: _in_tf32(products)}


def _products(shapes: list[tuple[int, int, int]], batch: int, device: torch.device) -> Mapping[str, Call]:
    """Of `benchmarks.peers.bare`, on the device."""
    with torch.device(device):
        return bare.prepare({}, {"products": [list(shape) for shape in shapes], "batch": batch})


def _level(sizes: Sizes, width: int, draw: _Draw) -> Work:
    count, batch = sizes.regions, sizes.batch
    weights, values = draw.rows(count, width, width), draw(2 * count, batch, width)
    scales = torch.zeros(2 * count, batch, dtype=torch.float64, device=draw.device)
    children = torch.arange(2 * count, device=draw.device).view(2, count).T.contiguous()
    flows = draw(count, batch, width)
    products = _products([(count, width, width)], batch, draw.device)

    def forward(module: Any) -> Tensor:
        return module.sum_product(weights, values, scales, children).values

    def train(module: Any) -> Any:
        return module.sum_product_flow(weights, values, children, forward(module), flows)

    return Work(
        f"level of {count} regions, K={width}",
        {
            "forward": _sides(lambda: forward(level), lambda: forward(level_definition), products["forward"]),
            "train": _sides(lambda: train(level), lambda: train(level_definition), products["train"]),
        },
    )


def _gated(sizes: Sizes, width: int, draw: _Draw) -> Work:
    count, batch = sizes.regions, sizes.batch
    weights, values, gates = draw.rows(count, width, width), draw(count, batch, width), draw(count, batch, 8, 8)
    flows = draw(count, batch, width)
    products = _products([(count, width, width)], batch, draw.device)

    def forward(module: Any) -> Tensor:
        return module.linear_sum(weights, values, gates)

    def train(module: Any) -> Any:
        return module.linear_sum_flow(weights, values, forward(module), flows, gates, count=True)

    return Work(
        f"block gates, K={width}",
        {
            "forward": _sides(lambda: forward(dense), lambda: forward(dense_definition), products["forward"]),
            "train": _sides(lambda: train(dense), lambda: train(dense_definition), products["train"]),
        },
    )


def _low_rank(sizes: Sizes, width: int, draw: _Draw) -> Work:
    count, batch = sizes.regions, sizes.batch
    weights, values = draw.rows(count, width, width), draw(count, batch, width)
    left, right = draw(count, batch, width, 4), draw(count, batch, width, 4)
    products = _products([(count, width, width)], batch, draw.device)["forward"]
    ours, theirs = (
        lambda module=module: module.low_rank_sum(weights, left, right, values)
        for module in (low_rank, low_rank_definition)
    )
    return Work(f"low rank 4, K={width}", {"forward": _sides(ours, theirs, products)})


def _block_sparse(sizes: Sizes, draw: _Draw) -> Work:
    """Half of the blocks, of side 32; the bare product is the dense one."""
    count, batch, grid = max(1, sizes.regions // 8), sizes.batch, 8 if sizes.regions > 8 else 2
    at = torch.arange(0, grid * grid, 2, device=draw.device)
    pattern = block_sparse.BlockPattern(at // grid, (at % grid + at // grid) % grid, grid, grid)
    blocks, values = draw(count, len(at), 32, 32), draw(count, batch, 32 * grid)
    products = _products([(count, 32 * grid, 32 * grid)], batch, draw.device)["forward"]
    ours, theirs = (
        lambda module=module: module.block_sparse_sum(blocks, pattern, values)
        for module in (block_sparse, block_sparse_definition)
    )
    return Work(f"half the blocks, K={32 * grid}", {"forward": _sides(ours, theirs, products)})


def _chain(sizes: Sizes, states: int, draw: _Draw) -> Work:
    length, batch = sizes.steps, max(1, sizes.batch // 2)
    weights, inputs, start = draw.rows(states, states), draw(length, batch, states), draw(batch, states)
    scales = torch.zeros(length, batch, dtype=torch.float64, device=draw.device)
    flows = draw(batch, states)
    with torch.device(draw.device):
        products = bare.prepare({}, {"num_states": states, "length": length, "batch": batch})

    def forward(module: Any) -> Tensor:
        return module.chain(weights, inputs, scales, start, scales[0]).values

    def train(module: Any) -> Any:
        return module.chain_flow(weights, inputs, start, forward(module), flows)

    return Work(
        f"chain of {length} steps, H={states}",
        {
            "forward": _sides(lambda: forward(chain), lambda: forward(chain_definition), products["forward"]),
            "train": _sides(lambda: train(chain), lambda: train(chain_definition), products["train"]),
        },
    )


def _soft(sizes: Sizes, draw: _Draw) -> Work:
    """Dense soft evidence of all categories on the widest chain's states."""
    states, count = sizes.states[-1], 2 * sizes.batch
    table = draw.rows(states, sizes.categories).T.contiguous().unsqueeze(0)
    log_weights, shares = draw(1, count, sizes.categories).log(), draw(1, count, states)
    rows = torch.zeros(1, dtype=torch.long, device=draw.device)
    products = _products([(1, states, sizes.categories)], count, draw.device)

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
            "forward": _sides(ours, theirs, products["forward"]),
            "train": _sides(lambda: train(soft), lambda: train(soft_definition), products["train"]),
        },
    )


def _top(sizes: Sizes, draw: _Draw) -> Work:
    states, count, kept = sizes.states[-1], 2 * sizes.batch, min(64, sizes.categories)
    table = draw.rows(states, sizes.categories).T.contiguous().unsqueeze(0)
    log_weights = draw(1, count, kept).log()
    categories = draw.integers(sizes.categories, 1, count, kept)
    rows = torch.zeros(1, dtype=torch.long, device=draw.device)
    ours, theirs = (
        lambda module=module: module.top_values(table, rows, log_weights, categories)[0]
        for module in (soft, soft_definition)
    )
    return Work(f"top-{kept} evidence, H={states}", {"forward": _sides(ours, theirs, None)})


def _categorical(sizes: Sizes, draw: _Draw) -> Work:
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
            "forward": _sides(lambda: forward(categorical), lambda: forward(categorical_definition), None),
            "counts": _sides(lambda: counts(categorical), lambda: counts(categorical_definition), None),
        },
    )


def _gaussian(sizes: Sizes, draw: _Draw) -> Work:
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
            "forward": _sides(lambda: forward(gaussian), lambda: forward(gaussian_definition), None),
            "counts": _sides(lambda: counts(gaussian), lambda: counts(gaussian_definition), None),
        },
    )


def _image(sizes: Sizes, width: int, draw: _Draw) -> Work:
    """w1 of `benchmarks.workloads`: a quad graph over an image."""
    graph, values = pc.structures.quad_graph(sizes.side, sizes.side), min(256, sizes.categories)
    circuit = pc.Circuit(graph, pc.Categorical(values), num_units=width, layer="cp", seed=0)
    shapes = [tuple(p.shape) for name, p in circuit.named_parameters() if name.endswith("log_weights")]
    products = _products([s for s in shapes if s[-1] == width], sizes.batch, draw.device)
    x = draw.integers(values, sizes.batch, graph.num_variables)
    return _whole(f"image of {sizes.side} x {sizes.side} pixels, K={width}", circuit, x, products)


def _hmm(sizes: Sizes, states: int, draw: _Draw) -> Work:
    """h1 of `benchmarks.workloads`."""
    values, batch = min(5000, sizes.categories), max(1, sizes.batch // 2)
    circuit = pc.HMM(states, values, sizes.steps, seed=0)
    with torch.device(draw.device):
        products = bare.prepare({}, {"num_states": states, "length": sizes.steps, "batch": batch})
    return _whole(f"HMM, H={states}", circuit, draw.integers(values, batch, sizes.steps), products)


def _whole(name: str, circuit: pc.Circuit, x: Tensor, products: Mapping[str, Call]) -> Work:
    """Evidence in to log evidence, and to EM counts, out. The definition is the same circuit in float64, whose sums
    are torch's.
    """
    exact = copy.deepcopy(circuit).double().requires_grad_(False).to(x.device)
    circuit = circuit.requires_grad_(False).to(x.device)
    return Work(
        name,
        {
            "forward": _sides(lambda: circuit.log_prob(x), lambda: exact.log_prob(x), products["forward"]),
            "train": _sides(
                lambda: circuit.statistics(x).log_likelihood,
                lambda: exact.statistics(x).log_likelihood,
                products["train"],
            ),
        },
    )
