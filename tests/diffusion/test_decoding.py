"""The decoding loop: what each rule commits, what each sampler draws, and that rows do not see each other."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

import pcircuits as pc
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.coupling import Independent
from pcircuits_diffusion.decoding import SAMPLERS, Models, Prompts, Randomness, Rule, Settings, View
from pcircuits_diffusion.decoding.loop import propose
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import (
    LENGTH,
    MASK,
    VOCAB,
    all_blocks,
    block_law,
    hmm,
    table_backbone,
    transformer,
    uniform_prior,
)

START = torch.zeros(1, 1, dtype=torch.long)
SAMPLES = 5_000
COUPLINGS = ("projected", "corrected", "product")
EXACT = ("latent", "any_order")  # samplers that draw from the joint law at temperature 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def p_values(samples: torch.Tensor, law: torch.Tensor) -> dict[str, float]:
    """Chi-square tests of the joint law of all positions, of every position and of every pair of positions."""
    worlds = all_blocks(samples.shape[1])

    def test(columns: list[int]) -> float:
        weights = VOCAB ** torch.arange(len(columns))
        size = VOCAB ** len(columns)
        counted = torch.bincount((samples[:, columns] * weights).sum(-1), minlength=size)
        expected = torch.zeros(size, dtype=torch.float64).index_add(0, (worlds[:, columns] * weights).sum(-1), law)
        expected = expected / expected.sum() * len(samples)
        keep = expected > 5
        seen = torch.cat([counted[keep], counted[~keep].sum().view(1)]).double()
        wanted = torch.cat([expected[keep], expected[~keep].sum().view(1)])
        return float(chisquare(seen[wanted > 0].numpy(), wanted[wanted > 0].numpy()).pvalue)

    positions = range(samples.shape[1])
    singles = {f"x{i}": test([i]) for i in positions}
    pairs = {f"x{i},x{j}": test([i, j]) for i in positions for j in positions if i < j}
    return {"joint": test(list(positions)), **singles, **pairs}


# --- what is drawn ---


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "latent", "steps": 1},
        {"sampling": "any_order", "steps": 1},
        {"sampling": "any_order", "steps": 1, "remasking": "entropy", "confidence_from": "coupled"},
    ],
    ids=["latent", "any_order", "any_order by coupled entropy"],
)
def test_one_step_samples_are_exact(coupling: str, options: dict[str, Any]) -> None:
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling=coupling)
    law = block_law(head, backbone)
    assert law.sum() == pytest.approx(1)
    prompts = START.expand(SAMPLES, 1)
    drawn = CoupledDiffusion(backbone, head).generate(prompts, max_new_tokens=LENGTH, generator=generator(), **options)
    found = p_values(drawn.tokens, law)
    assert min(found.values()) > 1e-3, found


@pytest.mark.parametrize("sampling", EXACT)
@pytest.mark.parametrize("steps", [2, 3])
def test_positions_not_committed_keep_their_soft_evidence(sampling: str, steps: int) -> None:
    """With weights that do not depend on what is decided, steps in random order leave the law as it is."""
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    drawn = CoupledDiffusion(backbone, head).generate(
        START.expand(SAMPLES, 1),
        max_new_tokens=LENGTH,
        steps=steps,
        remasking="random",
        sampling=sampling,
        generator=generator(1),
    )
    found = p_values(drawn.tokens, block_law(head, backbone))
    assert min(found.values()) > 1e-3, found


def test_the_chi_square_test_rejects_wrong_samplers() -> None:
    """Independent draws from the exact marginals; the prior without soft evidence; the backbone alone."""
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    law, tokens = block_law(head, backbone), torch.full((1, LENGTH), MASK)
    posterior = head(backbone.log_marginals(tokens), None, tokens, tokens == MASK)
    independent = Independent(posterior.marginals().log(), tokens, tokens == MASK)
    found = p_values(independent.sample(SAMPLES, generator=generator())[:, 0], law)
    assert min(p for name, p in found.items() if "," not in name and name != "joint") > 1e-3, "marginals are right"
    assert found["joint"] < 1e-9 and min(p for name, p in found.items() if "," in name) < 1e-9, "pairs are not"
    assert p_values(head.prior.sample(SAMPLES, generator=generator()), law)["joint"] < 1e-9
    alone = CoupledDiffusion(backbone).generate(
        START.expand(SAMPLES, 1), max_new_tokens=LENGTH, block_length=LENGTH, steps=1, generator=generator()
    )
    assert p_values(alone.tokens, law)["joint"] < 1e-9


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("sampling", EXACT)
def test_a_uniform_circuit_reproduces_the_backbone(coupling: str, sampling: str) -> None:
    backbone, head = table_backbone(), CoupledHead(uniform_prior(), coupling=coupling)
    columns = backbone.log_marginals(torch.full((1, LENGTH), MASK))[0].double()
    law = columns.gather(1, all_blocks().T).sum(0).exp()
    drawn = CoupledDiffusion(backbone, head).generate(
        START.expand(SAMPLES, 1),
        max_new_tokens=LENGTH,
        steps=2,
        sampling=sampling,
        remasking="entropy",
        generator=generator(),
    )
    assert min(p_values(drawn.tokens, law).values()) > 1e-3
    greedy = {"max_new_tokens": 8, "steps": 4, "block_length": LENGTH, "temperature": 0.0, "sampling": sampling}
    assert (
        CoupledDiffusion(backbone, head)
        .generate(START, **greedy)
        .tokens.equal(CoupledDiffusion(backbone).generate(START, **greedy).tokens)
    )


@pytest.mark.parametrize("sampling", EXACT)
def test_temperature_sharpens(sampling: str) -> None:
    backbone, head = table_backbone(), CoupledHead(hmm())
    model, entropies = CoupledDiffusion(backbone, head), []
    for temperature in (0.05, 0.5, 1.0):
        drawn = model.generate(
            START.expand(1_000, 1), max_new_tokens=LENGTH, steps=1, sampling=sampling, temperature=temperature,
            generator=generator(),
        )  # fmt: skip
        _, counts = drawn.tokens.unique(dim=0, return_counts=True)
        entropies.append(torch.special.entr(counts / counts.sum()).sum().item())
    assert entropies[0] < entropies[1] < entropies[2]


def test_temperature_zero_is_the_most_probable_block() -> None:
    backbone, head = table_backbone(), CoupledHead(hmm())
    best_block = all_blocks()[block_law(head, backbone).argmax()]
    model = CoupledDiffusion(backbone, head)
    assert model.generate(START, max_new_tokens=LENGTH, steps=1, temperature=0.0).tokens[0].equal(best_block)


@pytest.mark.parametrize("remasking", ["low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("confidence_from", ["backbone", "coupled"])
@pytest.mark.parametrize("sampling", SAMPLERS)
def test_temperature_zero_is_deterministic(remasking: str, confidence_from: str, sampling: str) -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7), coupling="corrected"))
    options = {
        "max_new_tokens": 8, "steps": 4, "temperature": 0.0, "remasking": remasking,
        "confidence_from": confidence_from, "sampling": sampling,
    }  # fmt: skip
    state = torch.random.get_rng_state()
    first = model.generate([1, 2, 3], **options).tokens
    assert torch.random.get_rng_state().equal(state), "nothing was drawn"
    assert model.generate([1, 2, 3], **options).tokens.equal(first)


# --- which positions are committed ---


def backbone_view(probabilities: torch.Tensor, batch: int = 1) -> tuple[Independent, View]:
    """A fully masked region under the backbone alone, of probabilities (L, V); one position is to be committed."""
    logs = probabilities.log().expand(batch, -1, -1)
    open_ = torch.ones(logs.shape[:2], dtype=torch.bool)
    view = View(torch.full(logs.shape[:2], 3), open_, open_, torch.ones(batch, dtype=torch.long), logs, logs, open_)
    return Independent(logs, view.tokens, view.mask), view


def test_rules_disagree_as_they_should() -> None:
    probabilities = torch.tensor([[0.52, 0.47, 0.01], [0.48, 0.26, 0.26], [0.50, 0.29, 0.21]])
    chosen = {}
    for remasking in ("low_confidence", "margin", "entropy", "top_prob", "left_to_right"):
        rule = Rule(remasking=remasking, temperature=0.0)
        positions = SAMPLERS["latent"](*backbone_view(probabilities), rule, generator()).positions
        chosen[remasking] = positions[0].nonzero().item()
    assert chosen == {"low_confidence": 0, "margin": 1, "entropy": 0, "top_prob": 0, "left_to_right": 0}


@pytest.mark.parametrize("tempered", [False, True])
def test_low_confidence_scores_the_proposed_token(tempered: bool) -> None:
    """At a high temperature an unlikely token is drawn, and its own small probability counts, tempered if asked for."""
    probabilities = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25]])
    independent, view = backbone_view(probabilities, batch=4000)
    rule = Rule(temperature=9.0, tempered_confidence=tempered)
    tokens, positions = SAMPLERS["latent"](independent, view, rule, generator())
    seen = (probabilities ** (1 / 9.0)) if tempered else probabilities
    seen = seen / seen.sum(-1, keepdim=True)
    scores = seen.expand(4000, -1, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    assert positions.equal(torch.nn.functional.one_hot(scores.argmax(-1), 2).bool())
    assert 0.3 < positions[:, 1].float().mean() < 0.8


def test_coupled_confidence_uses_the_heads_marginals() -> None:
    """The backbone is undecided everywhere; the prior is sure of position 2 alone."""
    emission = torch.tensor([[0.4, 0.3, 0.3], [0.96, 0.02, 0.02]], dtype=torch.float64)
    chain = pc.HMM.from_probs(
        torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64),
        emission, length=2,
    )  # fmt: skip
    flat = CallableBackbone(lambda tokens: torch.zeros(*tokens.shape, VOCAB), VOCAB, MASK)
    model = CoupledDiffusion(flat, CoupledHead(chain, coupling="product"))
    for sampling in SAMPLERS:
        options = {"max_new_tokens": 2, "steps": 2, "temperature": 0.0, "sampling": sampling}
        coupled = next(model.steps(START, confidence_from="coupled", **options))
        alone = next(model.steps(START, confidence_from="backbone", **options))
        assert coupled.committed.tolist() == [[False, True]] and alone.committed.tolist() == [[True, False]]


def test_steps_show_the_text_as_it_forms() -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)))
    steps = list(model.steps([[1, 2], [3]], max_new_tokens=8, steps=6, generator=generator(), remasking="random"))
    assert [step.index for step in steps] == list(range(6))
    assert [step.committed.sum(-1).tolist() for step in steps] == [[2, 2], [1, 1], [1, 1]] * 2
    for before, after in pairwise(steps):
        kept = before.tokens != 7
        assert after.tokens[kept].equal(before.tokens[kept])
        assert after.committed.equal((after.tokens != 7) & ~kept)
    assert not (steps[2].tokens[:, 4:] != 7).any(), "blocks go left to right"


# --- rows ---


MIXED = [[1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5], [6], [2, 3], [5, 4, 3, 2, 1]]


@pytest.mark.parametrize("gamma", [None, 0.6])
@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0, "remasking": "random"}])
def test_a_row_alone_equals_that_row_in_the_batch(gamma: float | None, sampling: str, options: dict[str, Any]) -> None:
    head = CoupledHead(hmm(3, 7), coupling="product", gamma=gamma)
    model = CoupledDiffusion(transformer(), head)
    common = {"max_new_tokens": 7, "steps": 5, "sampling": sampling, "eos_id": 0, **options}
    together = model.generate(MIXED, seeds=[3, 1, 4, 1], **common).rows
    for prompt, seed, row in zip(MIXED, [3, 1, 4, 1], together, strict=True):
        assert model.generate([prompt], seeds=[seed], **common).rows[0].equal(row)


def test_padding_is_not_seen() -> None:
    """The backbone is told which columns are padding, and nothing where there is none."""
    seen: list[torch.Tensor | None] = []

    class Recorded:
        vocab_size, mask_id, inner = 7, 7, transformer()

        def log_marginals(self, tokens: torch.Tensor, *, valid: Any = None, span: Any = None) -> torch.Tensor:
            seen.append(valid)
            return self.inner.log_marginals(tokens, valid=valid, span=span)

    model = CoupledDiffusion(Recorded(), CoupledHead(hmm(3, 7)))
    model.generate([[1, 2, 3, 4], [6]], max_new_tokens=4, steps=1, temperature=0.0)
    assert seen[0] is not None and seen[0].sum(-1).tolist() == [8, 5] and not seen[0][1, :3].any()
    model.generate([[1], [6]], max_new_tokens=4, steps=1, temperature=0.0)
    assert seen[1] is None, "no padding, no mask: backbones that cannot take one still work"


def test_a_seed_stays_with_its_row() -> None:
    """Also when the row before it has ended and left the batch."""

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        ends = torch.tensor([30.0, 0.0, 0.0]).expand(*tokens.shape, -1)
        return torch.where((tokens[:, :1] == 1).unsqueeze(-1), ends, torch.tensor([-30.0, 0.0, 0.0]))

    model = CoupledDiffusion(CallableBackbone(logits, VOCAB, MASK), CoupledHead(uniform_prior()))
    options = {"max_new_tokens": 40, "steps": 20, "eos_id": 0}
    both = model.generate([[1], [2]], seeds=[1, 2], **options).rows
    assert len(both[0]) < 4
    assert both[1].equal(model.generate([[2]], seeds=[2], **options).rows[0])


def test_padding_side_does_not_matter() -> None:
    model = CoupledDiffusion(transformer(), CoupledHead(hmm(3, 7)))
    options = {"max_new_tokens": 4, "steps": 2, "temperature": 0.0}
    expected = model.generate([[1, 2, 3], [4]], **options).tokens
    left, right = torch.tensor([[1, 2, 3], [9, 9, 4]]), torch.tensor([[1, 2, 3], [4, 9, 9]])
    for padded in (left, right):
        assert model.generate(padded, valid=padded != 9, **options).tokens.equal(expected)


def test_gamma_is_each_rows_own_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row commits two tokens in the first step, the other none yet: the head is used for the first row only."""
    coupled: list[list[float]] = []
    forward = CoupledHead.forward

    def recorded(head: CoupledHead, logits: torch.Tensor, hidden: Any, tokens: torch.Tensor, mask: torch.Tensor) -> Any:
        coupled.append(mask.float().mean(-1).tolist())
        return forward(head, logits, hidden, tokens, mask)

    monkeypatch.setattr(CoupledHead, "forward", recorded)
    models = Models(table_backbone(), CoupledHead(hmm(), gamma=0.5))
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, False, False]])
    log_marginals = models.backbone.log_marginals(torch.full((3, LENGTH), MASK))
    view = View(
        torch.zeros_like(mask).long(), mask, mask, mask.sum(-1), log_marginals, log_marginals, torch.ones_like(mask)
    )
    rule = Rule(temperature=0.0)
    for randomness in (Randomness(3), Randomness(3, seeds=[1, 2, 3])):
        coupled.clear()
        tokens, positions = propose(models, view, torch.arange(3), rule, randomness)
        assert sorted(ratio for ratios in coupled for ratio in ratios) == [0.25, 0.5]
        assert positions.equal(mask)
        for row in range(3):
            part = view.rows(torch.tensor([row]))
            alone = propose(models, part, torch.tensor([0]), rule, Randomness(1))
            assert alone.tokens[0].equal(tokens[row])


