"""Exact likelihoods of continuations of a context, under an order of decoding that is fixed.

Axes: B rows, P context tokens, L positions of the block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

import pcircuits as pc
from pcircuits.types import Bool, Int, Tensor
from pcircuits_diffusion.backbone import Backbone, Prediction, predict
from pcircuits_diffusion.decoding import require_marginals
from pcircuits_diffusion.evaluate.orders import step_sizes
from pcircuits_diffusion.evaluate.rules import factorised, gated, needs_hidden


@runtime_checkable
class Generative(Protocol):
    """A backbone, and a head on it or None, such as a `CoupledDiffusion`."""

    backbone: Backbone
    head: Any


class ContinuationScore(NamedTuple):
    """Natural log probability of a continuation, and whether decoding at temperature 0 gives it (None: not asked)."""

    log_prob: float
    is_greedy: bool | None


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The order in which a continuation is decoded: blocks from left to right, each in `steps` groups of neighbours.

    A group's tokens are drawn jointly, given everything to the left of them; all else in the block is masked and summed
    out. The last block of a continuation may reach beyond it: what is beyond is summed out, so that a prefix has the
    probability of all that begins with it. `steps=1`: one exact coupled probability a block. `steps=block_length`: one
    token at a time. A head's gamma is applied to the block's mask ratio, as in decoding.

    Attributes:
        max_context: most tokens that the backbone is given, the block included; earlier ones are dropped.
    """

    block_length: int
    steps: int = 1
    max_context: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= self.block_length:
            raise pc.ParameterError(
                f"`steps` must be between 1 and the block's {self.block_length} tokens, got {self.steps}"
            )
        if self.max_context is not None and self.max_context < self.block_length:
            raise pc.ParameterError(
                f"the backbone takes {self.max_context} tokens, fewer than one block of {self.block_length}"
            )

    @property
    def groups(self) -> list[tuple[int, int]]:
        """First position of each group, and the one after its last."""
        return list(pairwise([0, *accumulate(step_sizes(self.block_length, self.steps))]))


@torch.no_grad()
def score_continuations(
    model: Generative,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    scheme: Scheme,
    *,
    greedy: bool = True,
    device: torch.device | str | None = None,
) -> list[ContinuationScore]:
    """`log p(continuation | context)` under a scheme, exactly; one row a pair, in one batch.

    `greedy` asks for `is_greedy` too, at the cost of a most probable completion a group. An empty continuation has
    probability 1. Contexts need at least one token where the backbone cannot do without.

    Raises:
        pc.ShapeError: not as many contexts as continuations, or a scheme that does not fit the head. pc.DataError:
            tokens that the backbone lacks.
    """
    _validate(model, contexts, continuations, scheme)
    rule = factorised if model.head is None else gated(model.head)
    log_prob = torch.zeros(len(contexts), dtype=torch.float64, device=device)
    is_greedy = torch.ones(len(contexts), dtype=torch.bool, device=device)
    for part in _parts(contexts, continuations, scheme, device):
        predicted = part.predict(model.backbone, needs_hidden(rule))
        tokens = torch.where(part.mask, 0, part.block)
        distribution: Any = rule(*predicted, tokens, part.mask)
        log_prob[part.rows] += distribution.log_prob(part.block, variables=part.group)
        if greedy and is_greedy[part.rows].any():
            found = _most_probable(distribution, part.mask)
            is_greedy[part.rows] &= ((found == part.block) | ~part.group).all(-1)
    told = is_greedy.tolist() if greedy else [None] * len(contexts)
    return [ContinuationScore(*pair) for pair in zip(log_prob.tolist(), told, strict=True)]


class _Part(NamedTuple):
    """One group of one block: the rows that reach it, what is before the block, the block, and what is scored.

    Tokens to the left of the group are known, those from it on masked (`mask`).
    """

    rows: Int[Tensor, " B"]
    context: Int[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]
    block: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    group: Bool[Tensor, "B L"]

    def predict(self, backbone: Backbone, hidden: bool) -> Prediction:
        tokens = torch.cat([self.context, self.block.masked_fill(self.mask, backbone.mask_id)], 1)
        valid = torch.cat([self.valid, torch.ones_like(self.mask)], 1)
        span = slice(self.context.shape[1], tokens.shape[1])
        found = predict(backbone, tokens, hidden=hidden, valid=None if valid.all() else valid, span=span)
        require_marginals(found.log_marginals, self.mask, backbone.vocab_size)
        return found


def _parts(
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    scheme: Scheme,
    device: torch.device | str | None,
) -> Iterator[_Part]:
    length = scheme.block_length
    room = None if scheme.max_context is None else scheme.max_context - length
    positions = torch.arange(length, device=device)
    for start in range(0, max(map(len, continuations), default=0), length):
        for first, stop in scheme.groups:
            rows = [row for row, ids in enumerate(continuations) if len(ids) > start + first]
            if not rows:
                break
            before = [[*contexts[row], *continuations[row][:start]] for row in rows]
            before = before if room is None else [ids[max(0, len(ids) - room) :] for ids in before]
            context, valid = _padded(before, max(map(len, before)), left=True)
            block, wanted = _padded([continuations[row][start : start + length] for row in rows], length, left=False)
            mask = (positions >= first).expand(len(rows), -1)
            group = wanted.to(mask.device) & mask & (positions < stop)
            index = torch.tensor(rows, device=device)
            yield _Part(index, context.to(device), valid.to(device), block.to(device), mask, group)


def _padded(rows: Sequence[Sequence[int]], width: int, *, left: bool) -> tuple[Int[Tensor, "B W"], Bool[Tensor, "B W"]]:
    """Rows of one width, zeros on one side, and which ids are real."""
    tokens, real = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, place], real[i, place] = torch.tensor(row, dtype=torch.long), True
    return tokens, real


def _most_probable(distribution: Any, mask: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Where one position is left its mode, which `mpe` would find by trying every token."""
    return distribution.marginals().argmax(-1) if (mask.sum(-1) <= 1).all() else distribution.mpe().values


def _validate(
    model: Generative, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], scheme: Scheme
) -> None:
    if len(contexts) != len(continuations):
        raise pc.ShapeError(f"{len(contexts)} contexts need as many continuations, got {len(continuations)}")
    if model.head is not None and model.head.block_length != scheme.block_length:
        raise pc.ShapeError(
            f"the scheme's blocks have {scheme.block_length} tokens, the head's prior covers {model.head.block_length}"
        )
    vocab_size, mask_id = model.backbone.vocab_size, model.backbone.mask_id
    for row, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        if any(not 0 <= token < vocab_size or token == mask_id for token in (*context, *continuation)):
            raise pc.DataError(f"row {row} holds ids that are the mask ({mask_id}) or outside 0..{vocab_size - 1}")
