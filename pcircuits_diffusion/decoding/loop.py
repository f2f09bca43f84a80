"""The one decoding loop: backbone, distribution over the block, commit, repeat."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.constraints import ConstrainedPosterior, ConstrainedText
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.decoding.canvas import Canvas
from pcircuits_diffusion.decoding.proposals import SAMPLERS, Commit, Distribution, View
from pcircuits_diffusion.decoding.quota import linear
from pcircuits_diffusion.decoding.randomness import Randomness
from pcircuits_diffusion.decoding.region import Region
from pcircuits_diffusion.decoding.settings import Settings
from pcircuits_diffusion.head import CoupledHead


class Step(NamedTuple):
    """What is decided after one step.

    `tokens` (B, N): the new tokens, the backbone's mask id where undecided. `committed` (B, N): decided in this step.
    `index`: number of the step, from 0.
    """

    tokens: Int[Tensor, "B N"]
    committed: Bool[Tensor, "B N"]
    index: int  # type: ignore[assignment]


class Models(NamedTuple):
    """A backbone, and the head on it; None: the backbone alone, each token drawn independently."""

    backbone: Backbone
    head: CoupledHead | None

    def distribution(self, view: View, coupled: bool) -> Distribution:
        if coupled and self.head is not None:
            return self.head(view.log_marginals, None, view.tokens, view.mask)
        return Independent(view.log_marginals.masked_fill(~view.mask.unsqueeze(-1), 0.0), view.tokens, view.mask)

    def coupled_rows(self, mask: Bool[Tensor, "R L"]) -> Bool[Tensor, " R"]:
        if self.head is None:
            return torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        return self.head.active(mask)


Constrain = Callable[[Distribution, Int[Tensor, " R"]], Distribution]


@torch.no_grad()
def decode(
    models: Models,
    canvas: Canvas,
    regions: Sequence[Region],
    settings: Settings,
    randomness: Randomness,
    constraint: ConstrainedText | None = None,
) -> Iterator[Step]:
    """Decides the canvas's new columns region by region; a row is left out of every call once nothing of it is open."""
    index = 0
    for region in regions:
        constrain = None if constraint is None else _constrain(constraint, canvas, region)
        for steps_left in range(region.steps, 0, -1):
            allowed = canvas.open(region)
            rows = allowed.any(-1).nonzero().squeeze(-1)
            if len(rows) == 0:
                break
            view = _look(models.backbone, canvas, region, rows, allowed[rows], steps_left)
            committed = canvas.commit(region, rows, *propose(models, view, rows, settings, randomness, constrain))
            if settings.after_eos == "observe":
                canvas.close_ended()
            yield Step(canvas.generated(), committed, index)
            index += 1


def _look(
    backbone: Backbone,
    canvas: Canvas,
    region: Region,
    rows: Int[Tensor, " R"],
    allowed: Bool[Tensor, "R L"],
    steps_left: int,
) -> View:
    """The region of some rows, with what the backbone predicts there."""
    valid = canvas.valid[rows, region.seen]
    tokens = canvas.tokens[rows, region.seen]
    log_marginals = backbone.log_marginals(tokens, valid=None if valid.all() else valid, span=region.span)
    mask = canvas.mask[rows, region.decoded]
    require_marginals(log_marginals, mask, backbone.vocab_size)
    counts = linear(allowed.sum(-1), steps_left)
    return View(tokens[:, region.span], mask, allowed, counts, log_marginals)


def _constrain(constraint: ConstrainedText, canvas: Canvas, region: Region) -> Constrain:
    """Conditions the distribution of the region on the constraint and on what the rows have decided."""
    new, block = slice(canvas.context, None), slice(region.first - canvas.context, region.stop - canvas.context)

    def constrain(distribution: Distribution, rows: Int[Tensor, " R"]) -> Distribution:
        assert not isinstance(distribution, ConstrainedPosterior)
        return constraint.condition(distribution, rows, canvas.tokens[rows, new], canvas.mask[rows, new], block)

    return constrain


def propose(
    models: Models,
    view: View,
    rows: Int[Tensor, " R"],
    settings: Settings,
    randomness: Randomness,
    constrain: Constrain | None = None,
) -> Commit:
    """Tokens and positions of every row; whether the head is used is each row's own matter."""
    coupled = models.coupled_rows(view.mask)
    result = Commit(view.tokens.clone(), torch.zeros_like(view.mask))
    for index, generator in randomness.groups(rows, coupled):
        part = view.rows(index)
        distribution = models.distribution(part, bool(coupled[index[0]]))
        if constrain is not None:
            distribution = constrain(distribution, rows[index])
        tokens, positions = SAMPLERS[settings.sampling](distribution, part, settings.rule, generator)
        result.tokens[index], result.positions[index] = tokens, positions
    return result


def require_marginals(log_marginals: Float[Tensor, "..."], mask: Bool[Tensor, "B L"], vocab_size: int) -> None:
    """Raises unless a backbone returned a usable prediction for every masked position."""
    expected = (*mask.shape, vocab_size)
    if log_marginals.shape != expected:
        raise pc.ShapeError(f"the backbone returned {tuple(log_marginals.shape)}, expected (B, L, V) = {expected}")
    used = log_marginals.masked_fill(~mask.unsqueeze(-1), 0.0)
    if (bad := (used.isnan() | used.isposinf()).any(-1) | used.isneginf().all(-1)).any():
        rows = bad.any(1).nonzero().flatten()[:8].tolist()
        raise pc.EvidenceError(f"the backbone's predictions are NaN, +inf or all -inf in batch rows {rows}")
