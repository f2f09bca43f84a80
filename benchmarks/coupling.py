"""Likelihoods of held-out GSM8K under every coupling: `python -m benchmarks.coupling [--reduced]`.

The backbone and head of `benchmarks/weights` on windows of test problems and solutions: perplexity against the mask
ratio, the share of the gap closed beside the paper's, the controls, and the likelihood of sampling in T steps.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import gsm8k, record, trained
from pcircuits_diffusion import corpus, evaluate, plot
from pcircuits_diffusion.coupling import COUPLINGS
from pcircuits_diffusion.evaluate import tables
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

PAPER = {0.1: 0.49, 0.3: 0.64, 0.5: 0.73, 0.7: 0.70, 0.9: 0.28}
"""Shares of the log-perplexity gap closed, LLaDA-8B on MathInstruct (Li et al. 2026, read off Fig. 1)."""
SHIPPED = "shipped head"


def all_heads(loaded: trained.Trained, folder: Path | None) -> dict[str, CoupledHead]:
    """The shipped head; every other coupling of its prior, with nothing but the prior trained; and the trained heads of
    a folder (see `benchmarks.train_couplings`).
    """
    shipped = loaded.head
    others = {name: CoupledHead(shipped.prior, coupling=name) for name in COUPLINGS}
    others["projected, 2 sweeps"] = CoupledHead(shipped.prior, sweeps=2)
    heads = {SHIPPED: shipped, **{name: head for name, head in others.items() if not _same(head, shipped)}}
    for path in sorted(folder.glob("*/head.json")) if folder else ():
        found = CoupledDiffusion.from_pretrained(path.parent, backbone=loaded.backbone).head
        assert isinstance(found, CoupledHead)
        heads[f"{path.parent.name}, trained"] = found
    return heads


def _same(head: CoupledHead, other: CoupledHead) -> bool:
    """Whether two heads on one prior are one distribution."""
    return repr(head) == repr(other) and torch.equal(head.exponents, other.exponents)


def measure(loaded: trained.Trained, options: argparse.Namespace) -> tuple[evaluate.Study, evaluate.DocumentBootstrap]:
    """Scores windows of the test documents."""
    generator = torch.Generator().manual_seed(options.seed)
    documents = corpus.encode(loaded.tokenizer, gsm8k.load("test"))
    windows = corpus.windows(documents, loaded.window_length, count=options.windows, generator=generator)
    frequencies = trained.token_counts(loaded.tokenizer, gsm8k.load("train"))
    study = evaluate.study(
        loaded.backbone,
        all_heads(loaded, options.heads),
        windows.tokens,
        windows.document,
        block_length=loaded.block_length,
        controls={"HMM alone": evaluate.prior_alone(loaded.head.prior), "unigram": evaluate.unigram(frequencies)},
        setting=evaluate.Setting(num_orders=options.orders, progress=True),
        generator=generator,
    )
    return study, evaluate.DocumentBootstrap(windows.document, generator=generator)


def show(study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap) -> None:
    ratios, steps = study
    published = ", ".join(f"{ratio:.0%}: {share:.0%}" for ratio, share in PAPER.items())
    sections = {
        "Perplexity of the masked tokens": tables.ratio_table(ratios, bootstrap),
        "Share of the gap closed, in nats, 95% intervals": tables.share_table(ratios, bootstrap),
        "The same in the paper, for another backbone and corpus": published,
        "Nats a masked token saved over the backbone's single step, paired": tables.gain_table(ratios, bootstrap),
        "The sequential reference in each order": tables.order_table(ratios),
        "Sampling in T steps, nats a token": tables.step_table(steps, bootstrap),
        "Saved over the backbone alone in as many steps, paired": tables.gain_table(steps, bootstrap),
    }
    print(f"{len(ratios.documents)} windows of {bootstrap.num_documents} GSM8K test documents")
    for title, text in sections.items():
        print(f"\n{title}\n{text}")


def results(
    study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap, loaded: trained.Trained, options: argparse.Namespace
) -> dict[str, Any]:
    head = loaded.head
    return {
        "corpus": "GSM8K test, problems and solutions",
        "reduced": options.reduced,
        "head": {"coupling": head.coupling, "sweeps": head.sweeps, "states": head.prior.num_units},
        "backbone_parameters": sum(p.numel() for p in loaded.backbone.parameters()),
        "paper_share_closed": {str(ratio): share for ratio, share in PAPER.items()},
        "mask_ratios": study.ratios.to_json(bootstrap),
        "steps": study.steps.to_json(bootstrap),
    }


def draw(study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap, folder: Path, pattern: str) -> None:
    """Two figures of the shipped head alone, so that they stay readable; the JSON has every coupling."""
    ratios, steps = study.ratios.only(SHIPPED), study.steps.only(SHIPPED)
    title = "GSM8K: what a coupled head recovers in one step"
    figure = plot.plot_mask_ratios(ratios, bootstrap, title=title, published=PAPER)
    figure.savefig(folder / pattern.format(""), dpi=150)
    figure = plot.plot_steps(steps, bootstrap, title="GSM8K: likelihood of sampling in few steps")
    figure.savefig(folder / pattern.format("_steps"), dpi=150)


def main(arguments: list[str] | None = None) -> None:
    parser = trained.parser(__doc__)
    parser.add_argument("--windows", type=int, default=None, help="default: 256, reduced 48")
    parser.add_argument("--heads", type=Path, help="a folder of trained heads to compare")
    parser.add_argument("--name", default="coupling", help="of the result's files")
    parser.add_argument("--orders", type=int, default=None, help="random orders a window; default: 2, reduced 1")
    options = parser.parse_args(arguments)
    options.windows = options.windows or (48 if options.reduced else 256)
    options.orders = options.orders or (1 if options.reduced else 2)
    loaded = trained.load(options.weights)
    study, bootstrap = measure(loaded, options)
    show(study, bootstrap)
    suffix = "_reduced" if options.reduced else ""
    found = results(study, bootstrap, loaded, options)
    path = record.write(f"{options.name}{suffix}", found, seed=options.seed, folder=options.out)
    draw(study, bootstrap, options.out, f"{options.name}{{}}{suffix}.png")
    print(f"wrote {path.name} and two figures to {path.parent.name}/")


if __name__ == "__main__":
    main()
