"""Rows of a batch do not see each other under any rule; revisers, prefix caches and backbones without a mask token."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.decoding import ADAPTIVE, REVISERS, SAMPLERS, SCHEDULES, SCORES, Revision
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import LENGTH, MASK, VOCAB, hmm, transformer, uniform_prior

WORDS = 5
MIXED = [[1, 2, 3, 4, 1, 2], [3], [4, 2]]
SEEDS = [3, 1, 4]
OPTIONS: dict[str, dict[str, Any]] = {
    "blocks, random": {"remasking": "random"},
    "canvas, by entropy drawn": {"region": "canvas", "remasking": "entropy", "order_temperature": 0.3},
    "coupled and cut": {"confidence_from": "coupled", "tempered_confidence": True, "top_p": 0.9, "temperature": 0.7},
    "short blocks ahead": {"block_length": 2, "see_ahead": True, "remasking": "margin", "after_eos": "observe"},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> CoupledDiffusion:
    head = CoupledHead(hmm(3, WORDS), coupling="product", gamma=0.8)
    return CoupledDiffusion(transformer(vocab=WORDS, max_length=16), head)


@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize(("place", "quota"), list(enumerate([*SCHEDULES, *ADAPTIVE])))
def test_a_row_alone_equals_that_row_in_the_batch(
    model: CoupledDiffusion, sampling: str, place: int, quota: str
) -> None:
    """Every quota with every sampler, each under two of the four sets of other options."""
    for options in [*OPTIONS, *OPTIONS][place % 4 : place % 4 + 2]:
        common = {"max_new_tokens": 6, "steps": 4, "quota": quota, "sampling": sampling, "eos_id": 0}
        common |= OPTIONS[options]
        together = model.generate(MIXED, seeds=SEEDS, **common).rows
        assert model.generate([MIXED[1]], seeds=[SEEDS[1]], **common).rows[0].equal(together[1]), options


@pytest.mark.parametrize("remasking", SCORES)
def test_seeds_and_generators_reproduce(model: CoupledDiffusion, remasking: str) -> None:
    common = {"max_new_tokens": 6, "steps": 3, "quota": "binomial", "remasking": remasking, "region": "canvas"}

    def draw(**source: Any) -> list[list[Any]]:
        return [[step.tokens.tolist(), step.committed.tolist()] for step in model.steps(MIXED, **source, **common)]

    assert draw(seeds=SEEDS) == draw(seeds=SEEDS) != draw(seeds=[7, 8, 9])
    assert draw(generator=generator(1)) == draw(generator=generator(1)) != draw(generator=generator(2))


def test_steps_carry_what_a_hook_needs(model: CoupledDiffusion) -> None:
    """Confidence is the backbone's probability of each token in the state in which it was committed."""
    before, steps = torch.full((1, 4), WORDS), list(model.steps([[1, 2]], max_new_tokens=4, steps=3, seeds=[0]))
    assert [step.index for step in steps] == [0, 1, 2]
    for step in steps:
        predicted = model.backbone.log_marginals(torch.cat([torch.tensor([[1, 2]]), before], 1))[:, 2:].exp()
        given = predicted.gather(-1, step.tokens.clamp(max=WORDS - 1).unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(step.confidence[step.committed], given[step.committed], atol=1e-6)
        assert not step.remasked.any()
        before = step.tokens
    assert (steps[-1].confidence > 0).all()
    assert torch.allclose(steps[0].confidence[steps[0].committed], steps[-1].confidence[steps[0].committed])


# --- revisers ---


@pytest.fixture
def second_thoughts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Revision]]:
    """A reviser that takes back the least confident decision in every step but a row's last."""
    asked: list[Revision] = []

    def reviser(revision: Revision, generator: torch.Generator | None) -> torch.Tensor:
        asked.append(revision)
        worst = revision.confidence.masked_fill(~revision.decided, torch.inf).argmin(-1)
        return torch.nn.functional.one_hot(worst, revision.decided.shape[1]).bool()

    monkeypatch.setitem(REVISERS, "least_confident", reviser)
    yield asked


def test_a_reviser_fits_without_touching_the_loop(model: CoupledDiffusion, second_thoughts: list[Revision]) -> None:
    options = {"max_new_tokens": 4, "steps": 4, "reviser": "least_confident", "seeds": [1, 2]}
    steps = list(model.steps([[1], [2, 3]], **options))
    assert [step.remasked.sum(-1).tolist() for step in steps] == [[0, 0], [1, 1], [1, 1], [0, 0]]
    decided = torch.zeros(2, 4, dtype=torch.bool)
    for step in steps:
        assert not (step.remasked & ~decided).any(), "only what earlier steps decided"
        worst = torch.where(decided, step.confidence, torch.inf).argmin(-1, keepdim=True)
        assert (step.remasked.gather(1, worst).squeeze(1) == step.remasked.any(-1)).all()
        decided = (decided | step.committed) & ~step.remasked
        assert ((step.tokens == WORDS) == ~decided).all()
    assert decided.all(), "the last step decides what is left"
    assert [revision.step for revision in second_thoughts] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(revision.steps is not None and revision.steps.tolist() == [4] for revision in second_thoughts)


