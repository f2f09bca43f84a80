"""Likelihoods of continuations against enumeration: what is scored is a distribution, and that of the decoder."""

import itertools

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion import CoupledDiffusion, CoupledHead
from pcircuits_diffusion.evaluate import ContinuationScore, Scheme, score_continuations
from tests.diffusion.tiny_models import LENGTH, VOCAB, all_blocks, hmm, table_backbone, transformer, uniform_prior

CONTEXT = [1, 2]
STEPS = (1, 3, LENGTH)


@pytest.fixture(params=["product", "corrected", "projected", "none", "gamma"])
def model(request: pytest.FixtureRequest) -> CoupledDiffusion:
    backbone = transformer(vocab=VOCAB, block_length=LENGTH).double()
    if request.param == "none":
        return CoupledDiffusion(backbone)
    if request.param == "gamma":
        return CoupledDiffusion(backbone, CoupledHead(hmm(), coupling="product", gamma=0.5))
    return CoupledDiffusion(backbone, CoupledHead(hmm(), coupling=request.param))


def scores(model: CoupledDiffusion, continuations: list[list[int]], scheme: Scheme) -> list[ContinuationScore]:
    return score_continuations(model, [CONTEXT] * len(continuations), continuations, scheme)


def probabilities(model: CoupledDiffusion, length: int, scheme: Scheme) -> torch.Tensor:
    """Of every continuation of this length, in lexicographic order."""
    every = [list(ids) for ids in itertools.product(range(VOCAB), repeat=length)]
    found = score_continuations(model, [CONTEXT] * len(every), every, scheme, greedy=False)
    assert {score.is_greedy for score in found} == {None}
    return torch.tensor([score.log_prob for score in found], dtype=torch.float64).exp()


@torch.no_grad()
def walked(model: CoupledDiffusion, block: list[int], groups: list[tuple[int, int]]) -> float:
    """The same by hand: a posterior over all blocks each step, its rows that agree with the block summed."""
    blocks, total = all_blocks(), 1.0
    for first, stop in groups:
        tokens = torch.tensor([block])
        mask = torch.arange(LENGTH).expand(1, -1) >= first
        inputs = torch.cat([torch.tensor([CONTEXT]), tokens.masked_fill(mask, model.backbone.mask_id)], 1)
        logits = model.backbone.log_marginals(inputs, span=slice(len(CONTEXT), None))
        if model.head is not None and model.head.active(mask).all():
            law = model.head(logits, None, tokens, mask).posterior.log_prob(blocks.unsqueeze(1)).squeeze(-1).exp()
        else:
            agrees = (blocks[:, :first] == tokens[:, :first]).all(-1)
            rest = logits[0, range(first, LENGTH)].exp()
            law = agrees * rest[range(LENGTH - first), blocks[:, first:]].prod(-1)
        total *= float(law[(blocks[:, :stop] == tokens[:, :stop]).all(-1)].sum())
    return total


