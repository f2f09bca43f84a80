"""The recipe for LLaDA and Dream from one end to the other, on tiny models."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.reproduce import __main__ as reproduce
from benchmarks.reproduce import accuracy, data
from benchmarks.reproduce.setups import SETUPS
from pcircuits_diffusion.decoding import Settings

FIELDS = {field.name for field in dataclasses.fields(Settings)}


@pytest.fixture
def known_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setups without the settings that this version's decoding lacks."""
    for name, setup in SETUPS.items():
        settings = {key: value for key, value in setup.settings.items() if key in FIELDS}
        monkeypatch.setitem(SETUPS, name, dataclasses.replace(setup, settings=settings))


@pytest.mark.parametrize("name", SETUPS)
def test_dry_run(
    name: str, tmp_path: Path, known_settings: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = accuracy.outcomes

    def outcomes(model, task, limit):
        asked.append((model.model.head is not None, model.steps_per_block, model.max_gen_toks, model.settings))
        return original(model, task, limit)

    monkeypatch.setattr(accuracy, "outcomes", outcomes)
    reproduce.main([name, "--dry-run", "--out", str(tmp_path), "--limit", "2", "--steps", "4"])
    alone, coupled = asked
    assert (alone[0], coupled[0]) == (False, True) and alone[1:] == coupled[1:] and alone[1:3] == (2, 16)
    printed = capsys.readouterr().out
    for expected in ("gap closed", "GSM8K, 4", "paper: backbone", "s a sample, with the head"):
        assert expected in printed
    found = json.loads((tmp_path / f"reproduce_{name}_dry_run.json").read_text())["results"]
    assert found["accuracy"][0]["problems"] == 2 and found["overhead"]["samples"] == 2
    assert found["backbone"] == str(tmp_path / "backbone")
    likelihood = json.loads((tmp_path / "likelihood.json").read_text())
    assert likelihood["mask_ratios"]["block_length"] == 8
    written = (tmp_path / "head" / "head.json").stat().st_mtime_ns
    reproduce.main([name, "--dry-run", "--out", str(tmp_path), "--stages", "train"])
    assert (tmp_path / "head" / "head.json").stat().st_mtime_ns == written  # a head that is there is kept


def test_tables_are_the_paper_s() -> None:
    llada, dream = SETUPS["llada"].published, SETUPS["dream"].published
    assert (llada["MATH500"].coupled[256], llada["MBPP"].backbone[64]) == (41.0, 5.4)
    assert (dream["GSM8K"].coupled[128], dream["GPQA"].backbone[128]) == (67.0, 14.1)
    assert all(set(setup.published) == set(setup.tasks) for setup in SETUPS.values())


def test_steps_must_spread() -> None:
    with pytest.raises(ValueError, match="do not spread evenly over 16 blocks"):
        accuracy.models(SETUPS["llada"], None, 100, 0)  # type: ignore[arg-type]


def test_data_is_split_by_text(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "a"} for i in range(400)] * 2
    counts = data.write(rows, ("question", "answer"), tmp_path)
    texts = {name: (tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("train", "valid")}
    assert {name: len(lines) for name, lines in texts.items()} == counts and counts["train"] + counts["valid"] == 800
    assert counts["valid"] > 0 and not set(texts["train"]) & set(texts["valid"])
    assert json.loads(texts["train"][0])["text"].endswith("\na")


def test_data_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(["llada", "--out", str(tmp_path)])