def test_only_open_rows_reach_the_backbone() -> None:
    batches: list[int] = []

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        batches.append(len(tokens))
        wanted = tokens[:, 0].apply_(lambda t: {1: 0, 2: 2}[t])
        return 50.0 * torch.nn.functional.one_hot(wanted, VOCAB).unsqueeze(1).expand(-1, tokens.shape[1], -1)

    model = CoupledDiffusion(CallableBackbone(logits, VOCAB, MASK))
    found = model.generate(
        [[1], [2]], max_new_tokens=8, steps=4, block_length=4, eos_id=0, generator=generator(), temperature=0.0
    )
    assert batches == [2, 1, 1, 1]
    assert found.lengths.tolist() == [0, 8]


# --- the end of a text ---


def ending_backbone(where: int, eos: int = 0) -> CallableBackbone:
    """Sure of `eos` at one position of the block of 4, of token 1 elsewhere, and surest of all at that position."""
    logits = torch.zeros(4, VOCAB)
    logits[:, 1] = 6.0
    logits[where] = torch.tensor([20.0 if v == eos else 0.0 for v in range(VOCAB)])
    return CallableBackbone(
        lambda tokens: logits.repeat(9, 1)[-tokens.shape[1] :].expand(len(tokens), -1, -1), VOCAB, MASK
    )


