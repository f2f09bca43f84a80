"""A prior for a head: an HMM over blocks, started from states that mean something, then EM on the text.

Axes: N sequences, W tokens of a sequence, L steps of the HMM, P features of a hidden state, H states.
"""

from typing import Any

import torch
from tqdm import tqdm

import pcircuits as pc
from pcircuits import learning
from pcircuits.types import Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone

POINTS_PER_STATE = 64  # hidden states a cluster that k-means is fitted on
EDGE = 6  # a sixth of a sequence at either end is left out: tokens there have context on one side only


def em_start(
    tokens: Tensor,
    num_states: int,
    *,
    vocab_size: int,
    block_length: int,
    backbone: Backbone | None = None,
    seed: int,
    **options: Any,
) -> pc.HMM:
    """An HMM over blocks of the text, by EM.

    EM starts from clusters of the backbone's hidden states, one a token occurrence (latent variable distillation, Liu,
    Zhang, Van den Broeck 2023), or without a backbone from clusters of bigrams: from random parameters it would stay at
    the unigram likelihood.

    Args:
        tokens: (N, W) sequences of text; for a backbone as long as it takes.
        backbone: one with `hidden` (see `Backbone`).
        seed: of the clusters and of the order of blocks.
        options: those of `pcircuits.learning.fit` for the EM that follows; by default 3 epochs of MiniBatchEM(step=0.5,
            decay=0.5) in batches of 512 blocks. `epochs=0` returns the start.

    Raises:
        pc.ParameterError: a backbone without `hidden`. pc.ShapeError, pc.DataError: tokens that do not fit.
    """
    if tokens.ndim != 2 or tokens.shape[1] < block_length:
        raise pc.ShapeError(f"`tokens` must have shape (N, W), W at least {block_length}; got {tuple(tokens.shape)}")
    progress = options.setdefault("progress", True)
    if backbone is None:
        hmm = learning.hmm_from_bigrams(tokens, num_states, vocab_size, length=block_length, seed=seed)
    else:
        inner, states = states_from_hidden(backbone, tokens, num_states, seed=seed, progress=progress)
        hmm = learning.hmm_from_states(inner, states, num_states, vocab_size, length=block_length, smoothing=5.0)
    options = {"epochs": 3, "learner": pc.MiniBatchEM(step=0.5, decay=0.5), "batch_size": 512, **options}
    if options["epochs"] > 0:
        pc.fit(hmm, split_blocks(tokens, block_length), seed=seed, **options)
    return hmm


def split_blocks(tokens: Int[Tensor, "N W"], length: int) -> Int[Tensor, "M L"]:
    """Consecutive blocks of each sequence; what does not fill one at its beginning is left out."""
    return tokens[:, tokens.shape[1] % length :].reshape(-1, length)


@torch.no_grad()
def states_from_hidden(
    backbone: Backbone,
    tokens: Int[Tensor, "N W"],
    num_states: int,
    *,
    seed: int,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """The inner tokens of the sequences, nothing masked, and a state for each: k-means on standardised hidden states.

    Centres are fitted on some sequences, then every sequence is assigned batch by batch.
    """
    if not hasattr(backbone, "hidden"):
        raise pc.ParameterError(f"{type(backbone).__name__} has no `hidden`, which states are made from; leave it out")
    edge = tokens.shape[1] // EDGE
    span = slice(edge, tokens.shape[1] - edge)
    width = span.stop - span.start
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    sample = tokens[order[: -(-num_states * POINTS_PER_STATE // width)]]
    points = torch.cat([backbone.hidden(part, span=span).flatten(0, 1) for part in sample.split(batch_size)])
    scale = points.std(0).clamp_min(1e-6)
    centres = learning.kmeans(points / scale, num_states, seed=seed).centres
    parts = tqdm(tokens.split(batch_size), "hidden states", disable=not progress)
    states = [_nearest(backbone.hidden(part, span=span) / scale, centres) for part in parts]
    return tokens[:, span], torch.cat(states)


def _nearest(points: Float[Tensor, "B T P"], centres: Float[Tensor, "H P"]) -> Int[Tensor, "B T"]:
    return (points @ centres.mT - centres.square().sum(-1) / 2).argmax(-1)
