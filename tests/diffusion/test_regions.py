"""Regions: blocks of other lengths than the head's, the whole canvas under dynamic windows, and texts with gaps."""

from itertools import combinations
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

import pcircuits as pc
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.decoding import REGIONS, Models, Sizes, View
from pcircuits_diffusion.decoding.windows import Windowed, minimum_cover
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import LENGTH, MASK, VOCAB, all_blocks, hmm, table_backbone, transformer

START = torch.zeros(1, 1, dtype=torch.long)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- layouts ---


def wanted(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "x" for c in row] for row in rows])


def test_blocks_slide_with_the_context() -> None:
    regions = REGIONS["blocks"](wanted("....." + "x" * 12), 5, Sizes(4, 4, 7, False, 10))
    found = [(r.seen.start, r.decoded.start, r.decoded.stop, r.seen.stop, int(r.steps[0])) for r in regions]
    assert found == [(0, 5, 9, 9, 3), (3, 9, 13, 13, 2), (7, 13, 17, 17, 2)]
    assert regions[1].span == slice(6, 10)


def test_blocks_shorter_than_the_head_share_its_window() -> None:
    regions = REGIONS["blocks"](wanted(".." + "x" * 8), 2, Sizes(2, 4, None, False, None))
    assert [(r.decoded, r.chosen) for r in regions] == [
        (slice(2, 6), slice(2, 4)),
        (slice(2, 6), slice(4, 6)),
        (slice(6, 10), slice(6, 8)),
        (slice(6, 10), slice(8, 10)),
    ]
    assert [r.seen.stop for r in regions] == [6, 6, 10, 10]
    ahead = REGIONS["blocks"](wanted(".." + "x" * 8), 2, Sizes(2, 4, None, True, None))
    assert [r.seen.stop for r in ahead] == [10] * 4


def test_steps_belong_to_the_blocks_that_a_row_needs() -> None:
    layout = REGIONS["blocks"](wanted("x..x....", "....x.xx", "........"), 0, Sizes(2, 0, 5, True, None, True))
    assert [r.chosen for r in layout] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    assert torch.stack([r.steps for r in layout]).T.tolist() == [[3, 2, 0, 0], [0, 0, 3, 2], [0, 0, 0, 0]]


# --- dynamic windows ---


@pytest.mark.parametrize("seed", range(8))
def test_the_cover_is_minimal(seed: int) -> None:
    """Against every choice of as many windows or fewer."""
    width, length = 9, 3
    rows = torch.rand(6, width, generator=generator(seed)) < 0.4
    windows = minimum_cover(rows, length)
    for row, columns in enumerate(rows):
        mine = windows.columns[windows.rows.squeeze(-1) == row]
        needed = set(columns.nonzero().flatten().tolist())
        assert needed <= set(mine.flatten().tolist())
        assert len(mine) == min(
            n
            for n in range(width)
            for starts in combinations(range(width - length + 1), n)
            if needed <= {s + i for s in starts for i in range(length)}
        )
    assert windows.put(torch.zeros_like(rows), torch.ones_like(windows.owned)).equal(rows)
    assert int(windows.owned.sum()) == int(rows.sum()), "each wanted column belongs to one window"


def windowed(seed: int = 0) -> tuple[Windowed, list[Any], torch.Tensor, torch.Tensor]:
    """Six columns, one decided, under windows of three that cover the columns wanted; and the windows one by one."""
    logs = torch.randn(1, 6, VOCAB, generator=generator(seed)).log_softmax(-1)
    mask = torch.tensor([[True, True, False, True, True, True]])
    tokens = torch.where(mask, MASK, 1)
    wanted = torch.tensor([[True, False, False, False, True, True]])
    head = CoupledHead(hmm(length=3), coupling="product")
    view = View(tokens, mask, wanted, wanted.sum(-1), logs, logs, torch.ones_like(mask))
    distribution = Models(table_backbone(), head).distribution(view, True)
    assert isinstance(distribution, Windowed)
    parts = [head(logs[:, at], None, tokens[:, at], mask[:, at]) for at in (slice(0, 3), slice(3, 6))]
    return distribution, parts, logs, mask