@pytest.mark.parametrize("after_eos", ["sum_out", "observe"])
@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize("coupled", [False, True])
def test_a_row_ends_at_its_first_end_of_text(after_eos: str, sampling: str, coupled: bool) -> None:
    model = CoupledDiffusion(ending_backbone(2), CoupledHead(uniform_prior()) if coupled else None)
    options = {"max_new_tokens": 12, "steps": 12, "eos_id": 0, "temperature": 0.0, "block_length": 4}
    steps = list(model.steps([1], sampling=sampling, after_eos=after_eos, **options))
    assert len(steps) == 3, "the positions before the end, and no further block"
    assert steps[0].tokens.tolist() == [[MASK, MASK, 0, *[0] * 9]]
    found = model.generate([1], sampling=sampling, after_eos=after_eos, **options)
    assert found.lengths.tolist() == [2] and found.tokens.tolist() == [[1, 1]]


def test_what_the_backbone_sees_after_the_end() -> None:
    seen: list[list[int]] = []
    inner = ending_backbone(1)

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens[0, 1:].tolist())
        return inner.fn(tokens)

    model = CoupledDiffusion(CallableBackbone(logits, VOCAB, MASK))
    options = {"max_new_tokens": 4, "steps": 4, "eos_id": 0, "temperature": 0.0, "block_length": 4}
    list(model.steps([1], **options))
    list(model.steps([1], after_eos="observe", **options))
    assert seen == [[MASK] * 4, [MASK, 0, MASK, MASK], [MASK] * 4, [MASK, 0, 0, 0]]


