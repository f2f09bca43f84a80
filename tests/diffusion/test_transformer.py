"""The small transformer and its training script."""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from benchmarks import train_backbone
from pcircuits_diffusion.backbone import Backbone, CallableBackbone
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig
from pcircuits_diffusion.corpus import Document

CONFIG = TransformerConfig(vocab_size=11, dim=16, num_layers=2, num_heads=2, max_length=12, block_length=4, eos_id=0)


@pytest.fixture(params=[False, True], ids=["masked", "causal"])
def model(request: pytest.FixtureRequest) -> MaskedTransformer:
    torch.manual_seed(0)
    return MaskedTransformer(dataclasses.replace(CONFIG, causal=request.param)).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(12, (3, 9), generator=torch.Generator().manual_seed(1))


def test_rows_are_distributions_over_real_tokens(model: MaskedTransformer, tokens: torch.Tensor) -> None:
    marginals = model.log_marginals(tokens)
    assert isinstance(model, Backbone)
    assert marginals.shape == (3, 9, 11) and marginals.dtype == torch.float32 and not marginals.requires_grad
    torch.testing.assert_close(marginals.exp().sum(-1), torch.ones(3, 9))
    assert model.hidden(tokens, span=slice(2, 5)).shape == (3, 3, 16)


def test_span_equals_part_of_all(model: MaskedTransformer, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(model.log_marginals(tokens, span=slice(3, 7)), model.log_marginals(tokens)[:, 3:7])


@pytest.mark.parametrize("padding", [1, 3])
def test_padded_row_equals_row_alone(model: MaskedTransformer, tokens: torch.Tensor, padding: int) -> None:
    tokens[:, :padding] = 5
    valid = torch.arange(9).expand(3, 9) >= torch.tensor([[0], [padding], [0]])
    batch = model.log_marginals(tokens, valid=valid)
    torch.testing.assert_close(batch[1, padding:], model.log_marginals(tokens[1:2, padding:])[0])
    torch.testing.assert_close(batch[[0, 2]], model.log_marginals(tokens[[0, 2]]))
    assert batch.isfinite().all()


def test_masked_model_looks_both_ways(tokens: torch.Tensor) -> None:
    model = MaskedTransformer(CONFIG).eval()
    changed = tokens.index_fill(1, torch.tensor([8]), 3)
    changed[:, 8] = (tokens[:, 8] + 1) % 11
    assert (model.log_marginals(tokens)[:, 0] != model.log_marginals(changed)[:, 0]).any()


def test_causal_model_sees_only_the_past(tokens: torch.Tensor) -> None:
    model = MaskedTransformer(dataclasses.replace(CONFIG, causal=True)).eval()
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    before, after = model.log_marginals(tokens), model.log_marginals(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5] != after[:, 5]).any()


@pytest.mark.parametrize(
    ("tokens", "valid", "message"),
    [
        (torch.zeros(1, 13, dtype=torch.long), None, "13 tokens exceed this backbone's max_length of 12"),
        (torch.zeros(3, dtype=torch.long), None, r"int64 \(B, L\), got torch.int64 of shape \(3,\)"),
        (torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), r"got torch.bool \(1, 2\)"),
    ],
)
def test_refuses_wrong_shapes(tokens: torch.Tensor, valid: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedTransformer(CONFIG).log_marginals(tokens, valid=valid)


def test_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="got dim 16, num_heads 3"):
        dataclasses.replace(CONFIG, num_heads=3)


def test_save_and_load(model: MaskedTransformer, tokens: torch.Tensor, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = MaskedTransformer.load(tmp_path)
    assert loaded.config == model.config and not loaded.training
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "backbone.safetensors"}
    torch.testing.assert_close(loaded.log_marginals(tokens), model.log_marginals(tokens), atol=2e-2, rtol=0.0)


def test_callable_backbone_hides_the_mask_column(tokens: torch.Tensor) -> None:
    backbone = CallableBackbone(lambda t: torch.zeros(*t.shape, 5), vocab_size=5, mask_id=2)
    marginals = backbone.log_marginals(tokens % 5, span=slice(1, 3))
    assert isinstance(backbone, Backbone) and marginals.shape == (3, 2, 5)
    expected = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25])
    torch.testing.assert_close(marginals.exp(), expected.expand(3, 2, 5))


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> train_backbone.Options:
    """A tiny run on a corpus of counted words; its checkpoints are written at every step."""
    texts = [" ".join(f"word{(i * j) % 17}" for j in range(60)) for i in range(1, 9)]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    monkeypatch.setitem(train_backbone.CORPORA, "python_docs", lambda split: documents)
    return train_backbone.Options(
        "python_docs", tmp_path / "whole", steps=8, batch=4, context=12, block=8, vocab=280, dim=16, layers=1,
        heads=2, lr=1e-2, log_every=4, windows=8, checkpoint=0.0, threads=torch.get_num_threads(),
    )  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_interrupted_training_ends_in_the_same_bits(
    options: train_backbone.Options, monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    options = dataclasses.replace(options, causal=causal)
    train_backbone.train(options)
    broken = dataclasses.replace(options, out=options.out.with_name("broken"))
    with monkeypatch.context() as patch:
        patch.setattr(train_backbone, "run_steps", lambda *a, run=train_backbone.run_steps: _interrupted(run(*a), 5))
        with pytest.raises(KeyboardInterrupt):
            train_backbone.train(broken)
    train_backbone.train(dataclasses.replace(broken, resume=True))
    for name in ("backbone.safetensors", "tokenizer.json", "config.json"):
        assert (options.out / name).read_bytes() == (broken.out / name).read_bytes(), name
    states = [safetensors.torch.load_file(o.out / "state.safetensors") for o in (options, broken)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    card = json.loads((broken.out / "card.json").read_text())
    assert card["steps"] == 8 and card["validation_bound"] > 0


def _interrupted(losses, count):  # type: ignore[no-untyped-def]
    for _ in range(count):
        yield next(losses)
    raise KeyboardInterrupt


def test_masks_are_stratified_and_inside_the_block() -> None:
    rows = torch.zeros(32, 20, dtype=torch.long)
    mask = train_backbone.draw_mask(rows, 16, 1.0, torch.Generator().manual_seed(0))
    assert not mask[:, :4].any()
    assert mask.sum(1).sort().values.tolist() == [k for k in range(1, 17) for _ in range(2)]


def test_short_rows_begin_with_eos(options: train_backbone.Options) -> None:
    stream = train_backbone.join([torch.arange(1, 40), torch.arange(50, 90)], options.length)
    generator = torch.Generator().manual_seed(0)
    rows = train_backbone.draw_rows(stream, dataclasses.replace(options, scratch=1.0), generator)
    assert (rows[:, 0] == train_backbone.EOS_ID).all() and rows.shape[1] in (9, 17)


def test_command_line() -> None:
    line = "--corpus gsm8k --out somewhere --steps 7 --lr 0.5 --causal"
    options = train_backbone.parse_options(line.split(" "))
    assert options == train_backbone.Options("gsm8k", Path("somewhere"), 7, lr=0.5, causal=True)
