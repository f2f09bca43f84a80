"""The one decoding loop: quota, backbone, distribution over the region, commit, revise, repeat."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch

from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.constraints import ConstrainedText
from pcircuits_diffusion.coupling import CoupledPosterior, Independent
from pcircuits_diffusion.decoding.canvas import Canvas
from pcircuits_diffusion.decoding.drift import Drift
from pcircuits_diffusion.decoding.predictions import adjust, require_marginals, truncate
from pcircuits_diffusion.decoding.proposals import SAMPLERS
from pcircuits_diffusion.decoding.quota import SCHEDULES, least
from pcircuits_diffusion.decoding.randomness import Randomness
from pcircuits_diffusion.decoding.reading import Reader
from pcircuits_diffusion.decoding.region import Region
from pcircuits_diffusion.decoding.reviser import REVISERS, Revision
from pcircuits_diffusion.decoding.settings import Settings
from pcircuits_diffusion.decoding.view import Commit, Rule, View
from pcircuits_diffusion.decoding.windows import Distribution, Windowed, minimum_cover
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.mixture import HeadMixture


class Step(NamedTuple):
    """What is decided after one call of the backbone; all that a progress bar, a stream or a hook needs.

    `tokens` (B, N): the new tokens, the backbone's mask id where undecided (where gaps are filled: the whole text,
    right-aligned). `committed` (B, N): decided in this step. `index`: number of the step, from 0. `confidence` (B, N):
    probability that the backbone gave each decided token when it was committed. `remasked` (B, N): decisions that the
    reviser took back in this step.
    """

    tokens: Int[Tensor, "B N"]
    committed: Bool[Tensor, "B N"]
    index: int  # type: ignore[assignment]
    confidence: Float[Tensor, "B N"]
    remasked: Bool[Tensor, "B N"]


class Models(NamedTuple):
    """A backbone, and the head on it; None: the backbone alone, each token drawn independently.

    `windows`: the head looks through windows even where a region is no longer than the head. Where texts are of unequal
    length, what is done with one must not depend on the others.
    """

    backbone: Backbone
    head: CoupledHead | HeadMixture | None
    windows: bool = False

    def distribution(self, view: View, coupled: bool) -> Distribution:
        """Over the region; where that is longer than the head, windows over the open positions (`windows.py`)."""
        alone = Independent(view.log_targets.masked_fill(~view.mask.unsqueeze(-1), 0.0), view.tokens, view.mask)
        if not coupled or self.head is None:
            return alone
        if not self.windowed(view.mask):
            return self.head(view.log_targets, view.hidden, view.tokens, view.mask)
        windows = minimum_cover(view.open, self.head.block_length)
        windows = windows.keep(self.head.active(windows.of(view.mask)))
        if len(windows.rows) == 0:
            return alone
        hidden = None if view.hidden is None else windows.of(view.hidden)
        inner = self.head(windows.of(view.log_targets), hidden, windows.of(view.tokens), windows.of(view.mask))
        return Windowed(inner, alone, windows)

    def windowed(self, mask: Bool[Tensor, "R L"]) -> bool:
        return self.head is not None and (self.windows or mask.shape[1] > self.head.block_length)

    @property
    def needs_hidden(self) -> bool:
        return self.head is not None and self.head.needs_hidden

    def coupled_rows(self, mask: Bool[Tensor, "R L"]) -> Bool[Tensor, " R"]:
        """Rows that ask the head; where there are windows, each of them is active or not for itself."""
        if self.head is None or self.windowed(mask):
            return torch.full((len(mask),), self.head is not None, device=mask.device)
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
    """Decides the wanted columns region by region; a row is left out of the calls while it commits nothing."""
    index = 0
    for region in regions:
        if not (allowed := canvas.open(region)).any():
            continue
        reader = Reader(
            models.backbone, canvas, region, _rows(allowed), models.needs_hidden, settings.cache == "prefix"
        )
        constrain = None if constraint is None else _constrain(constraint, canvas, region)
        drift = Drift(len(canvas.tokens), settings.history) if settings.quota == "klass" else None
        canvas.renew_noise(reader.all_rows, randomness)
        steps = region.steps
        if steps is None and settings.quota in SCHEDULES:
            steps = allowed.sum(-1)
        for step in count():
            allowed = canvas.open(region)
            rows = _rows(allowed)
            if len(rows) == 0:
                break
            left = None if steps is None else steps[rows]
            counts = quotas(settings.quota, allowed[rows].sum(-1), step, left, rows, randomness)
            if not (busy := counts > 0).any():
                continue
            rows, counts, left = rows[busy], counts[busy], None if left is None else left[busy]
            view = look(reader, canvas, region, rows, allowed[rows], counts, settings)
            if drift is not None:
                view = view._replace(drift=drift.update(rows, view.log_marginals))
            tokens, positions = propose(models, view, rows, settings.rule, randomness, constrain)
            revision = Revision(view, canvas.decided(region)[rows], canvas.confidence[rows, region.decoded], step, left)
            taken_back = revise(settings.reviser, revision, rows, randomness)
            committed = canvas.commit(region, rows, tokens, positions, view.probability(tokens, positions))
            remasked = canvas.remask(region, rows, taken_back)
            canvas.renew_noise(rows, randomness)
            if settings.after_eos == "observe":
                canvas.close_ended()
            yield Step(canvas.generated(), committed, index, canvas.shown(canvas.confidence).clone(), remasked)
            index += 1


def _rows(allowed: Bool[Tensor, "B L"]) -> Int[Tensor, " R"]:
    return allowed.any(-1).nonzero().squeeze(-1)


def quotas(
    quota: str,
    undecided: Int[Tensor, " R"],
    step: int,
    steps: Int[Tensor, " R"] | None,
    rows: Int[Tensor, " R"],
    randomness: Randomness,
) -> Int[Tensor, " R"]:
    """How many positions each row commits at least, drawn with its own generator where the quota is random."""
    counts = undecided.clone()
    for index, generator in randomness.groups(rows, torch.zeros_like(rows, dtype=torch.bool)):
        counts[index] = least(quota, undecided[index], step, None if steps is None else steps[index], generator)
    return counts


def look(
    reader: Reader,
    canvas: Canvas,
    region: Region,
    rows: Int[Tensor, " R"],
    allowed: Bool[Tensor, "R L"],
    counts: Int[Tensor, " R"],
    settings: Settings,
) -> View:
    """The region of some rows, with what the backbone predicts there."""
    mask, vocab_size = canvas.hidden(region)[rows], reader.backbone.vocab_size
    predicted = reader.predict(rows)
    require_marginals(predicted.log_marginals, mask, vocab_size)
    adjusted = adjust(
        predicted.log_marginals,
        suppressed=settings.suppress_tokens,
        penalised=settings.eos_id,
        penalty=settings.eos_penalty,
    )
    require_marginals(adjusted, mask, vocab_size, "the predictions without `suppress_tokens`")
    targets = truncate(adjusted, temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k)
    tokens, valid = canvas.tokens[rows, region.decoded], canvas.valid[rows, region.decoded]
    return View(tokens, mask, allowed, counts, adjusted, targets, valid, predicted.hidden)


def _constrain(constraint: ConstrainedText, canvas: Canvas, region: Region) -> Constrain:
    """Conditions the distribution of the region on the constraint and on what the rows have decided."""
    new = slice(canvas.first, None)
    block = slice(region.decoded.start - canvas.first, region.decoded.stop - canvas.first)

    def constrain(distribution: Distribution, rows: Int[Tensor, " R"]) -> Distribution:
        assert isinstance(distribution, CoupledPosterior | Independent)
        return constraint.condition(distribution, rows, canvas.tokens[rows, new], canvas.mask[rows, new], block)

    return constrain


def propose(
    models: Models,
    view: View,
    rows: Int[Tensor, " R"],
    rule: Rule,
    randomness: Randomness,
    constrain: Constrain | None = None,
) -> Commit:
    """Tokens and positions of every row; whether the head is used is each row's own matter.

    Where windows are needed, positions are chosen as the backbone alone would, if the rule can do without the head, and
    windows cover those; else they cover all open positions.
    """
    coupled, sampler = models.coupled_rows(view.mask), SAMPLERS[rule.sampling]
    result = Commit(view.tokens.clone(), torch.zeros_like(view.mask))
    for index, generator in randomness.groups(rows, coupled):
        part, part_rule, use_head = view.rows(index), rule, bool(coupled[index[0]])
        if use_head and models.windowed(part.mask) and not rule.needs_joint:
            chosen = sampler(models.distribution(part, False), part, rule, generator).positions
            part, part_rule = part._replace(open=chosen, counts=chosen.sum(-1)), rule._replace(quota="linear")
        distribution = models.distribution(part, use_head)
        if constrain is not None:
            distribution = constrain(distribution, rows[index])
        tokens, positions = sampler(distribution, part, part_rule, generator)
        result.tokens[index, -tokens.shape[1] :], result.positions[index, -tokens.shape[1] :] = tokens, positions
    return result


def revise(reviser: str, revision: Revision, rows: Int[Tensor, " R"], randomness: Randomness) -> Bool[Tensor, "R L"]:
    """Decided positions to mask again; none in a row's last step."""
    taken_back = torch.zeros_like(revision.decided)
    for index, generator in randomness.groups(rows, torch.zeros_like(rows, dtype=torch.bool)):
        found = REVISERS[reviser](revision.rows(index), generator)
        taken_back[index, -found.shape[1] :] = found
    if revision.steps is not None:
        taken_back &= (revision.steps - revision.step > 1).unsqueeze(-1)
    return taken_back & revision.decided
