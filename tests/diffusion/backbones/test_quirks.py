"""One test a quirk: what a family does differently, and what its backbone makes of it."""

import re
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion import Guided, ModuleBackbone, backbones, load_backbone
from tests.diffusion.backbones import native, stand_ins
from tests.diffusion.backbones.conftest import LENGTH, MASK, PROMPT

INSIDE = {"vocab_size": 10, "mask_id": MASK, "columns": 12}


def rows(mask_id: int = MASK, length: int = LENGTH) -> torch.Tensor:
    tokens = torch.randint(4, 10, (3, length), generator=torch.Generator().manual_seed(1))
    tokens[:, PROMPT:] = mask_id
    return tokens


def log_softmax(logits: torch.Tensor, size: int, *never: int) -> torch.Tensor:
    return logits[..., :size].index_fill(-1, torch.tensor(never, dtype=torch.long), -torch.inf).log_softmax(-1)


def test_llada_cuts_padded_columns_and_its_mask() -> None:
    module, tokens = stand_ins.LLaDA(), rows()
    expected = log_softmax(module(tokens, use_cache=False).logits, 10, MASK)
    torch.testing.assert_close(backbones.llada(module, **INSIDE).log_marginals(tokens), expected)


@pytest.mark.parametrize(("padding", "pads"), [("keys", True), ("causal", True), ("ignored", False)])
def test_llada_finds_out_whether_padding_is_read(padding: str, pads: bool) -> None:
    assert backbones.llada(stand_ins.LLaDA(padding), **INSIDE).pads == pads


def test_llada_stays_bidirectional_in_padded_rows() -> None:
    backbone, tokens = backbones.llada(stand_ins.LLaDA("causal"), **INSIDE), rows()
    valid = torch.arange(LENGTH).expand(3, LENGTH) >= 1
    changed = tokens.clone()
    changed[:, -1] = 5
    before, after = (backbone.log_marginals(t, valid=valid, span=slice(5, 6)) for t in (tokens, changed))
    assert (before - after).nan_to_num().abs().max() > 1e-3


def test_dream_shifts_by_one_as_upstream() -> None:
    module, tokens = stand_ins.Dream(), rows()
    logits = module(tokens, "full").logits
    moved = torch.cat([logits[:, :1], logits[:, :-1]], 1)
    backbone = backbones.dream(module, **INSIDE)
    torch.testing.assert_close(backbone.log_marginals(tokens)[:, 1:], log_softmax(moved, 10, MASK)[:, 1:])


def test_dream_hidden_states_are_shifted_too() -> None:
    module, tokens = stand_ins.Dream(), rows()
    backbone = backbones.dream(module, **INSIDE, output_layer=module.lm_head)
    expected = log_softmax(module.lm_head(backbone.hidden(tokens)), 10, MASK)
    torch.testing.assert_close(backbone.log_marginals(tokens)[:, 1:], expected[:, 1:])
    assert (backbone.hidden(tokens)[:, 0] == 0).all()


@pytest.mark.parametrize("padding", [0, 2])
def test_dream_refuses_a_mask_at_the_first_position(padding: int) -> None:
    tokens = rows()
    tokens[1, padding] = MASK
    valid = torch.arange(LENGTH).expand(3, LENGTH) >= padding
    with pytest.raises(pc.DataError, match=r"rows \[1\] begin with a mask.*begin-of-text"):
        backbones.dream(stand_ins.Dream(), **INSIDE).log_marginals(tokens, valid=valid, span=slice(PROMPT, LENGTH))


def test_dream_counts_positions_from_the_first_token() -> None:
    seen: list[torch.Tensor] = []

    class Watched(stand_ins.Dream):
        def forward(self, input_ids, attention_mask, position_ids=None):  # type: ignore[no-untyped-def]
            seen.append(position_ids)
            return super().forward(input_ids, attention_mask, position_ids)

    valid = torch.arange(LENGTH).expand(3, LENGTH) >= torch.tensor([[0], [2], [0]])
    backbones.dream(Watched(), **INSIDE).log_marginals(rows(), valid=valid)
    assert seen[0][1].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]


