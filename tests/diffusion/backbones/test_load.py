"""Which family a folder holds, and what is said where a folder does not fit."""

import builtins
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers.dynamic_module_utils
from huggingface_hub import errors

import pcircuits as pc
from pcircuits_diffusion import Backbone, CoupledDiffusion, CoupledHead, MaskedTransformer, load_backbone
from pcircuits_diffusion.backbones.load import FAMILIES
from tests.diffusion.backbones import native
from tests.diffusion.tiny_models import hmm, transformer

CODE = '''
import torch
from transformers import PretrainedConfig, PreTrainedModel


class TinyConfig(PretrainedConfig):
    model_type = "{family}"


class Tiny(PreTrainedModel):
    """Like the published ones: no `post_init`, and nothing else that one version of a loader may ask for."""

    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        assert getattr(config, "attn_backend", "sdpa") == "sdpa"
        self.embedding = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, input_ids, timesteps=None, **kwargs):
        return type("Output", (), {{"logits": self.embedding(input_ids)}})
'''


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    """BERT, to be spoilt."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "bert"))


@pytest.fixture(autouse=True)
def _modules_in_a_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")


def change_config(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def save_with_code(folder: Path, family: str, auto: str, **config: Any) -> torch.Tensor:
    """A model with its own Python file; returns its weights."""
    (folder / "modeling_tiny.py").write_text(CODE.format(family=family))
    names = {"AutoConfig": "modeling_tiny.TinyConfig", auto: "modeling_tiny.Tiny"}
    entries = {"model_type": family, "auto_map": names, "vocab_size": 12, "transformers_version": "4.46.2", **config}
    (folder / "config.json").write_text(json.dumps(entries))
    weight = torch.randn(12, 12)
    safetensors.torch.save_file({"embedding.weight": weight}, folder / "model.safetensors", {"format": "pt"})
    return weight


WITH_CODE = {
    "llada": ("AutoModel", {"mask_token_id": 3}, 12, 3),
    "Dream": ("AutoModel", {"mask_token_id": 4}, 12, 4),
    "mdlm": ("AutoModelForMaskedLM", {}, 11, 11),
    "bd3lm": ("AutoModelForMaskedLM", {"attn_backend": "flex"}, 11, 11),
}


@pytest.mark.parametrize("family", WITH_CODE)
def test_models_with_code_of_their_own(family: str, tmp_path: Path) -> None:
    auto, config, vocab_size, mask_id = WITH_CODE[family]
    weight = save_with_code(tmp_path, family, auto, **config)
    with pytest.raises(pc.ParameterError, match=r"Python code of its own.*trust_remote_code=True"):
        load_backbone(tmp_path)
    backbone = load_backbone(tmp_path, trust_remote_code=True)
    assert (backbone.vocab_size, backbone.mask_id) == (vocab_size, mask_id)
    tokens = torch.tensor([[5, 6, 7]])
    logits = weight[tokens][:, :2] if family == "Dream" else weight[tokens][:, 1:]
    if mask_id < 12 and vocab_size == 12:
        logits[..., mask_id] = -torch.inf
    expected = logits[..., :vocab_size].log_softmax(-1)
    torch.testing.assert_close(backbone.log_marginals(tokens, span=slice(1, 3)), expected)


def test_code_that_fails_says_which_version_it_is_for(tmp_path: Path) -> None:
    save_with_code(tmp_path, "llada", "AutoModel")
    path = tmp_path / "modeling_tiny.py"
    path.write_text(path.read_text().replace("super().__init__(config)", "raise KeyError('default')"))
    with pytest.raises(
        pc.FormatError, match=r"fails under transformers .* written by 4\.46\.2\): KeyError\('default'\)"
    ):
        load_backbone(tmp_path, trust_remote_code=True)


def test_code_whose_weights_do_not_fit(tmp_path: Path) -> None:
    save_with_code(tmp_path, "llada", "AutoModel")
    safetensors.torch.save_file({"embedding.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(pc.FormatError, match="does not fit the model"):
        load_backbone(tmp_path, trust_remote_code=True)
    safetensors.torch.save_file({"other": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(pc.FormatError, match=r"lack 1 of the model's weights, such as embedding\.weight"):
        load_backbone(tmp_path, trust_remote_code=True)


def test_dtype_of_a_model_with_code(tmp_path: Path) -> None:
    save_with_code(tmp_path, "llada", "AutoModel", mask_token_id=3)
    backbone = load_backbone(tmp_path, trust_remote_code=True, dtype=torch.bfloat16)
    assert backbone.module.embedding.weight.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32
    assert backbone.log_marginals(torch.tensor([[5, 6]])).dtype == torch.float32


@pytest.mark.parametrize("name", [*native.CONFIGS, "diffusion_gemma"])
def test_native_models_are_frozen(folders: dict[str, Path], name: str) -> None:
    backbone = load_backbone(folders[name])
    assert isinstance(backbone, Backbone) and backbone.name_or_path == str(folders[name])
    assert not backbone.module.training and not any(p.requires_grad for p in backbone.module.parameters())
    assert backbone.max_length == (19 if name in ("roberta", "esm") else 20)


def test_dtype_and_device(folders: dict[str, Path]) -> None:
    backbone = load_backbone(folders["bert"], dtype=torch.bfloat16, device="cpu")
    assert backbone.module.dtype == torch.bfloat16
    assert backbone.log_marginals(torch.tensor([[5, 3, 6]])).dtype == torch.float32


def test_our_own_transformer(tmp_path: Path) -> None:
    model = transformer()
    model.save(tmp_path)
    backbone = load_backbone(str(tmp_path))
    assert isinstance(backbone, MaskedTransformer) and backbone.config == model.config
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(model.config), "dim": 8}))
    with pytest.raises(pc.FormatError, match="does not hold a saved MaskedTransformer"):
        load_backbone(tmp_path)


def test_a_head_can_be_saved_with_the_backbones_name(folders: dict[str, Path], tmp_path: Path) -> None:
    head = CoupledHead(hmm(vocab=native.VOCAB))
    CoupledDiffusion(load_backbone(folders["bert"]), head).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "head.json").read_text())["backbone"]["name"] == str(folders["bert"])


def test_generation_with_a_padded_batch(folders: dict[str, Path]) -> None:
    model = CoupledDiffusion(load_backbone(folders["modernbert"]))
    options = {"max_new_tokens": 4, "steps": 4, "block_length": 4, "temperature": 0.0}
    both = model.generate([[1, 5, 6, 7], [1, 8]], **options, seeds=[0, 1])
    alone = model.generate([[1, 8]], **options, seeds=[1])
    assert torch.equal(both.tokens[1], alone.tokens[0])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(pc.FormatError, match=name.removeprefix("model")):
        load_backbone(copy)


def test_pickled_weights_are_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(pc.FormatError, match=r"pickle files .* never opened"):
        load_backbone(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"[]", "holds list, expected an object"),
        ("config.json", b'{"model_type": "gpt2"}', "type 'gpt2'; known are llada, Dream"),
        ("model.safetensors", b"broken", "cannot be read"),
        ("tokenizer.json", b"{", "the tokenizer in .* cannot be read"),
    ],
)
def test_broken_files(copy: Path, name: str, content: bytes, message: str) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(pc.FormatError, match=message):
        load_backbone(copy)


def test_missing_weights_are_not_made_up(copy: Path) -> None:
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    safetensors.torch.save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(pc.FormatError, match=r"lack 1 of the model's weights, such as bert\.encoder\.layer\.1\.output"):
        load_backbone(copy)


def test_a_version_that_does_not_know_the_model(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    later = dataclasses.replace(FAMILIES["diffusion_gemma"], auto="ModelOfTomorrow")
    monkeypatch.setitem(FAMILIES, "diffusion_gemma", later)
    with pytest.raises(pc.FormatError, match=r"has no ModelOfTomorrow; .* needs a later one"):
        load_backbone(folders["diffusion_gemma"])


def test_no_mask_token(tmp_path: Path) -> None:
    native.save_masked_lm("bert", tmp_path, tokenizer=False)
    with pytest.raises(
        pc.ParameterError, match="neither configuration nor tokenizer names a mask token; give `mask_id`"
    ):
        load_backbone(tmp_path)
    assert load_backbone(tmp_path, mask_id=3).mask_id == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 31}, "`vocab_size` has 31 tokens, the model predicts 30"),
        ({"mask_id": 30}, r"the mask token is 30, the model knows 0\.\.29"),
    ],
)
def test_options_that_do_not_fit(folders: dict[str, Path], options: dict, message: str) -> None:
    with pytest.raises(pc.ShapeError, match=f"vocabularies do not fit: {message}"):
        load_backbone(folders["bert"], **options)


def test_a_tokenizer_larger_than_the_model(copy: Path) -> None:
    native.save_tokenizer(copy, native.VOCAB + 1)
    with pytest.raises(pc.ShapeError, match="the tokenizer has 31 tokens, the model predicts 30"):
        load_backbone(copy)


def test_a_mask_that_is_the_last_column_leaves_no_choice(tmp_path: Path) -> None:
    save_with_code(tmp_path, "mdlm", "AutoModelForMaskedLM")
    with pytest.raises(pc.ShapeError, match="the mask is the last of 12 columns, got 9 tokens"):
        load_backbone(tmp_path, trust_remote_code=True, vocab_size=9)


def test_a_folder_has_no_revisions(folders: dict[str, Path]) -> None:
    with pytest.raises(pc.ParameterError, match=r"`revision` 'main' was given, but .* is a folder"):
        load_backbone(folders["bert"], revision="main")


class Answer:
    """What the hub's errors are made from."""

    headers: dict = {}  # noqa: RUF012
    request = None


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (errors.RevisionNotFoundError, "'a/b' has no `revision` 'v9' on the hub"),
        (errors.RepositoryNotFoundError, "'a/b' is neither a folder nor a repository .*revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch, raised: type, message: str) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise raised("no", response=Answer())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(pc.ParameterError, match=message):
        load_backbone("a/b", revision="v9")


def test_a_snapshot_of_the_hub(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(folders["bert"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_backbone("a/b", revision="v1").name_or_path == "a/b" and asked == [("a/b", "v1")]


def test_without_transformers(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "transformers":
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs transformers: pip install 'pcircuits\[transformers\]'"):
        load_backbone(folders["bert"])
