"""Which decided positions are masked again: the slot of ReMDM and of LLaDA 2.1's edits.

One function a reviser.

Axes: B rows, L positions of the region.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.decoding.view import View


class Revision(NamedTuple):
    """What a reviser sees, asked in every step but a row's last one.

    `view`: as before the step, with the backbone's predictions. `decided`: positions that were decided in earlier steps
    of this region (given tokens never are). `confidence`: probability that the backbone gave their tokens when these
    were committed. `step`: from 0. `steps`: of each row's region, None without a limit.
    """

    view: View
    decided: Bool[Tensor, "B L"]
    confidence: Float[Tensor, "B L"]
    step: int
    steps: Int[Tensor, " B"] | None

    def rows(self, index: Int[Tensor, " R"]) -> "Revision":
        view, steps = self.view.rows(index), None if self.steps is None else self.steps[index]
        width = view.mask.shape[1]
        return Revision(view, self.decided[index, -width:], self.confidence[index, -width:], self.step, steps)


Reviser = Callable[[Revision, torch.Generator | None], Tensor]


def none(revision: Revision, generator: torch.Generator | None) -> Bool[Tensor, "B L"]:
    """What is decided stays so."""
    return torch.zeros_like(revision.decided)


REVISERS: dict[str, Reviser] = {"none": none}