def test_mdlm_equals_upstreams_subs_and_leaves_the_logits_alone() -> None:
    module, tokens = stand_ins.DIT(), rows(11)
    logits = module(tokens, torch.zeros(3))
    kept: list[torch.Tensor] = []
    module.register_forward_hook(lambda m, args, output: kept.append(output))
    found = backbones.mdlm(module, vocab_size=11).log_marginals(tokens)
    subs = logits.clone()
    subs[..., 11] -= 1e6
    torch.testing.assert_close(found, subs.log_softmax(-1)[..., :11])
    assert torch.equal(kept[0], logits)


def test_mdlm_gets_times_only_if_it_was_trained_with_them() -> None:
    tokens = rows(11)
    tokens[0, :6] = 11
    for timed in (False, True):
        module = stand_ins.MDLM(time_conditioning=timed)
        backbones.mdlm(module, vocab_size=11).log_marginals(tokens)
        ratio = (tokens == 11).float().mean(1)
        expected = -torch.log1p(-ratio.clamp(max=1 - 1e-3)) if timed else torch.zeros(3)
        torch.testing.assert_close(module.backbone.sigma, expected)


def test_bd3lm_does_not_look_at_later_blocks() -> None:
    backbone, tokens = backbones.bd3lm(stand_ins.DIT(block_size=3), vocab_size=11), rows(11)
    changed = tokens.clone()
    changed[:, 6:] = 5
    before, after = backbone.log_marginals(tokens), backbone.log_marginals(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_bd3lm_refuses_attention_that_cannot_sample() -> None:
    module = stand_ins.DIT(block_size=3)
    module.config.attn_backend = "flex"
    with pytest.raises(pc.ParameterError, match="'sdpa' only, this module has 'flex'"):
        backbones.bd3lm(module, vocab_size=11)


def test_sedd_scores_are_probabilities_up_to_one_factor() -> None:
    module, tokens = stand_ins.SEDD(), rows(11)
    tokens[1, 2:] = 11
    backbone = backbones.sedd(module, vocab_size=11)
    found = backbone.log_marginals(tokens)
    sigma = -torch.log1p(-(tokens == 11).float().mean(1))
    torch.testing.assert_close(module.sigma, sigma)
    scores = module(tokens, sigma)[..., :11].exp()
    total = scores.sum(-1, keepdim=True)
    masked = tokens == 11
    torch.testing.assert_close(found.exp()[masked], (scores / total)[masked])
    assert not hasattr(backbone, "hidden")


def test_sedd_without_a_mask_is_finite() -> None:
    backbone = backbones.sedd(stand_ins.SEDD(), vocab_size=11)
    assert backbone.log_marginals(torch.full((2, 4), 5)).isfinite().all()


@pytest.mark.parametrize("family", ["bert", "roberta", "esm", "modernbert"])
def test_masked_lm_equals_its_module(family: str, folders: dict[str, Path]) -> None:
    backbone, tokens = load_backbone(folders[family]), rows()
    logits = backbone.module(tokens).logits
    never = [*range(4), *range(24, 30)] if family == "esm" else [0, MASK]
    torch.testing.assert_close(backbone.log_marginals(tokens), log_softmax(logits, native.VOCAB, *never))


def test_modernbert_is_cut_to_the_tokenizer(folders: dict[str, Path]) -> None:
    backbone = load_backbone(folders["modernbert"])
    assert (backbone.width, backbone.vocab_size) == (native.VOCAB + 2, native.VOCAB)


@pytest.mark.parametrize("padding", [0, 2])
def test_esm_refuses_a_row_of_nothing_but_masks(folders: dict[str, Path], padding: int) -> None:
    backbone, tokens = load_backbone(folders["esm"]), rows()
    tokens[2] = MASK
    valid = torch.arange(LENGTH).expand(3, LENGTH) >= padding
    with pytest.raises(pc.DataError, match=r"rows \[2\] hold nothing but masks.*keep <cls> and <eos>"):
        backbone.log_marginals(tokens, valid=valid)


def test_esm_predicts_amino_acids_unless_told_otherwise(folders: dict[str, Path]) -> None:
    predicted = (load_backbone(folders["esm"]).log_marginals(rows())[0, 0] > -torch.inf).nonzero().flatten()
    assert predicted.tolist() == list(range(4, 24))
    some = load_backbone(folders["esm"], allowed=[5, 7]).log_marginals(rows())[0, 0]
    assert (some > -torch.inf).nonzero().flatten().tolist() == [5, 7]


def test_diffusion_gemma_equals_its_module_on_noise(folders: dict[str, Path]) -> None:
    backbone, tokens = load_backbone(folders["diffusion_gemma"]), rows(native.VOCAB)
    tokens[0, 6] = 7
    seen: list[torch.Tensor] = []
    backbone.module.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["decoder_input_ids"]), with_kwargs=True
    )
    found = backbone.log_marginals(tokens)
    canvas = seen[0]
    assert canvas.max() < native.VOCAB and canvas[0, 1] == 7 and torch.equal(canvas[1], canvas[2])
    logits = backbone.module(input_ids=tokens[:, :PROMPT], decoder_input_ids=canvas).logits
    torch.testing.assert_close(found[:, PROMPT:], logits.log_softmax(-1))
    torch.testing.assert_close(found[:, :PROMPT].exp(), torch.full((3, PROMPT, native.VOCAB), 1 / native.VOCAB))


