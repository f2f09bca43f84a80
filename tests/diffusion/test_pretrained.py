"""A head's files: every option and tensor, versions, and saves that do not belong together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pcircuits as pc
from pcircuits_diffusion import embedded, pretrained
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.pretrained import BackboneInfo, load_head, save_head
from tests.diffusion.tiny_models import MASK, VOCAB, hmm

INFO = BackboneInfo("tiny/table", VOCAB, MASK, "abc123")
OTHER = {"coupling": "product", "sweeps": 3, "sharpen": 0.5, "gamma": 0.25, "learn_exponents": True,
         "differentiate_marginals": False}  # fmt: skip


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_option_of_the_constructor_comes_back(tmp_path: Path) -> None:
    default = CoupledHead(hmm())
    assert set(OTHER) == set(pretrained.option_names()), "a new option belongs in OTHER, with another value"
    assert all(getattr(default, name) != value for name, value in OTHER.items())
    save_head(CoupledHead(hmm(), **OTHER), tmp_path, INFO)
    head, info = load_head(tmp_path)
    assert {name: getattr(head, name) for name in OTHER} == OTHER and info == INFO


def test_the_description_names_what_it_needs(tmp_path: Path) -> None:
    save_head(CoupledHead(hmm()), tmp_path, INFO)
    stored = json.loads((tmp_path / "head.json").read_text())
    assert stored["backbone"] == {"name": "tiny/table", "revision": "abc123", "vocab_size": VOCAB, "mask_id": MASK}
    assert stored["libraries"] == {"pcircuits": pc.__version__, "torch": torch.__version__}
    assert set(stored["sha256"]) == {"head.safetensors", "prior/circuit.json"} and stored["version"] == 2


class Modulated(CoupledHead):
    """An option and tensors that this package does not have."""

    def __init__(self, prior: pc.Circuit, *, rank: int = 2, **options: Any) -> None:
        super().__init__(prior, **options)
        self.rank, self.map = rank, nn.Linear(3, rank)
        self.register_buffer("scale", torch.ones(rank))


def test_tensors_beside_the_priors_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "CoupledHead", Modulated)
    monkeypatch.setattr(pretrained, "option_names", lambda: ["coupling", "rank"])
    save_head(Modulated(hmm(), rank=4, coupling="product"), tmp_path, INFO)
    want = (tmp_path / "head.safetensors").read_bytes()
    head, _ = load_head(tmp_path)
    assert isinstance(head, Modulated) and head.rank == 4
    save_head(head, tmp_path / "again", INFO)
    assert (tmp_path / "again" / "head.safetensors").read_bytes() == want
    edit(tmp_path, options={"coupling": "product", "rank": 3})
    with pytest.raises(pc.FormatError, match=r"head.safetensors holds .*\(4, 3\).* expected .*\(3, 3\)"):
        load_head(tmp_path)


def test_an_option_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    head = CoupledHead(hmm())
    for value in (object(), float("nan")):
        head.sharpen = value  # type: ignore[assignment]
        with pytest.raises(pc.ParameterError, match=r"head\.json cannot hold"):
            save_head(head, tmp_path / "new", INFO)
    assert not (tmp_path / "new").exists()


def test_files_of_two_saves_do_not_make_a_head(tmp_path: Path) -> None:
    """What an interruption between the files leaves."""
    save_head(CoupledHead(hmm()), tmp_path, INFO)
    pc.save(hmm(3), tmp_path / "prior")
    with pytest.raises(pc.FormatError, match="is not the prior that this head was saved with"):
        load_head(tmp_path)


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    save_head(CoupledHead(hmm(), learn_exponents=True), tmp_path, INFO)
    stored = json.loads((tmp_path / "head.json").read_text())
    options = {name: value for name, value in stored["options"].items() if name != "learn_exponents"}
    backbone = {name: value for name, value in stored["backbone"].items() if name != "revision"}
    old = {"version": 1, "options": options, "learn_exponents": True, "backbone": backbone}
    edit(tmp_path, **old, sha256=stored["sha256"]["head.safetensors"])
    head, info = load_head(tmp_path)
    assert head.learn_exponents and info == INFO._replace(revision=None)
    assert load_head(embedded.HEAD_FOLDER)[1].name == "python_docs"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version 0"),
        ({"version": True}, "version True"),
        ({"options": []}, "'options' is malformed"),
        ({"sha256": "0" * 64}, "'sha256' is malformed"),
        ({"sha256": {}}, "'sha256' is malformed"),
        ({"backbone": None}, "'backbone' is malformed"),
        ({"backbone": {"name": 3, "vocab_size": 3, "mask_id": 3}}, "'backbone' is"),
        ({"backbone": {"name": "x", "vocab_size": "3", "mask_id": 3}}, "'backbone' is"),
        ({"backbone": {"name": "x", "vocab_size": 3, "mask_id": 3, "revision": 1}}, "revision is 1"),
        ({"options": {"gamma": 7}}, "gamma"),
        ({"options": {"sharpen": "x"}}, "does not describe a head"),
    ],
)
def test_a_malformed_description_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save_head(CoupledHead(hmm()), tmp_path, INFO)
    edit(tmp_path, **change)
    with pytest.raises(pc.FormatError, match=message):
        load_head(tmp_path)


def test_a_missing_prior_is_refused(tmp_path: Path) -> None:
    save_head(CoupledHead(hmm()), tmp_path, INFO)
    (tmp_path / "prior" / "circuit.json").unlink()
    with pytest.raises(pc.FormatError, match=r"circuit\.json cannot be read"):
        load_head(tmp_path)
