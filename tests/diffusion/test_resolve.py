"""Names to backbones, tokenizers and heads."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import pcircuits as pc
import pcircuits_diffusion as pcd
from pcircuits_diffusion.resolve import (
    EMBEDDED,
    Source,
    default_block,
    default_window,
    find_source,
    load_backbone,
    load_model,
    load_tokenizer,
    longest_input,
    saved_backbone,
)
from tests.diffusion.tiny_models import save_backbone, save_head, table_backbone

CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}model:{% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    backbone = save_backbone(tmp_path / "backbone")
    save_head(tmp_path / "backbone" / "head", backbone, backbone_name=str(tmp_path / "backbone"))
    return tmp_path / "backbone"


def test_the_head_beside_the_backbone_is_the_default(folder: Path) -> None:
    source = Source(str(folder))
    assert load_model(source).model.head is not None
    assert load_model(source, "none").model.head is None
    loaded = load_model(Source(EMBEDDED))
    assert loaded.model.head is not None and loaded.model.head.block_length == 32 and loaded.tokenizer.eos_id == 0


def test_a_head_names_its_backbone(folder: Path) -> None:
    head = folder / "head"
    assert find_source(None, str(head), device="cpu") == Source(str(folder), None, False, "cpu")
    assert find_source(None, None).name == find_source(None, "none").name == EMBEDDED
    assert find_source("other", str(head), "main", True).name == "other"
    config = json.loads((head / "head.json").read_text())
    config["backbone"]["revision"] = "abc"
    (head / "head.json").write_text(json.dumps(config))
    assert saved_backbone(str(head)) == Source(str(folder), "abc")
    assert find_source(None, str(head), "newer").revision == "newer"


def test_other_names_go_to_load_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def loader(name: str, **options: Any) -> pcd.CallableBackbone:
        asked.append((name, options))
        return table_backbone()

    monkeypatch.setattr(pcd, "load_backbone", loader, raising=False)
    load_backbone(Source("some/model", "abc", True, "cuda"))
    assert asked == [("some/model", {"revision": "abc", "trust_remote_code": True, "device": "cuda"})]
    monkeypatch.delattr(pcd, "load_backbone")
    with pytest.raises(pc.ParameterError, match="neither 'embedded' nor a folder"):
        load_backbone(Source("some/model"))


def test_tokenizers_of_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<eos>", chat_template=CHAT)
    fast.save_pretrained(folder)
    backbone = load_backbone(Source(str(folder)))
    found = load_tokenizer(Source(str(folder)), backbone)
    assert found.encode("3 and 4") == own.encode("3 and 4").ids and found.eos_id == 0
    assert found.decode([*found.encode("3 and 4"), 0]) == "3 and 4"
    assert found.chat is not None
    messages = [{"role": "user", "content": "hello"}]
    assert found.chat(messages) == "user: hello\nmodel:"
    assert found.chat(messages, add_generation_prompt=False) == "user: hello\n"
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(pc.ParameterError, match="install transformers"):
        load_tokenizer(Source(str(folder)), backbone)


def test_files_that_are_damaged(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(pc.FormatError, match="is not a tokenizer"):
        load_model(Source(str(folder)))
    (folder / "config.json").write_text('{"dim": 3}')
    with pytest.raises(pc.FormatError, match="does not hold a whole"):
        load_backbone(Source(str(folder)))


def test_lengths(folder: Path) -> None:
    backbone = load_backbone(Source(str(folder)))
    assert (longest_input(backbone), default_block(backbone), default_window(backbone, 8)) == (24, 8, 24)
    bare = table_backbone()
    assert (longest_input(bare), default_block(bare), default_window(bare, 8)) == (None, 32, 32)