def enumerated() -> torch.Tensor:
    """(V^6,) what the law must be: the window of columns 0-2 for column 0, that of 3-5 for columns 4 and 5, the
    backbone for columns 1 and 3.
    """
    _, parts, logs, _ = windowed()
    first, second = (part.posterior.log_prob(all_blocks(3).unsqueeze(1)).squeeze(-1).exp() for part in parts)
    blocks = all_blocks(3)
    worlds = all_blocks(6)
    of_0 = torch.stack([first[blocks[:, 0] == v].sum() for v in range(VOCAB)])
    of_45 = torch.stack(
        [second[(blocks[:, 1] == v) & (blocks[:, 2] == w)].sum() for v in range(VOCAB) for w in range(VOCAB)]
    ).view(VOCAB, VOCAB)
    p = logs[0].exp().double()
    law = of_0[worlds[:, 0]] * p[1][worlds[:, 1]] * p[3][worlds[:, 3]] * of_45[worlds[:, 4], worlds[:, 5]]
    return (law * (worlds[:, 2] == 1)).detach()


def test_windows_are_exact_where_they_own_and_the_backbone_elsewhere() -> None:
    distribution, law, worlds = windowed()[0], enumerated(), all_blocks(6)
    assert law.sum() == pytest.approx(1, abs=1e-5)
    scores = torch.stack([distribution.log_prob(world.unsqueeze(0))[0] for world in worlds[::7]]).exp().double()
    assert torch.allclose(scores, law[::7], atol=1e-6)
    some = torch.tensor([[True, False, False, True, True, False]])
    one = worlds[500:501]
    same = ((worlds == one) | ~some).all(-1)
    assert distribution.log_prob(one, variables=some).exp().item() == pytest.approx(law[same].sum().item(), abs=1e-6)
    marginals = torch.stack([torch.stack([law[worlds[:, i] == v].sum() for v in range(VOCAB)]) for i in range(6)])
    assert torch.allclose(distribution.marginals()[0].double(), marginals, atol=1e-5)


def test_windows_draw_from_their_law() -> None:
    distribution, law, worlds = windowed()[0], enumerated(), all_blocks(6)
    drawn = distribution.sample(8_000, generator=generator())[:, 0]
    index = VOCAB ** torch.arange(5, -1, -1)
    counted = torch.bincount((drawn * index).sum(-1), minlength=len(worlds)).double()
    expected = law / law.sum() * len(drawn)
    keep = expected > 5
    assert counted[expected == 0].sum() == 0
    seen = torch.cat([counted[keep], counted[~keep].sum().view(1)])
    wanted = torch.cat([expected[keep], expected[~keep].sum().view(1)])
    assert chisquare(seen.numpy(), wanted.numpy()).pvalue > 1e-3


def test_windows_maximise_and_observe_as_their_parts_do() -> None:
    distribution, (first, second), logs, mask = windowed()
    best, alone = distribution.mpe(), logs.argmax(-1)[0]
    wanted = [first.mpe().values[0, 0], alone[1], 1, alone[3], *second.mpe().values[0, 1:]]
    assert best.values[0].tolist() == [int(v) for v in wanted] and best.exact.all()
    assert best.log_prob[0].item() == pytest.approx(distribution.log_prob(best.values)[0].item())
    tokens, left = torch.tensor([[0, 0, 1, 0, 2, 0]]), mask.clone()
    left[0, 4] = False
    given = distribution.observe(tokens, left).marginals()[0, 5].double()
    law, worlds = enumerated(), all_blocks(6)
    joint = torch.stack([law[(worlds[:, 4] == 2) & (worlds[:, 5] == v)].sum() for v in range(VOCAB)])
    assert torch.allclose(given, joint / joint.sum(), atol=1e-5)


def test_windows_below_gamma_only() -> None:
    head = CoupledHead(hmm(length=3), coupling="product", gamma=0.5)
    mask = torch.tensor([[True, True, True, True, False, False], [True, True, True, True, True, True]])
    logs = torch.zeros(2, 6, VOCAB).log_softmax(-1)
    view = View(torch.zeros(2, 6, dtype=torch.long), mask, mask, mask.sum(-1), logs, logs, torch.ones_like(mask))
    models = Models(table_backbone(), head)
    distribution = models.distribution(view, True)
    assert isinstance(distribution, Windowed) and distribution.windows.columns.tolist() == [[3, 4, 5]]
    assert isinstance(models.distribution(view.rows(torch.tensor([1])), True), Independent)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Records the masks of all blocks that the head is asked about."""
    seen: list[torch.Tensor] = []
    forward = CoupledHead.forward

    def recorded(head: CoupledHead, logits: Any, hidden: Any, tokens: Any, mask: torch.Tensor) -> Any:
        seen.append(mask)
        return forward(head, logits, hidden, tokens, mask)

    monkeypatch.setattr(CoupledHead, "forward", recorded)
    return seen


def test_windows_cover_what_a_step_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the backbone's confidence: as many windows as the positions need. By the coupled one: the whole canvas."""
    seen = spy(monkeypatch)
    sure = torch.zeros(12, VOCAB)
    sure[[2, 9], 1] = 9.0
    backbone = CallableBackbone(lambda t: sure[-t.shape[1] :].expand(len(t), -1, -1), VOCAB, MASK)
    model = CoupledDiffusion(backbone, CoupledHead(hmm()))
    options = {"max_new_tokens": 11, "region": "canvas", "steps": 5, "generator": generator()}
    step = next(model.steps(START, quota="threshold", bound=0.9, temperature=0.0, **options))
    assert step.committed[0].nonzero().flatten().tolist() == [1, 8] and [len(m) for m in seen] == [2]
    seen.clear()
    next(model.steps(START, quota="threshold", bound=0.9, confidence_from="coupled", **options))
    assert [len(m) for m in seen] == [3]