@pytest.mark.parametrize("steps", STEPS)
def test_equals_enumeration(model: CoupledDiffusion, steps: int) -> None:
    scheme = Scheme(block_length=LENGTH, steps=steps)
    picked = [0, 5, 40, 80]
    expected = [walked(model, all_blocks()[i].tolist(), scheme.groups) for i in picked]
    torch.testing.assert_close(
        probabilities(model, LENGTH, scheme)[picked], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("steps", STEPS)
def test_sums_to_one_and_prefixes_agree(model: CoupledDiffusion, steps: int) -> None:
    scheme = Scheme(block_length=LENGTH, steps=steps)
    longer, shorter = probabilities(model, LENGTH + 1, scheme), probabilities(model, LENGTH - 1, scheme)
    assert longer.sum() == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(longer.view(len(shorter), -1).sum(1), shorter, rtol=1e-8, atol=0)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_continuation_is_greedy(model: CoupledDiffusion, steps: int) -> None:
    scheme = Scheme(block_length=LENGTH, steps=steps)
    found = scores(model, [list(ids) for ids in itertools.product(range(VOCAB), repeat=2)], scheme)
    greedy = [i for i, score in enumerate(found) if score.is_greedy]
    assert len(greedy) == 1
    if model.head is None:  # tokens of a step are independent: the prefix of the mode is the mode of the prefix
        assert found[greedy[0]].log_prob == max(score.log_prob for score in found)


def test_one_token_at_a_time_greedy_is_the_chain_of_modes() -> None:
    model, scheme = CoupledDiffusion(transformer(vocab=VOCAB)), Scheme(block_length=LENGTH, steps=LENGTH)
    tokens: list[int] = []
    for _ in range(LENGTH):
        found = scores(model, [[*tokens, v] for v in range(VOCAB)], scheme)
        tokens.append(max(range(VOCAB), key=lambda v: found[v].log_prob))
    assert scores(model, [tokens], scheme)[0].is_greedy


def test_greedy_is_what_the_loop_decodes() -> None:
    """One step a block: decoding at temperature 0 commits the most probable block."""
    model = CoupledDiffusion(transformer(vocab=VOCAB, block_length=LENGTH), CoupledHead(hmm()))
    out = model.generate(CONTEXT, max_new_tokens=2 * LENGTH, steps=2, temperature=0.0)
    (score,) = scores(model, out.tokens.tolist(), Scheme(block_length=LENGTH))
    assert score.is_greedy
    other = out.tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % VOCAB
    assert not scores(model, other.tolist(), Scheme(block_length=LENGTH))[0].is_greedy


def test_a_row_alone_equals_the_row_in_the_batch(model: CoupledDiffusion) -> None:
    contexts, continuations = [[0], [2, 1, 2, 0, 1], [1, 1]], [[1, 2, 0, 1, 1, 2], [0], []]
    scheme = Scheme(block_length=LENGTH, steps=2, max_context=9)
    together = score_continuations(model, contexts, continuations, scheme)
    for context, continuation, score in zip(contexts, continuations, together, strict=True):
        (alone,) = score_continuations(model, [context], [continuation], scheme)
        assert alone.log_prob == pytest.approx(score.log_prob, abs=1e-9) and alone.is_greedy == score.is_greedy
    assert together[2] == (0.0, True)


def test_a_uniform_prior_is_the_backbone() -> None:
    backbone = table_backbone()
    scheme = Scheme(block_length=LENGTH, steps=2)
    coupled, alone = CoupledDiffusion(backbone, CoupledHead(uniform_prior())), CoupledDiffusion(backbone)
    torch.testing.assert_close(probabilities(coupled, 5, scheme), probabilities(alone, 5, scheme), rtol=1e-6, atol=0)


def test_context_beyond_what_fits_is_dropped() -> None:
    model = CoupledDiffusion(transformer(vocab=VOCAB, block_length=LENGTH))
    scheme = Scheme(block_length=LENGTH, max_context=LENGTH + 2)
    long, cut = score_continuations(model, [[0, 0, 1, 2], [1, 2]], [[1, 0]] * 2, scheme)
    assert long.log_prob == pytest.approx(cut.log_prob, abs=1e-6)
    free = Scheme(block_length=LENGTH)
    assert score_continuations(model, [[0, 0, 1, 2]], [[1, 0]], free)[0].log_prob != pytest.approx(cut.log_prob)
    unread = Scheme(block_length=LENGTH, max_context=LENGTH)
    assert score_continuations(model, [[0]], [[1, 0]], unread) == score_continuations(model, [[2]], [[1, 0]], unread)


def test_refuses_what_does_not_fit() -> None:
    model = CoupledDiffusion(table_backbone(), CoupledHead(hmm()))
    scheme = Scheme(block_length=LENGTH)
    with pytest.raises(pc.ShapeError, match="as many continuations"):
        score_continuations(model, [[0]], [], scheme)
    with pytest.raises(pc.ShapeError, match="covers 4"):
        score_continuations(model, [[0]], [[1]], Scheme(block_length=3))
    with pytest.raises(pc.DataError, match="row 1 holds ids"):
        score_continuations(model, [[0], [1]], [[1], [VOCAB]], scheme)
    with pytest.raises(pc.ParameterError, match="`steps` must be between 1 and the block's 4"):
        Scheme(block_length=LENGTH, steps=5)
    with pytest.raises(pc.ParameterError, match="fewer than one block"):
        Scheme(block_length=LENGTH, max_context=3)


def test_heads_that_read_hidden_states_are_given_them() -> None:
    backbone, prior = transformer(vocab=VOCAB, block_length=LENGTH), hmm().float()
    modulated = CoupledHead(prior, modulation="parameter", hidden_size=16, modulation_options={"blocks": 2, "width": 4})

    def score(head: CoupledHead) -> float:
        return scores(CoupledDiffusion(backbone, head), [[1, 2, 0, 1, 1]], Scheme(block_length=LENGTH))[0].log_prob

    plain = score(CoupledHead(prior))
    assert score(modulated) == pytest.approx(plain, abs=1e-5)
    assert modulated.modulation is not None
    torch.manual_seed(0)
    torch.nn.init.normal_(modulated.modulation.contract.weight, std=2.0)
    assert abs(score(modulated) - plain) > 1e-3
