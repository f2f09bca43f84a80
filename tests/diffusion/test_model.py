"""`CoupledDiffusion`: what it returns, and a head's way to disk and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion.backbone import CallableBackbone
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import LENGTH, MASK, VOCAB, hmm, table_backbone, transformer

OPTIONS = {"max_new_tokens": 8, "steps": 4, "eos_id": 0}


@pytest.fixture
def model() -> CoupledDiffusion:
    head = CoupledHead(hmm(), coupling="corrected", sweeps=2, sharpen=0.7, gamma=0.9, learn_exponents=True)
    with torch.no_grad():
        head.exponents.copy_(torch.tensor([[0.8], [0.6]]))
    return CoupledDiffusion(table_backbone(), head)


def test_generated_tokens_are_as_wide_as_the_longest_row(model: CoupledDiffusion) -> None:
    found = model.generate([[1], [2], [0], [2]], seeds=[1, 2, 3, 4], **OPTIONS)
    assert found.tokens.shape == (4, int(found.lengths.max()))
    for row, length, tokens in zip(found.rows, found.lengths.tolist(), found.tokens, strict=True):
        assert len(row) == length and not (row == 0).any() and (tokens[length:] == 0).all()
    without_end = model.generate([[1], [2]], seeds=[1, 2], **{**OPTIONS, "eos_id": None})
    assert without_end.tokens.shape == (2, 8) and without_end.lengths.tolist() == [8, 8]


def test_all_prompt_shapes_agree(model: CoupledDiffusion) -> None:
    forms = [[1, 2], [[1, 2]], torch.tensor([1, 2]), torch.tensor([[1, 2]]), [torch.tensor([1, 2])]]
    rows = [model.generate(form, seeds=[7], **OPTIONS).tokens for form in forms]
    assert all(row.equal(rows[0]) for row in rows)


def test_the_generator_decides(model: CoupledDiffusion) -> None:
    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(torch.zeros(50, 1, dtype=torch.long), generator=generator, **OPTIONS).tokens

    assert draw(1).equal(draw(1)) and not draw(1).equal(draw(2))


def test_generation_leaves_gradients_and_arguments_alone(model: CoupledDiffusion) -> None:
    prompt = torch.tensor([[1, 2]])
    assert not model.generate(prompt, **OPTIONS).tokens.requires_grad and torch.is_grad_enabled()
    assert prompt.equal(torch.tensor([[1, 2]]))


def test_a_head_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(pc.ShapeError, match="the head has 5 tokens, the backbone 3"):
        CoupledDiffusion(table_backbone(), CoupledHead(hmm(2, 5)))


def test_a_mask_inside_the_vocabulary_is_never_generated() -> None:
    inside = CallableBackbone(lambda tokens: torch.zeros(*tokens.shape, VOCAB), VOCAB, mask_id=1)
    for head in (None, CoupledHead(hmm()), CoupledHead(hmm(), coupling="product")):
        found = CoupledDiffusion(inside, head).generate(
            torch.zeros(20, 1, dtype=torch.long), block_length=LENGTH, generator=torch.Generator().manual_seed(0),
            max_new_tokens=8, steps=5,
        )  # fmt: skip
        assert not (found.tokens == 1).any()


# --- files ---


def test_a_head_comes_back_as_it_was(model: CoupledDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, backbone_name="tiny/table")
    again = CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone())
    assert model.head is not None and again.head is not None
    assert again.head.options == model.head.options
    assert again.head.exponents.equal(model.head.exponents) and again.head.exponents.requires_grad
    assert again.generate([1], seeds=[3], **OPTIONS).tokens.equal(model.generate([1], seeds=[3], **OPTIONS).tokens)
    assert json.loads((tmp_path / "head.json").read_text())["backbone"] == {
        "name": "tiny/table", "vocab_size": VOCAB, "mask_id": MASK, "revision": None,
    }  # fmt: skip
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}, "no pickle, no backbone, no temporary file"


def test_saving_again_replaces(model: CoupledDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = CoupledDiffusion(table_backbone(), CoupledHead(hmm(3), coupling="product"))
    other.save_pretrained(tmp_path)
    again = CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone())
    assert again.head is not None and again.head.coupling == "product" and again.head.prior.num_units == 3
    assert json.loads((tmp_path / "head.json").read_text())["backbone"]["name"] == "CallableBackbone"


def test_without_a_head_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(pc.ParameterError, match="no head to save"):
        CoupledDiffusion(table_backbone()).save_pretrained(tmp_path)


def test_another_backbone_is_refused(model: CoupledDiffusion, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(pc.ShapeError, match=r"vocab_size 3.*this backbone has 7"):
        CoupledDiffusion.from_pretrained(tmp_path, backbone=transformer())
    with pytest.raises(pc.ShapeError, match=r"mask_id 3.*this backbone has 0"):
        inside = CallableBackbone(table_backbone().fn, VOCAB, mask_id=0)
        CoupledDiffusion.from_pretrained(tmp_path, backbone=inside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "describes 'other'"),
        ({"version": 99}, "version 99.*upgrade"),
        ({"options": None}, "lacks options"),
        ({"options": {"coupling": "magic"}}, "does not describe a head.*magic"),
        ({"options": {"depth": 3}}, "does not describe a head.*depth"),
        ({"backbone": {"name": "x"}}, "does not describe a head"),
        ({"sha256": {"head.safetensors": "0" * 64, "prior/circuit.json": "0" * 64}}, "head.safetensors"),
    ],
)
def test_a_wrong_description_is_refused(
    model: CoupledDiffusion, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "head.json"
    config = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    with pytest.raises(pc.FormatError, match=message):
        CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone())


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{", b'"text"'])
def test_missing_and_spoilt_files_are_refused(
    model: CoupledDiffusion, tmp_path: Path, name: str, content: bytes | None
) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(pc.FormatError, match=name):
        CoupledDiffusion.from_pretrained(tmp_path, backbone=table_backbone())