@pytest.mark.parametrize("sampling", ["latent", "any_order", "mpe"])
@pytest.mark.parametrize("quota", ["linear", "cosine", "threshold", "joint_confidence"])
@pytest.mark.parametrize("coupled", [True, False])
def test_the_canvas_is_decided_under_every_rule(sampling: str, quota: str, coupled: bool) -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)) if coupled else None)
    for new in (3, 10):
        steps = list(
            model.steps(
                [[1, 2]], max_new_tokens=new, region="canvas", quota=quota, steps=4, sampling=sampling,
                temperature=0.0 if sampling == "any_order" else 1.0, generator=generator(),
            )
        )  # fmt: skip
        assert len(steps) <= 4 and steps[-1].tokens.shape == (1, new) and (steps[-1].tokens < 7).all()
        assert torch.stack([step.committed for step in steps]).sum(0).eq(1).all()


def test_a_canvas_of_the_heads_length_is_a_block() -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)))
    options = {"max_new_tokens": 4, "steps": 3, "seeds": [4]}
    assert model.generate([1, 2], region="canvas", **options).tokens.equal(model.generate([1, 2], **options).tokens)


@pytest.mark.parametrize(("block_length", "sizes"), [(2, [2, 2, 2, 1]), (4, [4, 3]), (8, [7])])
def test_blocks_of_other_lengths_than_the_heads(block_length: int, sizes: list[int]) -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)))
    steps = list(
        model.steps([[1, 2], [3]], max_new_tokens=7, block_length=block_length, steps=len(sizes), generator=generator())
    )
    assert [step.committed.sum(-1).tolist() for step in steps] == [[n, n] for n in sizes]
    ends = [int(step.committed[0].nonzero().max()) for step in steps]
    assert ends == sorted(ends), "left to right"


def test_a_short_block_is_drawn_from_the_heads_window() -> None:
    """Two positions of a block of four: their law under the head, the other two summed out."""
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    tokens = torch.full((1, LENGTH), MASK)
    posterior = head(backbone.log_marginals(tokens), None, tokens, tokens == MASK)
    law = posterior.posterior.log_prob(all_blocks().unsqueeze(1)).squeeze(-1).exp()
    pairs = law.view([VOCAB] * 4).sum((2, 3)).flatten().detach()
    drawn = CoupledDiffusion(backbone, head).generate(
        START.expand(6_000, 1), max_new_tokens=2, block_length=2, steps=1, generator=generator()
    )
    counted = torch.bincount(drawn.tokens[:, 0] * VOCAB + drawn.tokens[:, 1], minlength=VOCAB**2)
    assert chisquare(counted.numpy(), (pairs * 6_000).numpy()).pvalue > 1e-3


def test_looking_ahead_shows_the_masks_of_later_blocks() -> None:
    widths: list[int] = []

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        widths.append(tokens.shape[1])
        return torch.zeros(*tokens.shape, VOCAB)

    model = CoupledDiffusion(CallableBackbone(logits, VOCAB, MASK), CoupledHead(hmm()))
    model.generate([1], max_new_tokens=8, steps=2)
    model.generate([1], max_new_tokens=8, steps=2, see_ahead=True)
    assert widths == [5, 9, 9, 9]


def test_a_canvas_beyond_the_context_is_refused() -> None:
    model = CoupledDiffusion(transformer(max_length=12), CoupledHead(hmm(3, 7)))
    for options in ({"region": "canvas"}, {"see_ahead": True}, {"block_length": 16}):
        with pytest.raises(pc.ParameterError, match="the backbone takes 12 tokens, fewer than one block of 16"):
            model.steps([1], max_new_tokens=16, steps=16, **options)
    assert model.generate([1], max_new_tokens=16, steps=16, generator=generator()).tokens.shape == (1, 16)


