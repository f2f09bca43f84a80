"""The models of the density benchmark: how each family is learned from a data set and a seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

import pcircuits as pc
from benchmarks.debd import Data
from pcircuits.types import Float, Int, Tensor

BATCH = 256
_MIXING_STEPS = 200  # of EM on the shares of a mixture: a few numbers, convex


class Fitted(NamedTuple):
    """Circuits in equal shares, and the epochs of the longest training."""

    circuits: tuple[pc.Circuit, ...]
    epochs: int

    @property
    def num_parameters(self) -> int:
        return sum(circuit.num_parameters for circuit in self.circuits)

    @torch.no_grad()
    def log_prob(self, x: Int[Tensor, "B D"]) -> Float[Tensor, " B"]:
        each = torch.stack([torch.cat([c.log_prob(part) for part in x.split(BATCH)]) for c in self.circuits])
        return mix(each, torch.full((len(each),), 1 / len(each), dtype=each.dtype))


def hclt(data: Data, seed: int, *, num_units: int, pseudocount: float, epochs: int, starts: int = 1) -> Fitted:
    """Hidden Chow-Liu trees: one, or several that differ in their initial parameters."""
    graph = pc.structures.hclt(data.train, num_units=num_units, smoothing=1.0)
    seeds = [seed + 1000 * n for n in range(starts)]
    return _together(
        [_train(pc.Circuit(graph, pc.Categorical(2), seed=s), data, pseudocount, epochs, s) for s in seeds]
    )


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