def test_an_end_of_text_in_the_prompt_ends_nothing() -> None:
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    options = {"max_new_tokens": LENGTH, "steps": 2, "eos_id": 0, "generator": generator()}
    assert list(model.steps([0, 1, 0], **options))
    for empty in (None, torch.empty(1, 0, dtype=torch.long), [[]]):
        started = model.generate(empty, **{**options, "seeds": [5], "generator": None})
        assert started.tokens.equal(model.generate([0], **{**options, "seeds": [5], "generator": None}).tokens)


# --- sizes ---


@pytest.mark.parametrize("sampling", EXACT)
def test_a_last_block_that_reaches_beyond_is_summed_out(sampling: str) -> None:
    backbone, head = table_backbone(), CoupledHead(hmm(), coupling="product")
    law = block_law(head, backbone).view([VOCAB] * LENGTH).sum(-1).flatten()
    drawn = CoupledDiffusion(backbone, head).generate(
        START.expand(SAMPLES, 1),
        max_new_tokens=LENGTH - 1,
        steps=1,
        sampling=sampling,
        remasking="random",
        generator=generator(),
    )
    assert drawn.tokens.shape == (SAMPLES, LENGTH - 1) and not (drawn.tokens == MASK).any()
    assert min(p_values(drawn.tokens, law).values()) > 1e-3


