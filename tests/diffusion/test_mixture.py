"""A mixture of heads is one exact distribution, decoded and trained like one head."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.cli.info import describe_head
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.mixture import HeadMixture
from pcircuits_diffusion.model import CoupledDiffusion
from pcircuits_diffusion.pretrained import BackboneInfo, save_head
from pcircuits_diffusion.training import train_head
from tests.diffusion.tiny_models import LENGTH, VOCAB, all_blocks, hmm, table_backbone


@pytest.fixture
def mixture() -> HeadMixture:
    found = HeadMixture([CoupledHead(hmm(), coupling="product"), CoupledHead(hmm(3)), CoupledHead(hmm(4), gamma=0.9)])
    with torch.no_grad():
        found.log_shares.copy_(torch.tensor([0.5, -0.5, 1.0]))
    return found.requires_grad_(False)


def blocks() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, LENGTH, VOCAB, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([[0, 1, 2, 0]] * 2), torch.tensor([[True, False, True, True], [True] * 4])


def law(mixture: HeadMixture) -> torch.Tensor:
    """(B, V^L) by the definition: a share times each head's law."""
    logits, tokens, mask = blocks()
    worlds = all_blocks().unsqueeze(1).expand(-1, 2, -1)
    each = [head(logits, None, tokens, mask).posterior.log_prob(worlds).exp().T for head in mixture.parts]
    shares = mixture.log_shares.double().softmax(0)
    return sum(share * part for share, part in zip(shares, each, strict=True))


def test_it_is_the_mixture_of_its_heads(mixture: HeadMixture) -> None:
    logits, tokens, mask = blocks()
    found, exact, worlds = mixture(logits, None, tokens, mask), law(mixture), all_blocks()
    assert torch.allclose(exact.sum(-1), torch.ones(2, dtype=torch.float64), atol=1e-10)
    scores = torch.stack([found.log_prob(world.expand(2, -1)) for world in worlds]).exp().T
    assert torch.allclose(scores, exact, atol=1e-10)
    one_hot = torch.nn.functional.one_hot(worlds, VOCAB).double()
    assert torch.allclose(found.marginals(), torch.einsum("bw,wlv->blv", exact, one_hot), atol=1e-10)
    assert found.marginal_gap().max() > 0.01


def test_conditionals_weigh_the_heads_anew(mixture: HeadMixture) -> None:
    logits, tokens, mask = blocks()
    rest = mask & (torch.arange(LENGTH) != 2)
    keeps = ((all_blocks().unsqueeze(1) == tokens) | rest).all(-1).T
    exact = law(mixture) * keeps
    one_hot = torch.nn.functional.one_hot(all_blocks(), VOCAB).double()
    expected = torch.einsum("bw,wlv->blv", exact / exact.sum(-1, keepdim=True), one_hot)
    found = mixture(logits, None, tokens, mask).observe(tokens, rest).marginals()
    assert torch.allclose(found[rest], expected[rest], atol=1e-10)


def test_samples_follow_it(mixture: HeadMixture) -> None:
    logits, tokens, mask = blocks()
    drawn = mixture(logits, None, tokens, mask).sample(4000, generator=torch.Generator().manual_seed(0))
    place = (drawn * VOCAB ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)
    for row, exact in enumerate(law(mixture)):
        counts = torch.bincount(place[:, row], minlength=VOCAB**LENGTH).double()
        assert testing.p_value(counts, exact) > 1e-4
        assert testing.p_value(counts, law(mixture)[1 - row]) < 1e-4, "the test tells distributions apart"


def test_mpe_is_possible_and_at_least_each_heads(mixture: HeadMixture) -> None:
    logits, tokens, mask = blocks()
    found = mixture(logits, None, tokens, mask)
    best = found.mpe()
    assert torch.allclose(best.log_prob, found.log_prob(best.values)) and not best.exact.any()
    assert (best.values == tokens)[~mask].all()
    assert all((best.log_prob >= found.log_prob(part.mpe().values) - 1e-12).all() for part in found.parts)


