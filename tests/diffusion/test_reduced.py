"""A head over a part of the vocabulary is a distribution over all of it, and every query is that of the enumeration."""

from pathlib import Path

import pytest
import torch

import pcircuits as pc
import pcircuits_diffusion as pcd
from pcircuits_diffusion.constraints import dfa
from pcircuits_diffusion.reduced import TokenMap
from tests.diffusion.tiny_models import all_blocks, hmm, table_backbone, uniform_prior

KEPT, VOCAB, LENGTH = [3, 1], 4, 3  # the classes: token 3, token 1, and one of 0, 2
OPTIONS = [{"coupling": "product"}, {"coupling": "corrected"}, {"sweeps": 2}, {"sweep_tokens": 1}, {"sharpen": 0.7}]


def case(**options: object) -> tuple[pcd.CoupledHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A head, logits of three blocks, their tokens, and masks: all, a kept token observed, a rare one observed."""
    head = pcd.CoupledHead(hmm(length=LENGTH), token_map=KEPT, vocab_size=VOCAB, **options)
    logits = torch.randn(3, LENGTH, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits[0, 1, 2] = -torch.inf
    tokens = torch.tensor([[0, 0, 0], [3, 2, 1], [2, 1, 2]])
    return head, logits, tokens, torch.tensor([[True, True, True], [False, True, True], [False, True, False]])


@pytest.mark.parametrize("options", OPTIONS)
def test_it_sums_to_one_and_equals_its_definition(options: dict[str, object]) -> None:
    head, logits, tokens, mask = case(**options)
    blocks = all_blocks(LENGTH, VOCAB)
    posterior = head(logits, None, tokens, mask)
    log_prob = torch.stack([posterior.log_prob(block.expand(3, -1)) for block in blocks])
    assert torch.allclose(log_prob.exp().sum(0), torch.ones(3, dtype=torch.float64))
    sharp = (logits / head.sharpen).log_softmax(-1)
    rare, classes = torch.tensor([0, 2]), TokenMap(KEPT, VOCAB).of_tokens(blocks)
    of_classes = torch.cat([sharp[..., KEPT], sharp[..., rare].logsumexp(-1, keepdim=True)], -1)
    plain = pcd.CoupledHead(head.prior, **{k: v for k, v in options.items() if k != "sharpen"})
    inner = plain(of_classes, None, TokenMap(KEPT, VOCAB).of_tokens(tokens), mask)
    marginals = posterior.marginals()
    for row in range(3):
        consistent = ((blocks == tokens[row]) | mask[row]).all(-1)
        within = sharp[row] - sharp[row, :, rare].logsumexp(-1, keepdim=True)
        factors = within[torch.arange(LENGTH), blocks].masked_fill((classes < 2) | ~mask[row], 0.0).sum(-1)
        joint = torch.stack([inner.log_prob(c.expand(3, -1))[row] for c in classes])
        want = (joint + factors).exp() * consistent
        assert torch.allclose(log_prob[:, row].exp(), want, atol=1e-12)
        for position in range(LENGTH):
            marginal = torch.stack([want[blocks[:, position] == v].sum() for v in range(VOCAB)])
            assert torch.allclose(marginals[row, position], marginal, atol=1e-12)
    best = posterior.mpe()
    assert best.exact.all() and torch.allclose(best.log_prob, log_prob.amax(0))
    some = torch.tensor([[True, False, True]] * 3)
    found = posterior.log_prob(torch.tensor([[0, 0, 1]] * 3), variables=some).exp()
    want = log_prob.exp()[(blocks[:, 0] == 0) & (blocks[:, 2] == 1)].sum(0)
    assert torch.allclose(found, want, atol=1e-12)


def test_samples_follow_it_and_observations_condition_it() -> None:
    head, logits, tokens, mask = case(coupling="product")
    posterior, blocks = head(logits, None, tokens, mask), all_blocks(LENGTH, VOCAB)
    drawn = posterior.sample(6000, generator=torch.Generator().manual_seed(0))
    rates = torch.nn.functional.one_hot(drawn, VOCAB).double().mean(0)
    assert (rates - posterior.marginals()).abs().max() < 0.03
    seen = torch.tensor([[2, 0, 0], [3, 2, 1], [2, 1, 2]])
    left = mask & ~torch.tensor([True, False, False])
    after = posterior.observe(seen, left)
    joint = torch.stack([posterior.log_prob(b.expand(3, -1)) for b in blocks]).exp()
    agrees = ((blocks.unsqueeze(1) == seen) | left).all(-1)
    want = joint * agrees / (joint * agrees).sum(0)
    found = torch.stack([after.log_prob(b.expand(3, -1)) for b in blocks]).exp()
    assert torch.allclose(found, want, atol=1e-12)
    cold = posterior.sample(1, temperature=0.0)[0]
    assert (posterior.log_prob(cold) > -torch.inf).all()


def test_a_prior_that_says_nothing_leaves_the_backbone(tmp_path: Path) -> None:
    logits = torch.randn(1, LENGTH, VOCAB, dtype=torch.float64)
    head = pcd.CoupledHead(uniform_prior(length=LENGTH), token_map=KEPT, vocab_size=VOCAB, coupling="corrected")
    mask = torch.ones(1, LENGTH, dtype=torch.bool)
    posterior, blocks = head(logits, None, torch.zeros(1, LENGTH, dtype=torch.long), mask), all_blocks(LENGTH, VOCAB)
    alone = logits.log_softmax(-1)[0, torch.arange(LENGTH), blocks].sum(-1)
    assert torch.allclose(torch.stack([posterior.log_prob(b.unsqueeze(0))[0] for b in blocks]), alone)


def test_it_is_trained_saved_and_generates(tmp_path: Path) -> None:
    backbone = table_backbone(LENGTH, VOCAB)
    head = pcd.CoupledHead(hmm(length=LENGTH), token_map=KEPT, vocab_size=VOCAB, coupling="corrected")
    windows = torch.randint(VOCAB, (8, 2 * LENGTH), generator=torch.Generator().manual_seed(0))
    history = pcd.train_head(head, backbone, windows, epochs=2, batch_size=4, seed=0, progress=False)
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss + 1
    model = pcd.CoupledDiffusion(backbone, head)
    model.save_pretrained(tmp_path, backbone_name="tiny")
    again = pcd.CoupledDiffusion.from_pretrained(tmp_path, backbone=backbone)
    for options in ({"temperature": 1.0}, {"temperature": 0.0}, {"sampling": "any_order"}, {"region": "canvas"}):
        texts = [m.generate([0, 2], max_new_tokens=6, steps=2, seeds=[3], **options).tokens for m in (model, again)]
        assert torch.equal(*texts) and texts[0].max() < VOCAB
    anything = dfa(torch.zeros(1, VOCAB, dtype=torch.long), torch.ones(1, dtype=torch.bool))
    with pytest.raises(pc.ParameterError, match="token_map"):
        model.generate([0], max_new_tokens=3, constraint=anything)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"token_map": [0, 0], "vocab_size": 5}, pc.ParameterError, "different"),
        ({"token_map": [0, 5], "vocab_size": 5}, pc.ParameterError, r"0\.\.4"),
        ({"token_map": [0, 1, 2], "vocab_size": 3}, pc.ParameterError, "1 to 2"),
        ({"token_map": [0, 1]}, pc.ParameterError, "belong together"),
        ({"token_map": [0], "vocab_size": 5}, pc.ShapeError, "one value more"),
    ],
)
def test_maps_that_do_not_fit(options: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        pcd.CoupledHead(hmm(), **options)
