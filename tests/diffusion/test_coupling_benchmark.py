"""The coupling study's own parts: which heads are compared, and what hidden states are credited with."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import coupling, overhead, trained
from benchmarks.autoregressive_head import AutoregressiveHead
from pcircuits_diffusion import evaluate
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from tests.diffusion.tiny_models import LENGTH, VOCAB, hmm, transformer

WINDOWS = torch.randint(VOCAB, (6, 2 * LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def loaded(tmp_path: Path) -> trained.Trained:
    """A backbone, its head, and two trained heads in a folder."""
    backbone = transformer(VOCAB, LENGTH)
    for name, options in {"none": {}, "latent": {"hidden_size": 16, "modulation_options": {"blocks": 1}}}.items():
        torch.manual_seed(0)
        head = CoupledHead(hmm(), coupling="corrected", modulation=name, **options)
        if head.modulation is not None:
            torch.nn.init.normal_(head.modulation.contract.weight)
        CoupledDiffusion(backbone, head).save_pretrained(tmp_path / f"corrected-{name}")
    return trained.Trained(backbone, None, CoupledHead(hmm()))  # type: ignore[arg-type]


def test_hidden_states_are_credited_with_the_paired_difference(loaded: trained.Trained, tmp_path: Path) -> None:
    heads = coupling.all_heads(loaded, hmm(3), tmp_path)
    names = ["corrected-latent, trained", "corrected-none, trained"]
    assert next(iter(heads)) == "shipped head" and list(heads)[-2:] == names
    assert {"product", "corrected", "projected", "projected, 2 sweeps"} < set(heads)
    assert heads["product"].prior.num_units == 3 and heads["shipped head"] is loaded.head
    torch.manual_seed(0)
    control = AutoregressiveHead(LENGTH, VOCAB, 16, width=16)
    study = evaluate.study(
        loaded.backbone,
        heads,
        WINDOWS,
        torch.arange(6),
        block_length=LENGTH,
        controls={coupling.AUTOREGRESSIVE: control},
        setting=evaluate.Setting(num_orders=1, steps=()),
        generator=torch.Generator().manual_seed(0),
    )
    ratios = coupling._with_share(study).ratios
    assert coupling.AUTOREGRESSIVE in ratios.heads, "its share is reported"
    bootstrap = evaluate.DocumentBootstrap(torch.arange(6), generator=torch.Generator().manual_seed(0))
    (found,) = coupling.modulations(ratios, bootstrap).items()
    expected = [plain - new for new, plain in zip(*(ratios.mean(name) for name in names), strict=True)]
    assert found[0] == "corrected, latent" and [i.estimate for i in found[1]] == pytest.approx(expected)
    alone = [a - b for a, b in zip(ratios.mean(evaluate.FACTORISED), ratios.mean(coupling.AUTOREGRESSIVE), strict=True)]
    assert alone == pytest.approx([0.0] * len(alone), abs=1e-5), "a new control is the backbone"


def test_a_corpus_brings_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(trained, "load", asked.append)
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path)
    trained.add_corpus(parser)
    for arguments in ([], ["--corpus", "python_docs"], ["--weights", "elsewhere"]):
        trained.load_chosen(parser.parse_args(arguments))
    assert asked == [trained.FOLDER, trained.CORPORA["python_docs"].folder, Path("elsewhere")]


def test_the_cost_of_every_coupling_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(overhead, "BATCH_SIZES", (1,))
    overhead.main(["--reduced", "--repeats", "1", "--out", str(tmp_path)])
    heads = json.loads((tmp_path / "overhead_reduced.json").read_text())["results"]["heads"]
    assert {"shipped head", "product", "corrected", "projected"} < set(heads)
    assert all(row["head_ms"] > 0 and row["backbone_ms"] > 0 for (row,) in heads.values())
