"""The demo from one end to the other, on a tiny backbone that was never trained."""

import json
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion import corpus, evaluate, plot
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig
from pcircuits_diffusion.corpus import Document, Windows
from pcircuits_diffusion.demo import __main__ as demo
from pcircuits_diffusion.demo import words
from pcircuits_diffusion.demo.parts import Parts, held_out_windows
from pcircuits_diffusion.head import CoupledHead

DOCUMENTS = [Document(f"module{i}", "def first(x): return the first item of x, or None. " * 8) for i in range(5)]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(corpus, "python_docs", lambda split: DOCUMENTS)
    tokenizer = corpus.train_tokenizer([d.text for d in DOCUMENTS], vocab_size=270)
    config = TransformerConfig(
        vocab_size=tokenizer.get_vocab_size(), dim=8, num_layers=1, num_heads=2, max_length=12, block_length=8, eos_id=0
    )
    MaskedTransformer(config).save(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return demo.load(tmp_path)


@pytest.fixture
def head(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> CoupledHead:
    head = CoupledHead(pc.HMM(3, parts.backbone.vocab_size, 8, seed=0).requires_grad_(False))
    monkeypatch.setattr(demo, "shipped_head", lambda parts: head)
    monkeypatch.setattr(demo, "SAMPLE_STEPS", (8, 2))
    return head


def test_prints_and_writes(parts: Parts, head: CoupledHead, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--documents", "3", "--out", str(tmp_path / "out")], folder=parts.folder)
    printed = capsys.readouterr().out
    for expected in ("6 windows of 3 documents", "gap closed", "of the one-step gap on this corpus", "batch 16"):
        assert expected in printed
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["mask_ratios"]["points"] == [1, 2, 4, 6, 7, 8] and found["steps"]["points"] == [1, 2, 4, 8]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"results.json", "mask_ratios.png", "steps.png"}


def test_train_fits_a_head(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pcircuits_diffusion.demo import fitting

    monkeypatch.setattr(fitting, "NUM_STATES", 3)
    fitted = fitting.fit_head(parts, seed=0)
    assert fitted.block_length == 8 and fitted.prior.num_units == 3 and fitted.coupling == "projected"


def test_windows_are_few_a_document(parts: Parts) -> None:
    windows = held_out_windows(parts, 4, generator=torch.Generator().manual_seed(0))
    assert isinstance(windows, Windows) and windows.document.bincount().tolist() == [2, 2, 2, 2]


def curves(sequential: float, factorised: float, coupled: float) -> evaluate.MaskRatioCurves:
    levels = {evaluate.SEQUENTIAL: sequential, evaluate.FACTORISED: factorised, "coupled": coupled, words.CONTROL: 4.0}
    nats = {name: torch.tensor([0.5, level]).double().view(1, 2, 1).expand(1, 2, 3) for name, level in levels.items()}
    nats = {name: values * torch.tensor([1.0, 4.0]).view(1, 2, 1) for name, values in nats.items()}
    return evaluate.MaskRatioCurves(8, (1, 4), (1, 4), nats, ("coupled",), torch.arange(3))


def test_words_claim_what_was_measured() -> None:
    bootstrap = evaluate.DocumentBootstrap(
        torch.arange(3), num_resamples=20, generator=torch.Generator().manual_seed(0)
    )
    found = curves(2.0, 3.0, 2.4)
    assert "closes 60% of the one-step gap" in words.shares(found, bootstrap, "coupled")
    assert "lacks" not in words.shares(found, bootstrap, "coupled")
    assert "adds what this small backbone lacks" in words.shares(curves(2.0, 3.0, 1.9), bootstrap, "coupled")
    assert "circuit alone 4.00, backbone alone in one step 3.00, both together 2.40" in words.controls(found, "coupled")
    assert "The circuit alone is the better" in words.controls(curves(2.0, 4.5, 2.4), "coupled")
    nats = {"one-step factorised": [3.0, 2.0, 1.0], "coupled": [2.0, 2.5, 1.0]}
    tensors = {name: torch.tensor(v).double().view(1, 3, 1).expand(1, 3, 3) for name, v in nats.items()}
    steps = evaluate.StepLikelihoods(4, (1, 2, 4), (4, 4, 4), tensors, ("coupled",), torch.arange(3))
    said = words.steps(steps, bootstrap, "coupled")
    assert "better at T = 1; worse at T = 2; not told apart at the others" in said
    assert len(plot.plot_mask_ratios(found, bootstrap, title="t", published={0.5: 0.6}).axes) == 2