def test_a_last_block_spends_steps_on_what_is_asked_for() -> None:
    steps = CoupledDiffusion(table_backbone(), CoupledHead(hmm())).steps(
        START, max_new_tokens=LENGTH + 1, steps=4, generator=generator()
    )
    assert [int(step.committed.sum()) for step in steps] == [2, 2, 1]


def test_a_long_prompt_slides_out_of_the_context() -> None:
    model = CoupledDiffusion(transformer(max_length=12), CoupledHead(hmm(3, 7)))
    options = {"max_new_tokens": 4, "steps": 2, "temperature": 0.0}
    tail = [1, 2, 3, 4, 5, 6, 1, 2]
    assert model.generate([5] * 50 + tail, **options).tokens.equal(model.generate(tail, **options).tokens)
    wide = model.generate([5] * 50 + tail, max_context=8, **options).tokens
    assert wide.equal(model.generate(tail[-4:], **options).tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "2 blocks need at least 2 steps, got 1"),
        ({"steps": 0}, "`steps` must be a positive integer"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a positive integer"),
        ({"block_length": 6}, "`block_length` is 6, the head's prior covers 4 tokens; one must divide the other"),
        ({"block_length": 0}, "`block_length` must be a positive integer"),
        ({"region": "window"}, "`region` must be one of blocks, canvas"),
        ({"remasking": "topprob"}, "`remasking` must be one of low_confidence, random, margin, entropy, top_prob"),
        ({"sampling": "greedy"}, "`sampling` must be one of latent, any_order, mpe"),
        ({"quota": "half"}, "`quota` must be one of linear, cosine, dream, binomial, first_hitting, threshold, factor"),
        ({"bound": 0.5}, "`bound` belongs to threshold, factor, entropy_bounded, klass, joint_confidence; the quota"),
        ({"history": 0}, "`history` must be a positive integer"),
        ({"drift": -1.0}, "`drift` must be finite and at least 0"),
        ({"quota": "joint_confidence", "bound": 1.5}, r"`bound` of 'joint_confidence' must lie in \[0, 1.0\]"),
        ({"quota": "factor", "bound": float("nan")}, "`bound` of 'factor'"),
        ({"order_temperature": -0.1}, "`order_temperature` must be finite and at least 0"),
        ({"top_p": 0.0}, r"`top_p` must lie in \(0, 1\]"),
        ({"top_k": 0}, "`top_k` must be a positive integer"),
        ({"eos_penalty": 1.0}, "`eos_penalty` needs `eos_id`"),
        ({"eos_penalty": float("inf"), "eos_id": 0}, "`eos_penalty` must be finite"),
        ({"suppress_tokens": (1, VOCAB)}, rf"`suppress_tokens` must be tokens in 0..2, got \[{VOCAB}\]"),
        ({"begin_suppress_tokens": (-1,)}, "`begin_suppress_tokens` must be tokens"),
        ({"reviser": "edit"}, "`reviser` must be one of none"),
        ({"cache": "dual"}, "`cache` must be one of None, prefix"),
        ({"cache": "prefix"}, "`cache` needs a backbone with `prefill`; CallableBackbone has none"),
        ({"confidence_from": "both"}, "`confidence_from` must be one of"),
        ({"after_eos": "stop"}, "`after_eos` must be one of"),
        ({"temperature": -1.0}, "`temperature` must be finite and at least 0"),
        ({"temperature": float("nan")}, "`temperature` must be finite and at least 0"),
        ({"eos_id": VOCAB}, "`eos_id` must be a token in 0..2"),
        ({"max_context": 3}, "fewer than one block"),
        ({"seeds": [1, 2]}, "one seed for each of 1 rows"),
        ({"seeds": [1], "generator": torch.Generator()}, "not both"),
    ],
)
def test_bad_options_are_refused_before_the_first_step(options: dict[str, Any], message: str) -> None:
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    with pytest.raises(pc.ParameterError, match=message):
        model.steps(START, **{"max_new_tokens": 8, "steps": 4, **options})


