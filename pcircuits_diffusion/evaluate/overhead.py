"""What a coupled head costs: its time a generation step over the backbone's forward pass."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from pcircuits.types import Int, Tensor
from pcircuits_diffusion.backbone import Backbone, predict
from pcircuits_diffusion.evaluate.orders import draw_orders, masked_at
from pcircuits_diffusion.evaluate.rules import Rule, needs_hidden


class Overhead(NamedTuple):
    """Median milliseconds of a generation step at one batch size."""

    batch_size: int
    backbone_ms: float
    head_ms: float

    @property
    def over_backbone(self) -> float:
        """The head's time over the backbone's."""
        return self.head_ms / self.backbone_ms

    @property
    def share(self) -> float:
        """The head's part of both together."""
        return self.head_ms / (self.head_ms + self.backbone_ms)


@torch.no_grad()
def head_overhead(
    backbone: Backbone,
    head: Rule,
    tokens: Int[Tensor, "N W"],
    *,
    block_length: int,
    batch_sizes: Sequence[int] = (1, 16, 64),
    repeats: int = 9,
    generator: torch.Generator,
) -> list[Overhead]:
    """Times one step, backbone and head by turns, after a warm-up: half of the block masked, one joint sample drawn.

    Windows are repeated where a batch needs more than there are. The caller sets the number of threads.
    """
    return [_measure(backbone, head, _batch(tokens, size), block_length, repeats, generator) for size in batch_sizes]


def _batch(tokens: Tensor, size: int) -> Tensor:
    return tokens[torch.arange(size) % len(tokens)]


def _measure(
    backbone: Backbone, head: Rule, tokens: Tensor, block_length: int, repeats: int, generator: torch.Generator
) -> Overhead:
    ranks = draw_orders(1, len(tokens), block_length, generator=generator)[0]
    mask = masked_at(ranks, block_length // 2)
    span = slice(tokens.shape[1] - block_length, tokens.shape[1])
    inputs = tokens.clone()
    inputs[:, span].masked_fill_(mask, backbone.mask_id)
    predicted = predict(backbone, inputs, hidden=needs_hidden(head), span=span)

    def backbone_step() -> object:
        return backbone.log_marginals(inputs, span=span)

    def head_step() -> object:
        return head(*predicted, inputs[:, span], mask).sample(1, generator=generator)  # type: ignore[attr-defined]

    head_step()
    pairs = [(_milliseconds(backbone_step), _milliseconds(head_step)) for _ in range(repeats)]
    return Overhead(len(tokens), *(statistics.median(column) for column in zip(*pairs, strict=True)))


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)
