"""Training a head on a frozen backbone: objective (7) of Li et al. 2026 in the loop that trains circuits.

Axes: N windows, W tokens of a window, L positions of the block at its end, B batch.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

import pcircuits as pc
from pcircuits import learning
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.coupling import CoupledPosterior
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.logit_cache import MaskedBlocks, cache_logits
from pcircuits_diffusion.mixture import HeadMixture, MixturePosterior

EPOCHS = 1_000_003  # neighbouring seeds share no epoch's order


class Objective(NamedTuple):
    """What training maximises, in nats.

    Attributes:
        per_token: `w` of objective (7) is one over the number of masked tokens, so that losses are nats a masked token
            and all mask ratios count alike; else it is 1, and losses are nats a block.
        penalty: nats a block that a mean square of one of a modulation's potentials costs (see `Modulation`).
    """

    per_token: bool = True
    penalty: float = 0.0

    def of_head(self, head: nn.Module, blocks: MaskedBlocks) -> Float[Tensor, " B"]:
        """Of cached blocks."""
        device = next(head.parameters()).device
        tokens, mask, log_marginals = (field.to(device) for field in blocks[:3])
        hidden = None if blocks.hidden is None else blocks.hidden.to(device)
        return self.of(head(log_marginals, hidden, tokens, mask), tokens)

    def of(self, distribution: CoupledPosterior | MixturePosterior, tokens: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """`log p_hat(x0 | x_t)`, weighted, less the penalty."""
        score = distribution.log_prob(tokens)
        if self.penalty > 0:
            score = score - self.penalty * distribution.penalty()
        return score / distribution.mask.sum(-1) if self.per_token else score


def train_head(
    head: CoupledHead | HeadMixture,
    backbone: Backbone,
    tokens: Tensor,
    *,
    valid: Tensor | None = None,
    cache: str | os.PathLike | None = None,
    masks_per_window: int = 1,
    objective: Objective | None = None,
    seed: int,
    **options: Any,
) -> learning.History:
    """Trains a head in place by `max E[w(t) log p_hat(x0 | x_t)]`, objective (7); the backbone stays as it is.

    Under `torchrun` (after `pcircuits.learning.join()`) each process takes its share of every batch and of the
    backbone's calls, given a `cache` folder; the result is that of one process. The first one writes checkpoints.

    Every window's block is masked `masks_per_window` times: a ratio t is drawn uniformly (stratified over all windows)
    and each token masked with probability t, at least one. A head with a threshold gamma sees ratios up to gamma only.

    Args:
        tokens: windows (N, W), the block of L tokens at their end, context before it.
        valid: held-out windows, masked once by the same seed.
        cache: a folder for the backbone's predictions, in memory if left out (2 V bytes a masked token, and 2 E bytes a
            token for heads that read hidden states).
        objective: how masked tokens are weighted, and a penalty.
        seed: of the masks and of the order of windows. The same call resumes bit by bit.
        options: those of `pcircuits.learning.fit`: epochs, batch_size (32), learner (Adam), patience, checkpoint,
            checkpoint_every, resume, on_epoch, progress.

    Raises:
        pc.ParameterError: EM or anemone. The objective is a difference of two log evidences: its flows sum to zero at
            the root and some are negative, so that updates which divide by total flows are undefined.
        pc.ShapeError, pc.DataError: windows shorter than the head's block, or with tokens that the backbone lacks.
    """
    require_gradient(options.setdefault("learner", "adam"))
    require_fit(head, backbone, tokens, valid, masks_per_window)
    show, batch_size = options.setdefault("progress", True), options.pop("batch_size", 32)
    data: dict[str, ShuffledBlocks] = {}
    for name, (windows, mask) in masked_windows(head, tokens, valid, masks_per_window, seed).items():
        folder = None if cache is None else Path(cache) / name
        found = cache_logits(backbone, windows, mask, hidden=head.needs_hidden, folder=folder, progress=show)
        data[name] = ShuffledBlocks(found, batch_size, seed if name == "train" else None)
    return pc.fit(
        head, data["train"], valid=data.get("valid"), objective=(objective or Objective()).of_head, seed=seed, **options
    )


@runtime_checkable
class Blocks(Protocol):
    """Blocks that batches are taken from."""

    def __len__(self) -> int: ...
    def batch(self, index: Int[Tensor, " B"]) -> Any: ...


class ShuffledBlocks:
    """Batches of blocks in an order of each epoch's own, of which each of several processes takes its share; without a
    seed all of them in the order they have.
    """

    def __init__(self, cache: Blocks, batch_size: int, seed: int | None) -> None:
        self.cache, self.batch_size, self.seed = cache, batch_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.cache) / self.batch_size)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Any]:
        order = torch.arange(len(self.cache))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * EPOCHS + epoch)
            order = torch.randperm(len(order), generator=generator)
        parts = order.split(self.batch_size)[start:]
        return (self.cache.batch(index if self.seed is None else learning.share(index)) for index in parts)


def draw_masks(count: int, length: int, *, highest: float = 1.0, generator: torch.Generator) -> Bool[Tensor, "N L"]:
    """Masks at ratios `t ~ U(0, highest)`, one from each of `count` equal strata.

    Each token is masked with probability t, and at least one in each row.
    """
    strata = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    ratios = highest * strata / count
    uniform = torch.rand(count, length, generator=generator)
    return (uniform < ratios.unsqueeze(-1)) | (uniform == uniform.amin(-1, keepdim=True))


def masked_windows(
    head: CoupledHead | HeadMixture, tokens: Tensor, valid: Tensor | None, masks_per_window: int, seed: int
) -> dict[str, tuple[Int[Tensor, "N W"], Bool[Tensor, "N L"]]]:
    """The training windows as often as they are masked, and the held-out ones, each with its masks."""
    parts = {"train": tokens.repeat_interleave(masks_per_window, 0)} | ({} if valid is None else {"valid": valid})
    highest = 1.0 if head.gamma is None else head.gamma
    generators = {name: torch.Generator().manual_seed(seed + n) for n, name in enumerate(parts)}
    return {
        name: (windows, draw_masks(len(windows), head.block_length, highest=highest, generator=generators[name]))
        for name, windows in parts.items()
    }


def require_gradient(learner: learning.Learner | str) -> None:
    """Raises for learners that cannot follow objective (7)."""
    kind = learning.LEARNERS.get(learner) if isinstance(learner, str) else type(learner)
    if kind is not None and issubclass(kind, learning.StatisticsLearner):
        raise pc.ParameterError(
            f"{kind.name} cannot train a head: objective (7) is a difference of two log evidences, whose flows sum to "
            "zero at the root and are partly negative, and this learner divides by total flows; use learner='adam'"
        )


def require_fit(
    head: CoupledHead | HeadMixture, backbone: Backbone, tokens: Tensor, valid: Tensor | None, masks_per_window: int
) -> None:
    """Raises unless head, backbone and windows belong together."""
    if head.vocab_size != backbone.vocab_size:
        raise pc.ShapeError(f"the head has {head.vocab_size} tokens, the backbone {backbone.vocab_size}")
    if not isinstance(masks_per_window, int) or masks_per_window < 1:
        raise pc.ParameterError(f"`masks_per_window` must be a positive integer, got {masks_per_window!r}")
    for name, windows in {"tokens": tokens, "valid": valid}.items():
        if windows is not None and (windows.ndim != 2 or windows.shape[1] < head.block_length):
            want = f"(N, W) with W at least the head's block of {head.block_length}"
            raise pc.ShapeError(f"`{name}` must have shape {want}, got {tuple(windows.shape)}")
