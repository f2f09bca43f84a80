"""A head's files: every option and tensor, versions, and saves that do not belong together."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.pretrained import BackboneInfo, load_head, save_head
from tests.diffusion.tiny_models import MASK, VOCAB, hmm

INFO = BackboneInfo("tiny/table", VOCAB, MASK, "abc123")
OTHER = {
    "coupling": "product",
    "sweeps": 3,
    "tolerance": 0.01,
    "sweep_tokens": 2,
    "top_k": 2,
    "token_map": [2, 0],
    "vocab_size": 5,
    "modulation": "parameter",
    "hidden_size": 5,
    "modulation_options": {"width": 4, "blocks": 2},
    "sharpen": 0.5,
    "gamma": 0.25,
    "learn_exponents": 3,
    "differentiate_weights": False,
}


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_option_of_the_constructor_comes_back(tmp_path: Path) -> None:
    default = CoupledHead(hmm())
    keywords = {name for name, p in inspect.signature(CoupledHead).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(OTHER) == keywords == set(default.options), "a new option belongs in OTHER, with another value"
    assert all(default.options[name] != value for name, value in OTHER.items())
    save_head(CoupledHead(hmm(), **OTHER), tmp_path, INFO)
    head, info = load_head(tmp_path)
    assert head.options == OTHER and info == INFO


def test_the_description_names_what_it_needs(tmp_path: Path) -> None:
    save_head(CoupledHead(hmm()), tmp_path, INFO)
    stored = json.loads((tmp_path / "head.json").read_text())
    assert stored["backbone"] == {"name": "tiny/table", "revision": "abc123", "vocab_size": VOCAB, "mask_id": MASK}
    assert stored["libraries"] == {"pcircuits": pc.__version__, "torch": torch.__version__}
    assert set(stored["sha256"]) == {"head.safetensors", "prior/circuit.json"} and stored["version"] == 1


def test_tensors_beside_the_priors_come_back(tmp_path: Path) -> None:
    options = {**OTHER, "coupling": "corrected"}
    save_head(CoupledHead(hmm(), **options), tmp_path, INFO)
    want = (tmp_path / "head.safetensors").read_bytes()
    save_head(load_head(tmp_path)[0], tmp_path / "again", INFO)
    assert (tmp_path / "again" / "head.safetensors").read_bytes() == want
    edit(tmp_path, options={**options, "learn_exponents": 2})
    with pytest.raises(pc.FormatError, match=r"head.safetensors holds .*\(2, 3\).* expected .*\(2, 2\)"):
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
