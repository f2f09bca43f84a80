"""Exact likelihoods of held-out blocks: by mask ratio in one step, and of sampling in T steps.

Axes: S orders, N windows, B windows of a batch, W tokens of a window, L positions of the block at its end, V tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from tqdm import tqdm

from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone, Prediction, predict
from pcircuits_diffusion.evaluate.curves import FACTORISED, SEQUENTIAL, MaskRatioCurves, StepLikelihoods
from pcircuits_diffusion.evaluate.orders import RATIOS, draw_orders, masked_at, masked_counts, next_group
from pcircuits_diffusion.evaluate.questions import Answers, Question, Questions
from pcircuits_diffusion.evaluate.rules import Rule, factorised, gated, needs_hidden, prior_alone
from pcircuits_diffusion.head import CoupledHead


class Setting(NamedTuple):
    """Shares of masked tokens, step counts (None: powers of two up to L), orders a window, and windows a batch."""

    ratios: tuple[float, ...] = RATIOS
    steps: tuple[int, ...] | None = None
    num_orders: int = 3
    batch_size: int = 64
    progress: bool = False

    def questions(self, length: int) -> Questions:
        powers = tuple(2**k for k in range(length.bit_length()))
        return Questions(length, masked_counts(length, self.ratios), powers if self.steps is None else self.steps)


class Study(NamedTuple):
    """Both results, from the same windows and orders."""

    ratios: MaskRatioCurves
    steps: StepLikelihoods


@runtime_checkable
class Coupled(Protocol):
    """A backbone and its head, such as a `CoupledDiffusion`."""

    backbone: Backbone
    head: CoupledHead


def perplexity_vs_mask_ratio(
    model: Coupled,
    tokens: Int[Tensor, "N W"],
    *,
    documents: Int[Tensor, " _"] | None = None,
    setting: Setting | None = None,
    generator: torch.Generator,
) -> MaskRatioCurves:
    """The curves of Li et al. 2026, Fig. 1, for a model's head ("coupled"), beside its prior alone.

    `documents` say which windows belong together; by default each is a document of its own.
    """
    return study(
        model.backbone,
        {"coupled": model.head},
        tokens,
        torch.arange(len(tokens)) if documents is None else documents,
        block_length=model.head.block_length,
        controls={"prior alone": prior_alone(model.head.prior)},
        setting=(setting or Setting())._replace(steps=()),
        generator=generator,
    ).ratios


def study(
    backbone: Backbone,
    heads: Mapping[str, Rule],
    tokens: Int[Tensor, "N W"],
    documents: Int[Tensor, " _"],
    *,
    block_length: int,
    controls: Mapping[str, Rule] | None = None,
    setting: Setting | None = None,
    generator: torch.Generator,
) -> Study:
    """Scores the last `block_length` tokens of every window, given the ones before.

    A window's masks nest along each of its random orders, and all models score the same tokens. The backbone runs L
    times an order. `controls` are models without the backbone; they are asked for the mask ratios alone.

    Raises:
        ValueError: windows shorter than a block, or not as many documents as windows.
    """
    _validate(tokens, documents, block_length)
    setting = setting or Setting()
    questions = setting.questions(block_length)
    models: dict[str, tuple[Rule, set[Question]]] = {FACTORISED: (factorised, questions.of_backbone)}
    models |= {name: (gated(head), questions.of_heads) for name, head in heads.items()}
    models |= {name: (control, questions.one_step) for name, control in (controls or {}).items()}
    ranks = draw_orders(setting.num_orders, len(tokens), block_length, generator=generator)
    answers = _answer(backbone, models, tokens, ranks, setting)
    return _collect(questions, answers, tuple(heads), documents)


def _collect(questions: Questions, answers: Mapping[str, Answers], heads: tuple[str, ...], documents: Tensor) -> Study:
    length, counts, steps = questions
    by_ratio = {SEQUENTIAL: questions.sequential_curve(answers[FACTORISED])}
    by_ratio |= {name: questions.one_step_curve(found) for name, found in answers.items()}
    by_steps = {name: questions.step_curve(answers[name]) for name in (FACTORISED, *heads)}
    return Study(
        MaskRatioCurves(length, counts, counts, by_ratio, heads, documents),
        StepLikelihoods(length, steps, (length,) * len(steps), by_steps, heads, documents),
    )


@torch.no_grad()
def _answer(
    backbone: Backbone,
    models: Mapping[str, tuple[Rule, set[Question]]],
    tokens: Int[Tensor, "N W"],
    ranks: Int[Tensor, "S N L"],
    setting: Setting,
) -> dict[str, Answers]:
    """Puts each model its questions, for all windows and orders."""
    shape = ranks.shape[:2]
    answers = {name: {q: torch.zeros(shape, dtype=torch.float64) for q in asked} for name, (_, asked) in models.items()}
    counts = sorted({masked for _, asked in models.values() for masked, _ in asked}, reverse=True)
    hidden = any(needs_hidden(rule) for rule, _ in models.values())
    for rows, order, masked in _jobs(len(tokens), len(ranks), counts, setting):
        state = _State.of(backbone, tokens[rows], ranks[order, rows], masked, hidden)
        for name, (rule, asked) in models.items():
            sizes = [size for count, size in asked if count == masked]
            for size, nats in state.nats(rule, sizes) if sizes else ():
                answers[name][masked, size][order, rows] = nats
    return answers


def _jobs(
    num_windows: int, num_orders: int, counts: Sequence[int], setting: Setting
) -> Iterator[tuple[slice, int, int]]:
    """Every (rows of a batch, order, masked count), behind a progress bar."""
    batches = [slice(start, start + setting.batch_size) for start in range(0, num_windows, setting.batch_size)]
    jobs = [(rows, order, masked) for rows in batches for order in range(num_orders) for masked in counts]
    yield from tqdm(jobs, desc="likelihoods", disable=not setting.progress, leave=False)


class _State(NamedTuple):
    """A batch of blocks with some tokens masked, and what the backbone makes of it."""

    blocks: Int[Tensor, "B L"]
    ranks: Int[Tensor, "B L"]
    masked: int
    mask: Bool[Tensor, "B L"]
    predicted: Prediction

    @classmethod
    def of(
        cls, backbone: Backbone, tokens: Int[Tensor, "B W"], ranks: Int[Tensor, "B L"], masked: int, hidden: bool
    ) -> "_State":
        span = slice(tokens.shape[1] - ranks.shape[1], tokens.shape[1])
        mask = masked_at(ranks, masked)
        inputs = tokens.clone()
        inputs[:, span].masked_fill_(mask, backbone.mask_id)
        return cls(tokens[:, span], ranks, masked, mask, predict(backbone, inputs, hidden=hidden, span=span))

    def nats(self, rule: Rule, sizes: Sequence[int]) -> Iterator[tuple[int, Float[Tensor, " B"]]]:
        """Negative log-likelihood of the next group of each size; the rule never sees the masked tokens."""
        distribution = rule(*self.predicted, torch.where(self.mask, 0, self.blocks), self.mask)
        for size in sizes:
            group = next_group(self.ranks, self.masked, size)
            yield size, -distribution.log_prob(self.blocks, variables=group)


def _validate(tokens: Tensor, documents: Tensor, block_length: int) -> None:
    if tokens.shape[1] < block_length:
        raise ValueError(f"windows of {tokens.shape[1]} tokens are shorter than a block of {block_length}")
    if documents.shape != tokens.shape[:1]:
        raise ValueError(f"{len(tokens)} windows need as many `documents`, got shape {tuple(documents.shape)}")
