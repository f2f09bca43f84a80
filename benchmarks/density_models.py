"""The models of the density benchmark: how each family is learned from a data set and a seed."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import one_hot

import pcircuits as pc
from benchmarks.debd import Data
from pcircuits.types import Float, Int, Tensor

BATCH = 256
_MIXING_STEPS = 200  # of EM on the shares of a mixture: a few numbers, convex
_TREE_STEPS = 8  # of EM on a mixture of Chow-Liu trees: its clusters hardly move then
_ALL_ROWS = 100.0  # samples of all rows that each cluster counts beside its own
_APART = 4  # epochs in which the components keep the clusters of their trees
_STAGES = ((0.5, 100, 12), (0.2, 200, 12), (0.05, 400, 8))  # EM steps, batch sizes, epochs at most
_PATIENCE = 3
_LEAST_SHARE = 1e-3  # of a row in a component: below it the component is not trained on the row


class Fitted(NamedTuple):
    """Circuits in equal shares, and the epochs of the longest training."""

    circuits: tuple[pc.Circuit, ...]
    epochs: int

    @property
    def num_parameters(self) -> int:
        return sum(circuit.num_parameters for circuit in self.circuits)

    def log_prob(self, x: Int[Tensor, "B D"]) -> Float[Tensor, " B"]:
        count = len(self.circuits)
        return _each(self.circuits, x, torch.full((count,), 1 / count)).logsumexp(0)


def hclt(data: Data, seed: int, *, num_units: int, pseudocount: float, epochs: int, starts: int = 1) -> Fitted:
    """Hidden Chow-Liu trees: one, or several that differ in their initial parameters."""
    graph = pc.structures.hclt(data.train, num_units=num_units, smoothing=1.0)
    seeds = [seed + 1000 * n for n in range(starts)]
    return _together(
        [_train(pc.Circuit(graph, pc.Categorical(2), seed=s), data, pseudocount, epochs, s) for s in seeds]
    )


def hclt_mixture(data: Data, seed: int, *, components: int, num_units: int, pseudocount: float) -> Fitted:
    """A mixture of hidden Chow-Liu trees, each with the tree of its own soft cluster of rows; EM with steps that get
    smaller, each stage from the parameters that fit the validation rows best.
    """
    clusters = tree_clusters(data.train, components, seed)
    graphs = [
        pc.structures.hclt(data.train, num_units=num_units, smoothing=1.0, weights=_with_all_rows(weights))
        for weights in clusters.T
    ]
    parts = [pc.Circuit(graph, pc.Categorical(2), seed=100 * seed + n) for n, graph in enumerate(graphs)]
    epochs, best, kept = 0, -torch.inf, (copy.deepcopy(parts), clusters.mean(0))
    for step, batch_size, most in _STAGES:
        learner, waited, done = pc.learning.MiniBatchEM(step=step, pseudocount=pseudocount), 0, 0
        while done < most and waited < _PATIENCE:
            _epoch_apart(parts, data.train, clusters, learner, batch_size, epochs)
            epochs, done = epochs + 1, done + 1
            if epochs < _APART:
                continue
            waited += 1
            clusters = _each(parts, data.train, clusters.mean(0)).softmax(0).T
            score = float(_each(parts, data.valid, clusters.mean(0)).logsumexp(0).mean())
            if score > best:
                best, kept, waited = score, (copy.deepcopy(parts), clusters.mean(0)), 0
        parts = copy.deepcopy(kept[0])
        clusters = _each(parts, data.train, kept[1]).softmax(0).T
    return Fitted((pc.mixture(*kept),), epochs)


def tree_clusters(x: Int[Tensor, "B D"], count: int, seed: int) -> Float[Tensor, "B M"]:
    """The posterior of the components of a mixture of Chow-Liu trees (Meila, Jordan 2000), by EM from k-means."""
    clusters = one_hot(pc.learning.kmeans(x.double(), count, seed=seed).labels, count).double()
    for _ in range(_TREE_STEPS):
        trees = [_chow_liu(x, _with_all_rows(weights)) for weights in clusters.T]
        clusters = _each(trees, x, clusters.mean(0)).softmax(0).T
    return clusters


def rat(data: Data, seed: int, *, num_units: int, repetitions: int, pseudocount: float, epochs: int) -> Fitted:
    """A random tensorised structure with sums of products of pairs, as in EiNets."""
    variables = data.train.shape[1]
    depth = min(3, variables.bit_length() - 1)
    graph = pc.structures.rat(variables, depth, num_repetitions=repetitions, seed=seed)
    circuit = pc.Circuit(graph, pc.Categorical(2), num_units=num_units, layer="tucker", seed=seed)
    return _train(circuit, data, pseudocount, epochs, seed)


def cutset(data: Data, seed: int, *, max_depth: int, bags: int = 0) -> Fitted:
    """Cutset networks: the one of all rows, or `bags` of them, each of other rows, drawn with replacement."""
    rows = _bags(data.train, bags, seed) if bags else [data.train]
    return Fitted(tuple(pc.learning.cutset_network(x, num_categories=2, max_depth=max_depth) for x in rows), 1)


def learn_spn(data: Data, seed: int, *, min_rows: int, significance: float = 1e-4, bags: int = 0) -> Fitted:
    """LearnSPN: the circuit of all rows, or `bags` of them, each of other rows, drawn with replacement."""
    options: dict[str, Any] = {"min_rows": min_rows, "significance": significance, "seed": seed}
    rows = _bags(data.train, bags, seed) if bags else [data.train]
    return Fitted(tuple(pc.learning.learn_spn(x, pc.Categorical(2), **options) for x in rows), 1)


FAMILIES: Mapping[str, Callable[..., Fitted]] = {
    "HCLT": hclt,
    "HCLT, several starts": hclt,
    "mixture of HCLTs": hclt_mixture,
    "RAT": rat,
    "cutset network": cutset,
    "cutset networks, bagged": cutset,
    "LearnSPN": learn_spn,
    "LearnSPN, bagged": learn_spn,
}


def mix(each: Float[Tensor, "M B"], shares: Float[Tensor, " M"]) -> Float[Tensor, " B"]:
    """Log-likelihoods of a mixture from those of its components."""
    return (each + shares.log().unsqueeze(1)).logsumexp(0)


def best_shares(each: Float[Tensor, "M B"]) -> Float[Tensor, " M"]:
    """The shares under which the mixture is most likely, by EM from equal ones."""
    shares = torch.full((len(each),), 1 / len(each), dtype=each.dtype)
    for _ in range(_MIXING_STEPS):
        shares = (each + shares.log().unsqueeze(1)).softmax(0).mean(1)
    return shares


@torch.no_grad()
def _each(circuits: Sequence[pc.Circuit], x: Int[Tensor, "B D"], shares: Float[Tensor, " M"]) -> Float[Tensor, "M B"]:
    """Log of each circuit's share times its likelihood, in float64."""
    found = torch.stack([torch.cat([c.log_prob(part) for part in x.split(BATCH)]) for c in circuits])
    return found.double() + shares.double().log().unsqueeze(1)


