"""What is asked of a model, and how the answers add up to curves.

A question is `(masked, size)`: when `masked` tokens of a block are masked, how likely are the next `size` of them in
the order, jointly? `(k, k)` is one step at k masked; `(k, 1), (k-1, 1), ..., (1, 1)` is the chain rule; a walk from
L to 0 in T groups is the likelihood of sampling in T steps.
Axes: S orders, P points of a curve, N windows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pcircuits.types import Float, Tensor
from pcircuits_diffusion.evaluate.orders import step_sizes

Question = tuple[int, int]
Answers = dict[Question, Tensor]
"""(S, N) negative log-likelihoods of the groups, nats, float64."""


class Questions(NamedTuple):
    """Blocks of `length` tokens, at these mask counts in one step, and in so many steps from the start."""

    length: int
    counts: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def one_step(self) -> set[Question]:
        return {(count, count) for count in self.counts}

    @property
    def of_heads(self) -> set[Question]:
        return self.one_step | {question for steps in self.steps for question in self.walk(steps)}

    @property
    def of_backbone(self) -> set[Question]:
        return self.of_heads | set(self.chain(max(self.counts)))

    def chain(self, masked: int) -> list[Question]:
        """One token at a time."""
        return [(left, 1) for left in range(masked, 0, -1)]

    def walk(self, steps: int) -> list[Question]:
        """The whole block in `steps` groups."""
        sizes = step_sizes(self.length, steps)
        return [(self.length - sum(sizes[:step]), size) for step, size in enumerate(sizes)]

    def one_step_curve(self, answers: Answers) -> Float[Tensor, "S P N"]:
        return _curve(answers, [[(count, count)] for count in self.counts])

    def sequential_curve(self, answers: Answers) -> Float[Tensor, "S P N"]:
        return _curve(answers, [self.chain(count) for count in self.counts])

    def step_curve(self, answers: Answers) -> Float[Tensor, "S P N"]:
        return _curve(answers, [self.walk(steps) for steps in self.steps])


def _curve(answers: Answers, points: Sequence[Sequence[Question]]) -> Float[Tensor, "S P N"]:
    """The sum of the answers of each point."""
    shape = next(iter(answers.values())).shape
    sums = [torch.stack([answers[question] for question in point]).sum(0) for point in points]
    return torch.stack(sums, 1) if sums else torch.zeros(shape[0], 0, shape[1], dtype=torch.float64)