def test_a_reviser_needs_an_end(model: CoupledDiffusion, second_thoughts: list[Revision]) -> None:
    with pytest.raises(pc.ParameterError, match="'threshold' needs `steps`"):
        model.steps([1], max_new_tokens=4, quota="threshold", reviser="least_confident")


# --- prefix cache ---


class Cached:
    """A backbone that sums up what precedes the block, once with a cache and every time without; counts the columns."""

    vocab_size, mask_id = VOCAB, MASK

    def __init__(self) -> None:
        self.table = torch.randn(VOCAB + 1, VOCAB, generator=generator(3))
        self.read: list[tuple[int, int]] = []
        self.prefilled: list[tuple[int, int]] = []

    def summary(self, tokens: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        return (self.table[tokens] * real.unsqueeze(-1)).sum(1)

    def prefill(self, tokens: torch.Tensor, stop: int, *, valid: torch.Tensor | None = None) -> torch.Tensor:
        self.prefilled.append((len(tokens), stop))
        return self.summary(tokens[:, :stop], None if valid is None else valid[:, :stop])

    def log_marginals(
        self,
        tokens: torch.Tensor,
        *,
        valid: torch.Tensor | None = None,
        span: slice | None = None,
        cache: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert span is not None
        if cache is None:
            cache = self.summary(tokens[:, : span.start], None if valid is None else valid[:, : span.start])
        self.read.append((len(tokens), 0 if cache is None else span.start))
        block = tokens[:, span]
        return (self.table[block] + self.table[block.roll(1, -1)] + cache.unsqueeze(1)).log_softmax(-1)


@pytest.mark.parametrize("coupled", [True, False])
def test_a_prefix_cache_changes_nothing_but_the_work(coupled: bool) -> None:
    backbone = Cached()
    model = CoupledDiffusion(backbone, CoupledHead(hmm()) if coupled else None)
    options = {"max_new_tokens": 8, "steps": 6, "block_length": 4, "seeds": [1, 2, 3], "eos_id": 0}
    options["eos_penalty"] = 3.0
    prompts = [[1, 2, 1], [2], [1, 1]]
    plain = model.generate(prompts, **options)
    assert not backbone.prefilled
    cached = model.generate(prompts, cache="prefix", **options)
    assert cached.tokens.equal(plain.tokens) and cached.lengths.equal(plain.lengths)
    assert [stop for _, stop in backbone.prefilled] == [3, 7]
    alone = model.generate([prompts[1]], cache="prefix", **{**options, "seeds": [2]}).rows[0]
    assert alone.equal(cached.rows[1])


def test_a_cache_keeps_its_rows_while_others_end() -> None:
    """The first row ends at once; the cache is made once a block, for the rows that were open then."""
    backbone = Cached()
    backbone.table[1] = torch.tensor([50.0, 0.0, 0.0])
    backbone.table[2] = torch.tensor([-50.0, 0.0, 0.0])
    options = {"max_new_tokens": 8, "steps": 8, "block_length": 4, "eos_id": 0, "temperature": 0.0}
    found = CoupledDiffusion(backbone).generate([[1] * 9, [2] * 9], cache="prefix", **options)
    assert found.lengths.tolist() == [0, 8]
    assert backbone.prefilled == [(2, 9), (1, 13)]
    assert [rows for rows, _ in backbone.read] == [2] * 4 + [1] * 4


# --- backbones without a mask token ---


class Noisy(CallableBackbone):
    """Sees every undecided token as noise; remembers what it saw."""

    visible_noise = True

    def __init__(self, logits: torch.Tensor) -> None:
        self.seen: list[torch.Tensor] = []
        super().__init__(self.predict, len(logits[0]), len(logits[0]))
        self.table = logits

    def predict(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.append(tokens[:, -len(self.table) :].clone())
        return self.table.repeat(-(-tokens.shape[1] // len(self.table)), 1)[-tokens.shape[1] :].expand(
            len(tokens), -1, -1
        )


@pytest.mark.parametrize("coupled", [True, False])
def test_without_a_mask_token_every_position_is_free(coupled: bool) -> None:
    """Sure of two positions: these are kept in every step, the others are drawn anew as noise until the last step."""
    logits = torch.zeros(LENGTH, VOCAB)
    logits[[0, 2], 1] = 20.0
    backbone = Noisy(logits)
    model = CoupledDiffusion(backbone, CoupledHead(uniform_prior()) if coupled else None)
    options = {"quota": "threshold", "bound": 0.9, "steps": 12, "block_length": LENGTH}
    prompts = torch.zeros(50, 1, dtype=torch.long)
    steps = list(model.steps(prompts, max_new_tokens=LENGTH, generator=generator(), **options))
    assert len(steps) == 12 and (steps[-1].tokens < VOCAB).all()
    kept = torch.tensor([True, False, True, False])
    for step, later in zip(steps[:-1], backbone.seen[1:], strict=True):
        assert (step.tokens[:, kept] == 1).all() and (step.tokens[:, ~kept] == VOCAB).all()
        assert later[:, kept].eq(1).all() and later.ge(0).all() and later.lt(VOCAB).all()
    noise = torch.stack(backbone.seen)[:, :, ~kept]
    frequencies = torch.bincount(noise.flatten(), minlength=VOCAB) / noise.numel()
    assert torch.allclose(frequencies, torch.full((VOCAB,), 1 / VOCAB), atol=0.05)
    assert (noise[1:] != noise[:-1]).any()


def test_a_decision_may_change_where_every_position_is_free() -> None:
    """The backbone changes its mind after the first step; with a mask token the first decision would stand."""

    class Fickle(Noisy):
        def predict(self, tokens: torch.Tensor) -> torch.Tensor:
            found = super().predict(tokens)
            return found if len(self.seen) == 1 else found.flip(-1)

    logits = torch.zeros(LENGTH, VOCAB)
    logits[:, 0] = 20.0
    logits[1] = 0.0
    options = {"max_new_tokens": LENGTH, "block_length": LENGTH, "steps": 3, "quota": "threshold", "seeds": [1]}
    steps = list(CoupledDiffusion(Fickle(logits)).steps([0], **options))
    assert steps[0].tokens[0, [0, 2, 3]].tolist() == [0, 0, 0]
    assert steps[-1].tokens[0, [0, 2, 3]].tolist() == [2, 2, 2]


def test_rows_without_a_mask_token_do_not_see_each_other() -> None:
    backbone = Noisy(torch.randn(LENGTH, VOCAB, generator=generator()))
    model = CoupledDiffusion(backbone, CoupledHead(hmm()))
    options = {"max_new_tokens": 2 * LENGTH, "steps": 6, "eos_id": 0}
    prompts, seeds = [[1], [2], [1]], [1, 2, 3]
    together = model.generate(prompts, seeds=seeds, **options).rows
    for prompt, seed, row in zip(prompts, seeds, together, strict=True):
        assert model.generate([prompt], seeds=[seed], **options).rows[0].equal(row)
    with pytest.raises(pc.ParameterError, match="'factor' needs `steps`"):
        model.steps([1], max_new_tokens=4, quota="factor")


def test_the_noise_of_a_row_is_its_own_matter() -> None:
    """Texts of unequal length, so that rows are padded."""

    class Padded(Noisy):
        def log_marginals(self, tokens: Any, *, valid: Any = None, span: Any = None) -> torch.Tensor:
            own = torch.nn.functional.one_hot(tokens, VOCAB).float()
            return (0.5 * own + own.roll(1, 1))[:, span].log_softmax(-1)

    model = CoupledDiffusion(Padded(torch.zeros(LENGTH, VOCAB)), CoupledHead(hmm()))
    texts, gaps = [[0, 1, 2, 0, 1, 2], [1, 1, 0, 2]], [[False] + [True] * 5, [False, True, True, True]]
    together = model.infill(texts, gaps, steps=3, seeds=[1, 2])
    for text, gap, seed, row in zip(texts, gaps, [1, 2], together, strict=True):
        assert model.infill([text], [gap], steps=3, seeds=[seed])[0].equal(row)


def test_infill_without_a_mask_token_keeps_what_is_given() -> None:
    backbone = Noisy(torch.randn(LENGTH, VOCAB, generator=generator()))
    model = CoupledDiffusion(backbone, CoupledHead(hmm()))
    given, mask = torch.tensor([[2, 0, 1, 0, 2]]), torch.tensor([[False, True, False, True, False]])
    found = model.infill(given, mask, steps=3, generator=generator())
    assert isinstance(found, torch.Tensor) and found[~mask].equal(given[~mask])
    assert all(seen[0, [1, 3]].tolist() == [1, 2] for seen in backbone.seen)