def _chow_liu(x: Int[Tensor, "B D"], weights: Float[Tensor, " B"]) -> pc.Circuit:
    """The likeliest Chow-Liu tree of weighted rows: it is deterministic, so one step of EM finds its parameters."""
    graph = pc.structures.chow_liu(x, num_categories=2, smoothing=1.0, weights=weights)
    tree = pc.Circuit(graph, pc.Categorical(2))
    tree.maximise(tree.statistics(x, sample_weights=weights.to(tree.dtype)), pseudocount=1.0)
    return tree


def _with_all_rows(weights: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """A cluster's weights, shrunk towards those of all rows: a few hundred rows say little of thousands of pairs."""
    return weights + _ALL_ROWS / len(weights)


def _epoch_apart(
    parts: Sequence[pc.Circuit],
    x: Int[Tensor, "B D"],
    clusters: Float[Tensor, "B M"],
    learner: pc.learning.MiniBatchEM,
    batch_size: int,
    seed: int,
) -> None:
    """An epoch of EM on each component, over the rows that it has a share in, weighted by that."""
    for part, weights in zip(parts, clusters.T, strict=True):
        rows = (weights > _LEAST_SHARE).nonzero().squeeze(1)
        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": False, "epochs": 1}
        pc.fit(part, x[rows], learner=learner, sample_weights=weights[rows].to(part.dtype), **options)


def _train(circuit: pc.Circuit, data: Data, pseudocount: float, epochs: int, seed: int) -> Fitted:
    """Mini-batch EM until the validation log-likelihood gets no better."""
    options: dict[str, Any] = {"batch_size": BATCH, "seed": seed, "progress": False, "patience": 4, "epochs": epochs}
    learner = pc.learning.MiniBatchEM(step=0.2, pseudocount=pseudocount)
    history = pc.fit(circuit, data.train, valid=data.valid, learner=learner, **options)
    return Fitted((circuit,), len(history.epochs))


def _together(parts: Sequence[Fitted]) -> Fitted:
    return Fitted(tuple(c for part in parts for c in part.circuits), max(part.epochs for part in parts))


def _bags(rows: Int[Tensor, "B D"], count: int, seed: int) -> list[Int[Tensor, "B D"]]:
    generator = torch.Generator().manual_seed(seed)
    return [rows[torch.randint(len(rows), (len(rows),), generator=generator)] for _ in range(count)]
