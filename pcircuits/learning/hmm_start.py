"""Starts for hidden Markov models on text, where EM from random parameters stays at the unigram likelihood."""

from typing import Literal

import torch

from pcircuits.errors import DataError, ParameterError, ShapeError
from pcircuits.evidence import describe
from pcircuits.hmm import HMM
from pcircuits.learning.kmeans import kmeans
from pcircuits.types import Float, Int, Tensor

_RANK = 64  # singular vectors that describe a token type
_CONTEXTS = 4096  # most frequent types that count as contexts, so that the table of a large vocabulary fits


def hmm_from_bigrams(
    tokens: Int[Tensor, "N T"],
    num_states: int,
    num_categories: int,
    *,
    length: int,
    seed: int | None = None,
    smoothing: float = 1.0,
) -> HMM:
    """An HMM whose states are clusters of token types with like neighbours, and frequent bigrams.

    See `states_from_contexts` and `hmm_from_states`. Follow it with a few epochs of EM.
    """
    states = states_from_contexts(tokens, num_states, num_categories, seed=seed)
    return hmm_from_states(tokens, states, num_states, num_categories, length=length, smoothing=smoothing)


def hmm_from_states(
    tokens: Int[Tensor, "N T"],
    states: Int[Tensor, "N T"],
    num_states: int,
    num_categories: int,
    *,
    length: int,
    smoothing: float = 1.0,
    initial: Literal["all", "first"] = "all",
) -> HMM:
    """The HMM of given states: counts of tokens and states, smoothed towards what is usual in all states.

        p(j | i) = (n_ij + a q_j) / (n_i + a)        q_j = (n_j + 1) / (n + H)

    and likewise for emissions; a is `smoothing`. At 0 nothing is smoothed: what was never seen is an exact zero for
    ever, except that a state without any occurrence takes q.

    Args:
        states: of every token, from any source: k-means on a network's hidden states makes this latent variable
            distillation (Liu, Zhang, Van den Broeck 2023).
        initial: where `p(z_1)` is counted. "all": at every position, right where sequences start anywhere in a
            text; "first": at the first one.

    Raises:
        DataError, ShapeError, ParameterError: no tokens, unequal shapes, values out of range.
    """
    _require_sequences("tokens", tokens, num_categories)
    _require_sequences("states", states, num_states)
    if tokens.shape != states.shape:
        raise ShapeError(
            f"`tokens` and `states` must have one shape, got {tuple(tokens.shape)} and {tuple(states.shape)}"
        )
    if not smoothing >= 0:
        raise ParameterError(f"`smoothing` must be at least 0, got {smoothing!r}")
    if initial not in ("all", "first"):
        raise ParameterError(f"`initial` must be 'all' or 'first', got {initial!r}")
    first = states if initial == "all" else states[:, :1]
    usual_state, usual_token = _usual(states, num_states), _usual(tokens, num_categories)
    return HMM.from_probs(
        _conditional(torch.zeros_like(first), first, (1, num_states), usual_state, smoothing)[0],
        _conditional(states[:, :-1], states[:, 1:], (num_states, num_states), usual_state, smoothing),
        _conditional(states, tokens, (num_states, num_categories), usual_token, smoothing),
        length=length,
    )


def states_from_bigrams(
    tokens: Int[Tensor, "N T"], num_states: int, num_categories: int, *, seed: int | None = None
) -> Int[Tensor, " V"]:
    """A state for every token type: k-means on the leading singular vectors of the bigram table.

    A type's row holds the square roots of its distributions of left and of right neighbours; it counts as often as the
    type occurs.

    Raises:
        DataError, ShapeError, ParameterError: no bigrams, values out of range, more states than types.
    """
    _require_sequences("tokens", tokens, num_categories)
    if not 1 <= num_states <= num_categories:
        raise ParameterError(
            f"{num_categories} token types give at most as many states, got `num_states` {num_states}; "
            "states_from_contexts gives one type several states"
        )
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
    frequency = torch.bincount(tokens.flatten(), minlength=num_categories)
    points = _embeddings(tokens, frequency, generator)
    return kmeans(points, num_states, weights=frequency.float(), seed=generator.initial_seed()).labels


