"""HMMs of a law that is known: exact ones, and the best that a few states do.

Axes: M valid outputs, L positions, V symbols, H states.
"""

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.truths_tasks import Oracle, Truth, permutations
from pcircuits import learning

SMOOTHING = 0.01


def exact_states(truth: Truth) -> Tensor:
    """(M, L) the state of every output at every position: what can still follow, and the symbol that was just read.

    They are those of the smallest deterministic automaton of the outputs: n 2^(n-1) of them for permutations of n, a
    state being the set of used symbols and the last one.
    """
    words = [tuple(word) for word in truth.valid.tolist()]
    follows: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for word in words:
        for t in range(1, truth.length + 1):
            follows.setdefault(word[:t], set()).add(word[t:])
    numbers: dict[tuple[int, frozenset, int], int] = {}
    nodes = {
        prefix: numbers.setdefault((len(prefix), frozenset(rest), prefix[-1]), len(numbers))
        for prefix, rest in follows.items()
    }
    return torch.tensor([[nodes[word[:t]] for t in range(1, truth.length + 1)] for word in words])


def exact_hmm(truth: Truth) -> pc.HMM:
    """The uniform law over the valid outputs, with as many states as `exact_states` needs."""
    states = exact_states(truth)
    return learning.hmm_from_states(
        truth.valid,
        states,
        int(states.max()) + 1,
        truth.num_symbols,
        length=truth.length,
        smoothing=0.0,
        initial="first",
    ).double()


def rows_hmm(truth: Truth) -> pc.HMM:
    """Grids of n by n whose rows are permutations, by the n 2^(n-1) states of one row: of columns it knows only how a
    row starts after the last symbol of the one before.
    """
    n = truth.num_symbols
    row = permutations(n)
    states = exact_states(row)
    index = (truth.valid.view(-1, n, 1, n) == row.valid).all(-1).int().argmax(-1)
    return learning.hmm_from_states(
        truth.valid,
        states[index].flatten(1),
        int(states.max()) + 1,
        n,
        length=truth.length,
        smoothing=0.0,
        initial="first",
    ).double()


def fitted_hmm(truth: Truth, num_states: int, *, epochs: int, seed: int) -> pc.HMM:
    """`num_states` states by EM on all valid outputs, from clusters of what the oracle predicts after each prefix:
    latent variable distillation, with the oracle as the network.
    """
    points = _after_prefixes(truth)
    states = learning.kmeans(points.flatten(0, 1), num_states, seed=seed).labels.view(truth.valid.shape)
    hmm = learning.hmm_from_states(
        truth.valid,
        states,
        num_states,
        truth.num_symbols,
        length=truth.length,
        smoothing=SMOOTHING,
        initial="first",
    ).double()
    learner = pc.EM(pseudocount=SMOOTHING)
    pc.fit(hmm, truth.valid, learner=learner, epochs=epochs, batch_size=len(truth.valid), seed=seed, progress=False)
    return hmm


def _after_prefixes(truth: Truth) -> Tensor:
    """(M, L, L V) the oracle's predictions of all positions, with the outputs known up to and including each."""
    oracle, found = Oracle(truth), []
    for t in range(truth.length):
        tokens = truth.valid.clone()
        tokens[:, t + 1 :] = oracle.mask_id
        found.append(oracle.log_marginals(tokens).exp().flatten(1))
    return torch.stack(found, 1).float()


def uniform_hmm(truth: Truth) -> pc.HMM:
    """The circuit that says nothing, as a control."""
    symbols = torch.full((1, truth.num_symbols), 1 / truth.num_symbols, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    return pc.HMM.from_probs(one, one.view(1, 1), symbols, length=truth.length)