@pytest.mark.parametrize(("sampling", "temperature"), list(itertools.product(["latent", "any_order"], [0.0, 1.0])))
def test_it_generates(mixture: HeadMixture, sampling: str, temperature: float) -> None:
    model = CoupledDiffusion(table_backbone(), mixture)
    options = {"max_new_tokens": 8, "steps": 4, "seeds": [1, 2], "sampling": sampling, "temperature": temperature}
    tokens = model.generate([[1], [2]], **options).tokens
    assert tokens.shape == (2, 8) and int(tokens.max()) < VOCAB
    alone = model.generate([[2]], **{**options, "seeds": [2]}).tokens
    assert alone[0].equal(tokens[1])


def test_training_finds_the_better_head() -> None:
    """Text of the first head's prior and a backbone that knows nothing, so the first share grows."""
    backbone = CallableBackbone(lambda tokens: torch.zeros(*tokens.shape, VOCAB), VOCAB, VOCAB)
    good, bad = hmm(), pc.HMM(2, VOCAB, LENGTH, seed=3, dtype=torch.float64)
    text = good.sample(256, generator=torch.Generator().manual_seed(0))
    mixture = HeadMixture([CoupledHead(prior, coupling="product") for prior in (good, bad)])
    for head in mixture.parts:
        head.requires_grad_(False)
    train_head(mixture, backbone, text, seed=0, epochs=3, learner=pc.Adam(lr=0.1), progress=False)
    assert mixture.log_shares.softmax(0)[0] > 0.7


def test_it_comes_back_as_it_was(mixture: HeadMixture, tmp_path: Path) -> None:
    model = CoupledDiffusion(table_backbone(), mixture)
    model.save_pretrained(tmp_path, backbone_name="tiny/table")
    again = CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone())
    assert isinstance(again.head, HeadMixture) and torch.equal(again.head.log_shares, mixture.log_shares)
    assert [part.options for part in again.head.parts] == [part.options for part in mixture.parts]
    logits, tokens, mask = blocks()
    state, expected = again.head.state_dict(), mixture.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
    found = again.head(logits, None, tokens, mask).log_prob(tokens)
    torch.testing.assert_close(found, mixture(*inputs()).log_prob(tokens), rtol=0, atol=1e-12)
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    facts = describe_head(tmp_path)
    assert facts["kind"] == "mixture of heads" and facts["head 1"]["prior"]["states"] == 3


def inputs() -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
    logits, tokens, mask = blocks()
    return logits, None, tokens, mask


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "part-1" / "head.json").unlink(), "part-1"),
        (lambda folder: (folder / "head.safetensors").write_bytes(b""), "head.safetensors"),
        (lambda folder: save_head(CoupledHead(hmm(5)), folder / "part-2", BackboneInfo("x", VOCAB, None)), "part-2"),
        (lambda folder: edit(folder, lambda config: config["sha256"].popitem()), r"log_shares"),
        (lambda folder: edit(folder, lambda config: config.pop("sha256")), "lacks sha256"),
        (lambda folder: edit(folder, lambda config: config["sha256"].update(other="0")), "'sha256' is malformed"),
    ],
)
def test_spoilt_files_are_refused(
    mixture: HeadMixture, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    CoupledDiffusion(table_backbone(), mixture).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(pc.FormatError, match=message):
        CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone())


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "head.json").read_text())
    change(config)
    (folder / "head.json").write_text(json.dumps(config))


def test_what_it_refuses(mixture: HeadMixture) -> None:
    with pytest.raises(pc.ParameterError, match="at least two heads, got 1"):
        HeadMixture([CoupledHead(hmm())])
    with pytest.raises(pc.ShapeError, match="must share block length and vocabulary"):
        HeadMixture([CoupledHead(hmm()), CoupledHead(hmm(vocab=5))])
    assert mixture.gamma is None and mixture.active(torch.ones(2, LENGTH, dtype=torch.bool)).all()