def test_diffusion_gemma_sees_fresh_noise_after_every_commit(folders: dict[str, Path]) -> None:
    backbone = load_backbone(folders["diffusion_gemma"], seed=3)
    assert len({tuple(row) for row in backbone._noise.tolist()}) == 5
    assert not torch.equal(backbone._noise, load_backbone(folders["diffusion_gemma"])._noise)


def test_diffusion_gemma_canvas_can_be_shorter(folders: dict[str, Path]) -> None:
    tokens = rows(native.VOCAB)
    tokens[:, PROMPT : PROMPT + 2] = 5
    backbone = load_backbone(folders["diffusion_gemma"], canvas_length=2)
    assert backbone.log_marginals(tokens, span=slice(7, 9)).shape == (3, 2, native.VOCAB)


def test_diffusion_gemma_refuses_rows_without_a_prompt(folders: dict[str, Path]) -> None:
    with pytest.raises(pc.ShapeError, match="4 tokens leave no prompt before a canvas of 4"):
        load_backbone(folders["diffusion_gemma"]).log_marginals(rows(native.VOCAB)[:, PROMPT:])


@pytest.mark.parametrize(
    ("opened", "padding", "message"),
    [
        (slice(4, 9), slice(0, 0), "outside the canvas, the last 4"),
        (slice(5, 9), slice(0, 5), "an empty prompt"),
        (slice(5, 9), slice(6, 7), "padding inside it"),
    ],
)
def test_diffusion_gemma_refuses(folders: dict[str, Path], opened: slice, padding: slice, message: str) -> None:
    tokens, valid = rows(native.VOCAB), torch.ones(3, LENGTH, dtype=torch.bool)
    tokens[1, opened], valid[1, padding] = native.VOCAB, False
    with pytest.raises(pc.DataError, match=rf"rows \[1\].*{message}"):
        load_backbone(folders["diffusion_gemma"]).log_marginals(tokens, valid=valid)


