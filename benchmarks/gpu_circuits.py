"""Whole circuits that `benchmarks.gpu` times: every kind of level, input and evidence that kernels serve."""

import copy
from collections.abc import Iterator, Mapping

import torch

import pcircuits as pc
from benchmarks.gpu_sides import Call, Draw, Sizes, Work, products_of, sides_of
from benchmarks.peers import bare


def circuits(sizes: Sizes, draw: Draw) -> Iterator[Work]:
    """One at a time, as `gpu_kernels.kernels`."""
    for width in sizes.widths:
        yield _image(sizes, width, "cp", draw)
        yield _image(sizes, width, "cp-t", draw)
        yield _real_image(sizes, width, draw)
    for states in sizes.states:
        yield _hmm(sizes, states, draw)
        yield _block_hmm(sizes, states, draw)
    yield from _heads(sizes, draw)


def _image(sizes: Sizes, width: int, layer: str, draw: Draw) -> Work:
    """w1 of `benchmarks.workloads`: a quad graph over an image; and the same with sums over products."""
    graph, values = pc.structures.quad_graph(sizes.side, sizes.side), min(256, sizes.categories)
    circuit = pc.Circuit(graph, pc.Categorical(values), num_units=width, layer=layer, seed=0)
    x = draw.integers(values, sizes.batch, graph.num_variables)
    name = f"image of {sizes.side} x {sizes.side} pixels, {layer}, K={width}"
    return _whole(name, circuit, pc.Evidence(x), _sums(circuit, width, sizes.batch, draw))


def _real_image(sizes: Sizes, width: int, draw: Draw) -> Work:
    """Gaussian pixels."""
    graph = pc.structures.quad_graph(sizes.side, sizes.side)
    circuit = pc.Circuit(graph, pc.Gaussian(), num_units=width, layer="cp-t", seed=0)
    x = draw(sizes.batch, graph.num_variables)
    return _whole(f"Gaussian image, K={width}", circuit, pc.Evidence(x), _sums(circuit, width, sizes.batch, draw))


def _sums(circuit: pc.Circuit, width: int, batch: int, draw: Draw) -> Mapping[str, Call]:
    shapes = [tuple(p.shape) for name, p in circuit.named_parameters() if name.endswith("log_weights")]
    return products_of([s for s in shapes if s[-1] == width], batch, draw.device)


def _hmm(sizes: Sizes, states: int, draw: Draw) -> Work:
    """h1 of `benchmarks.workloads`."""
    values = min(5000, sizes.categories)
    circuit = pc.HMM(states, values, sizes.steps, seed=0)
    x = draw.integers(values, max(1, sizes.batch // 2), sizes.steps)
    return _whole(f"HMM, H={states}", circuit, pc.Evidence(x), _steps(sizes, states, draw))


def _block_hmm(sizes: Sizes, states: int, draw: Draw) -> Work:
    """Transitions within blocks of 32 states and to the next block (16 where there are few)."""
    values, side = min(5000, sizes.categories), 32 if states > 128 else 16
    circuit = pc.HMM(states, values, sizes.steps, seed=0)
    block = torch.arange(states) // side
    near = (block.unsqueeze(1) - block) % max(1, states // side)
    for _, group in circuit.named_groups():
        weights = getattr(group, "log_weights", None)
        if weights is not None and weights.shape[1:] == near.shape:
            group.restrict((near < 2).expand_as(weights).clone())
    x = draw.integers(values, max(1, sizes.batch // 2), sizes.steps)
    return _whole(f"HMM of blocks, H={states}", circuit, pc.Evidence(x), _steps(sizes, states, draw))


def _heads(sizes: Sizes, draw: Draw) -> Iterator[Work]:
    """What a head conditions its HMM on: half of the positions weighed, over all values or 64 of them; and states and
    transitions that are favoured, sample by sample.
    """
    states, values, batch = sizes.states[-1], sizes.categories, max(1, sizes.batch // 8)
    circuit = pc.HMM(states, values, sizes.steps, seed=0)
    x, observed = draw.integers(values, batch, sizes.steps), draw(batch, sizes.steps) < 0.5
    log_weights = draw(batch, sizes.steps, values).log()
    top, ids = log_weights.topk(min(64, values), -1)
    latent, gates = draw(batch, sizes.steps, states).log(), draw(batch, sizes.steps, 8, 8).log()
    known = {
        "weights": pc.Evidence(x, observed=observed, log_weights=log_weights),
        "top weights": pc.Evidence(x, observed=observed, log_weights=top, weighted_values=ids),
        "weights and gates": pc.Evidence(x, observed=observed, log_weights=log_weights, latent=latent, gates=gates),
    }
    for name, evidence in known.items():
        yield _whole(f"head, {name}, V={values}, H={states}", circuit, evidence, {"forward": None, "train": None})


def _steps(sizes: Sizes, states: int, draw: Draw) -> Mapping[str, Call]:
    with torch.device(draw.device):
        return bare.prepare({}, {"num_states": states, "length": sizes.steps, "batch": max(1, sizes.batch // 2)})


def _whole(name: str, circuit: pc.Circuit, evidence: pc.Evidence, products: Mapping[str, Call | None]) -> Work:
    """Evidence in to log evidence, and to EM counts, out. The definition is the same circuit in float64, whose sums
    are torch's.
    """
    exact = copy.deepcopy(circuit).double().requires_grad_(False).to(evidence.device)
    circuit = circuit.requires_grad_(False).to(evidence.device)

    def again() -> pc.Evidence:
        return evidence.summing(None)  # without what an earlier call worked out

    return Work(
        name,
        {
            "forward": sides_of(
                lambda: circuit.condition(again()).log_evidence,
                lambda: exact.condition(again()).log_evidence,
                products["forward"],
            ),
            "train": sides_of(
                lambda: circuit.statistics(again()).log_likelihood,
                lambda: exact.statistics(again()).log_likelihood,
                products["train"],
            ),
        },
    )