# --- gaps ---


TEXTS = [[1, 7, 3, 7, 7, 6], [7, 2], [5, 4, 3, 2, 1, 6, 5, 7, 3, 7], [7, 2, 3, 4]]


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("options", [{}, {"region": "blocks", "block_length": 2}, {"sampling": "any_order"}])
def test_infill_leaves_what_is_given_alone(coupled: bool, options: dict[str, Any]) -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)) if coupled else None)
    filled = model.infill(TEXTS, generator=generator(), eos_id=6, **options)
    assert isinstance(filled, list)
    for given, found in zip(TEXTS, filled, strict=True):
        assert found.shape == (len(given),) and (found < 7).all()
        assert all(g in (7, f) for g, f in zip(given, found.tolist(), strict=True))


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0, "remasking": "margin"},
        {"remasking": "random", "quota": "binomial"},
        {"region": "blocks", "block_length": 4, "order_temperature": 0.5},
        {"confidence_from": "coupled", "quota": "joint_confidence", "bound": 0.2},
    ],
)
def test_a_text_alone_equals_that_text_in_the_batch(coupled: bool, options: dict[str, Any]) -> None:
    """Under flat predictions, so that whatever is drawn shows."""
    backbone, texts = transformer(), [[1, 7, 3, 7, 7, 6], [7, 7], [5, 7, 3, 7, 1, 6, 7, 7, 7, 7], [7, 7, 7, 4]]
    with torch.no_grad():
        backbone.embedding.weight.mul_(0.2)
    model = CoupledDiffusion(backbone, CoupledHead(hmm(3, 7)) if coupled else None)
    together = model.infill(texts, seeds=[1, 2, 3, 4], steps=3, **options)
    for text, seed, row in zip(texts, [1, 2, 3, 4], together, strict=True):
        assert model.infill([text], seeds=[seed], steps=3, **options)[0].equal(row)


def test_infill_returns_the_shape_it_was_given() -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)))
    options = {"temperature": 0.0, "steps": 2}
    row = torch.tensor([1, 7, 3, 7, 5])
    found = model.infill(row, **options)
    assert isinstance(found, torch.Tensor) and found.shape == (5,) and row.tolist() == [1, 7, 3, 7, 5]
    assert model.infill(row.tolist(), **options).tolist() == found.tolist()
    assert model.infill(torch.tensor([1, 0, 3, 0, 5]), mask=row == 7, **options).equal(found)
    assert model.infill([[1, 0, 3, 0, 5]], mask=[[False, True, False, True, False]], **options)[0].equal(found)
    for padded in (torch.tensor([[9, 9, 1, 7, 3, 7, 5]]), torch.tensor([[1, 7, 3, 7, 5, 9, 9]])):
        again = model.infill(padded, mask=padded == 7, valid=padded != 9, **options)
        assert again.shape == (1, 7) and again[padded != 9].equal(found) and (again[padded == 9] == 9).all()


def test_infill_draws_from_the_posterior_of_the_gaps() -> None:
    """One step over a text of the head's length: the law given what is known on both sides."""
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    tokens = torch.tensor([[MASK, 2, MASK, 0]])
    law = head(backbone.log_marginals(tokens), None, tokens, tokens == MASK).log_prob(all_blocks().unsqueeze(1))
    law = law.squeeze(-1).exp().detach().view([VOCAB] * 4)[:, 2, :, 0].flatten()
    drawn = CoupledDiffusion(backbone, head).infill(tokens.expand(6_000, -1), steps=1, generator=generator())
    counted = torch.bincount(drawn[:, 0] * VOCAB + drawn[:, 2], minlength=VOCAB**2)
    assert chisquare(counted.numpy(), (law * 6_000).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("tokens", "mask", "error", "message"),
    [
        (torch.tensor([1, 2, 3]), None, pc.DataError, r"nothing to fill.*mask id is 7"),
        ([[1, 7], [7, 7]], [[True, False]], pc.ShapeError, "one row for each of 2 texts, got 1"),
        ([[1, 7]], [[True]], pc.ShapeError, r"`mask` of row 0 must be bool of shape \(2,\)"),
        (torch.tensor([[1, 7]]), torch.tensor([[0, 1]]), pc.ShapeError, "must be bool"),
        ([[1, 7, 7]], [[False, True, False]], pc.DataError, r"rows \[0\].*mask \(7\)"),
        ([[8, 7]], None, pc.DataError, "outside 0..6"),
    ],
)
def test_bad_gaps_are_refused(tokens: Any, mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CoupledDiffusion(transformer()).infill_steps(tokens, mask, steps=1)