def test_guidance_is_upstreams_formula() -> None:
    module, tokens = stand_ins.LLaDA(), rows()
    masked = tokens.clone()
    masked[:, :2] = MASK
    with_prompt, without = (module(t, use_cache=False).logits for t in (tokens, masked))
    expected = log_softmax(without + (1.5 + 1) * (with_prompt - without), 10, MASK)
    guided = Guided(backbones.llada(module, **INSIDE), scale=1.5, prompt_length=2)
    torch.testing.assert_close(guided.log_marginals(tokens), expected)


def test_guidance_of_zero_is_the_backbone() -> None:
    inner = backbones.llada(stand_ins.LLaDA(), **INSIDE)
    guided = Guided(inner, scale=0.0, prompt_length=2)
    assert torch.equal(guided.log_marginals(rows()), inner.log_marginals(rows()))


def test_guidance_keeps_the_tokens_that_it_is_told_to() -> None:
    tokens = rows()
    tokens[:, 0] = 9
    inner = backbones.dream(stand_ins.Dream(), **INSIDE)
    with pytest.raises(pc.DataError, match="begin with a mask"):
        Guided(inner, scale=1.0, prompt_length=2).log_marginals(tokens)
    assert Guided(inner, scale=1.0, prompt_length=2, keep=[9]).log_marginals(tokens).shape == (3, LENGTH, 10)


def test_guidance_refuses_a_token_that_only_the_prompt_allows() -> None:
    def logits(tokens: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(*tokens.shape, 12)
        scores[..., 5] = torch.where(tokens[:, :1] == MASK, -torch.inf, 0.0)
        return scores

    guided = Guided(ModuleBackbone(logits, 12, MASK), scale=1.0, prompt_length=1)
    with pytest.raises(pc.EvidenceError, match=r"rows \[0, 1, 2\].*without the prompt"):
        guided.log_marginals(rows())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0, "prompt_length": 1}, "`scale` must be finite and at least 0"),
        ({"scale": 1.0, "prompt_length": 0}, "`prompt_length`"),
    ],
)
def test_guidance_refuses(options: dict, message: str) -> None:
    with pytest.raises(pc.ParameterError, match=message):
        Guided(ModuleBackbone(stand_ins.Function(), 12, MASK), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 13, "mask_id": 3, "columns": 12}, r"`vocab_size` must be in 1..12"),
        ({"vocab_size": 4, "mask_id": -1}, "`mask_id` -1"),
        ({"vocab_size": 4, "mask_id": 4, "forbidden": [4]}, "`forbidden`"),
        ({"vocab_size": 2, "mask_id": 1, "forbidden": [0]}, "leaves no token"),
    ],
)
def test_module_backbone_refuses(options: dict, message: str) -> None:
    with pytest.raises(pc.ParameterError, match=message):
        ModuleBackbone(stand_ins.Function(), **options)


def test_logits_of_another_width_are_refused() -> None:
    with pytest.raises(pc.ShapeError, match=r"shape \(3, 9, 12\), expected \(3, 9, 10\)"):
        ModuleBackbone(stand_ins.Function(), 10, MASK).log_marginals(rows())


def test_longer_rows_than_the_model_has_positions_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(pc.ShapeError, match="21 tokens exceed this backbone's `max_length` of 20"):
        load_backbone(folders["bert"]).log_marginals(torch.full((1, 21), 5))


def test_rows_padded_on_the_right_are_told_apart_too() -> None:
    backbone, tokens = ModuleBackbone(stand_ins.Function(), 12, MASK), rows()
    valid = torch.arange(LENGTH).expand(3, LENGTH) < torch.tensor([[9], [7], [9]])
    found = backbone.log_marginals(tokens, valid=valid)
    torch.testing.assert_close(found[1:2, :7], backbone.log_marginals(tokens[1:2, :7]))


def test_the_documented_backbone_runs(capsys: pytest.CaptureFixture) -> None:
    page = (Path(__file__).parents[3] / "docs" / "backbones.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page.split("## Write your own")[1], re.DOTALL)
    exec(code, {"__name__": "docs"})
    assert capsys.readouterr().out == "torch.Size([1, 1, 100])\n"