def states_from_contexts(
    tokens: Int[Tensor, "N T"],
    num_states: int,
    num_categories: int,
    *,
    seed: int | None = None,
    context_share: float | None = None,
) -> Int[Tensor, "N T"]:
    """A state for every token occurrence: the most frequent bigrams have their own, the rest share clusters of types.

    A bigram's state is a token that remembers the one before; the clusters are those of `states_from_bigrams`.
    Noisy copies of a type's state would gain nothing, since EM has no reason to tell them apart.

    Args:
        context_share: how many of the states belong to bigrams. None: none while there are few states, half of them
            once there are as many as types, and all that are left when each type has its own.

    Raises:
        DataError, ShapeError, ParameterError: no bigrams, values or numbers out of range.
    """
    _require_sequences("tokens", tokens, num_categories)
    share = _usual_share(num_states / num_categories) if context_share is None else context_share
    if not 0 <= share < 1:
        raise ParameterError(f"`context_share` must be in [0, 1), got {context_share!r}")
    num_clusters = min(num_categories, num_states - int(share * num_states))
    clusters = states_from_bigrams(tokens, num_clusters, num_categories, seed=seed)
    if num_clusters == num_states:
        return clusters[tokens]
    pairs = tokens[:, 1:] * num_categories + tokens[:, :-1]
    kinds, kind, counts = pairs.unique(return_inverse=True, return_counts=True)
    frequent = counts.topk(min(num_states - num_clusters, len(counts))).indices
    state = clusters[kinds // num_categories]
    state[frequent] = torch.arange(len(frequent), device=tokens.device) + num_clusters
    return torch.cat([clusters[tokens[:, :1]], state[kind]], 1)


def _usual_share(states_per_type: float) -> float:
    """What starts were best with, on text by character (V = 128) and by token (V = 512)."""
    return min(0.5, max(0.0, 0.8 * states_per_type - 0.3))


def _embeddings(tokens: Tensor, frequency: Int[Tensor, " V"], generator: torch.Generator) -> Float[Tensor, "V P"]:
    """Each type's coordinates along the leading singular vectors of the table of its contexts."""
    table = torch.cat(
        [_contexts(tokens[:, 1:], tokens[:, :-1], frequency), _contexts(tokens[:, :-1], tokens[:, 1:], frequency)], 1
    )
    left, values = _leading_vectors(table, min(_RANK, *table.shape), generator)
    return left * values


def _contexts(tokens: Tensor, neighbours: Tensor, frequency: Int[Tensor, " V"]) -> Float[Tensor, "V C"]:
    """`sqrt p(c | v)` of frequent neighbours c: Euclidean distances between rows are Hellinger distances."""
    num_categories, num_contexts = len(frequency), min(len(frequency), _CONTEXTS)
    column = torch.full_like(frequency, -1)
    column[frequency.topk(num_contexts).indices] = torch.arange(num_contexts, device=frequency.device)
    columns = column[neighbours].flatten()
    index = (tokens.flatten() * num_contexts + columns)[columns >= 0]
    counts = torch.bincount(index, minlength=num_categories * num_contexts).view(num_categories, num_contexts).float()
    return (counts / counts.sum(1, keepdim=True).clamp_min(1)).sqrt()


def _leading_vectors(
    table: Float[Tensor, "V C"], rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "V P"], Float[Tensor, " P"]]:
    """Left singular vectors and singular values by subspace iteration (Halko, Martinsson, Tropp 2011)."""
    width = min(rank + 16, *table.shape)
    basis = torch.randn(table.shape[1], width, generator=generator).to(table)
    for _ in range(4):
        basis = torch.linalg.qr(table.mT @ torch.linalg.qr(table @ basis).Q).Q
    left, values, _ = torch.linalg.svd(table @ basis, full_matrices=False)
    return left[:, :rank], values[:rank]


def _usual(values: Int[Tensor, "N T"], size: int) -> Float[Tensor, " V"]:
    counts = torch.bincount(values.flatten(), minlength=size).double() + 1
    return (counts / counts.sum()).float()


def _conditional(
    given: Tensor, values: Tensor, shape: tuple[int, int], usual: Tensor, smoothing: float
) -> Float[Tensor, "H V"]:
    """`p(value | given)` from counts, smoothed towards `usual`."""
    rows, columns = shape
    counts = torch.bincount((given * columns + values).flatten(), minlength=rows * columns).view(shape).float()
    total = counts.sum(-1, keepdim=True)
    smoothed = (counts + smoothing * usual) / (total + smoothing).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(total + smoothing > 0, smoothed, usual)


def _require_sequences(name: str, values: Tensor, size: int) -> None:
    if not isinstance(values, Tensor) or values.ndim != 2 or values.is_floating_point() or values.dtype == torch.bool:
        raise ShapeError(f"`{name}` must be an integer (sequences, steps) tensor, got {describe(values)}")
    if values.numel() == 0:
        raise DataError(f"`{name}` is empty")
    if values.min() < 0 or values.max() >= size:
        raise DataError(f"`{name}` must lie in 0..{size - 1}, got {int(values.min())}..{int(values.max())}")