@pytest.mark.parametrize(
    ("prompt", "valid", "error", "message"),
    [
        (torch.tensor([[0.5]]), None, pc.ShapeError, "integer ids"),
        (torch.zeros(1, 1, 1, dtype=torch.long), None, pc.ShapeError, r"shape \(P,\) or \(B, P\)"),
        (torch.zeros(0, 3, dtype=torch.long), None, pc.ShapeError, "no rows"),
        ([[1], [MASK]], None, pc.DataError, r"rows \[1\].*mask"),
        ([-1], None, pc.DataError, "outside 0..2"),
        (None, None, pc.DataError, "empty prompt"),
        (START, torch.ones(1, 2, dtype=torch.bool), pc.ShapeError, "`valid` must be bool"),
        ([[1]], torch.ones(1, 1, dtype=torch.bool), pc.ShapeError, "`valid` belongs to a padded tensor"),
    ],
)
def test_bad_prompts_are_refused(prompt: Any, valid: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CoupledDiffusion(table_backbone()).steps(prompt, valid=valid, max_new_tokens=4, steps=1, block_length=4)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda x: x.index_fill(2, torch.tensor([1]), float("nan")), pc.EvidenceError, "NaN.*rows"),
        (lambda x: x.fill_(-torch.inf), pc.EvidenceError, "all -inf"),
        (lambda x: x[..., :2], pc.ShapeError, r"expected \(B, L, V\) = \(1, 4, 3\)"),
        (lambda x: x[:, :3], pc.ShapeError, "expected"),
    ],
)
@pytest.mark.parametrize("coupled", [False, True])
def test_unusable_predictions_are_refused(
    spoil: Callable[[torch.Tensor], torch.Tensor], error: type[Exception], message: str, coupled: bool
) -> None:
    class Spoilt(CallableBackbone):
        def log_marginals(self, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
            return spoil(super().log_marginals(tokens, **options).clone())

    backbone = Spoilt(table_backbone().fn, VOCAB, MASK)
    model = CoupledDiffusion(backbone, CoupledHead(hmm()) if coupled else None)
    with pytest.raises(error, match=message):
        model.generate(START, max_new_tokens=4, steps=1, block_length=4)


def test_a_prior_that_excludes_the_tokens_says_so() -> None:
    certain = pc.HMM.from_probs(torch.ones(1), torch.ones(1, 1), torch.tensor([[0.5, 0.5, 0.0]]), length=2)
    only_two = torch.tensor([0.0, 0.0, 30.0])
    backbone = CallableBackbone(lambda tokens: only_two.expand(*tokens.shape, -1), VOCAB, MASK)
    model = CoupledDiffusion(backbone, CoupledHead(certain, coupling="product", gamma=0.5))
    with pytest.raises(pc.EvidenceError, match="impossible"):
        model.generate(START, max_new_tokens=2, steps=2, generator=generator())


def test_prompts_are_padded_on_the_left() -> None:
    prompts = Prompts([torch.tensor([1, 2]), torch.tensor([3])])
    assert prompts.tokens.tolist() == [[1, 2], [0, 3]] and prompts.valid.tolist() == [[True, True], [False, True]]


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings(steps=1, block_length=4).steps = 2  # type: ignore[misc]
