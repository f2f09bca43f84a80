"""Likelihoods of held-out text under every coupling: `python -m benchmarks.coupling [--reduced]`.

A backbone and its head (`benchmarks/weights` on GSM8K; `--corpus python_docs`: the embedded ones) on windows of test
documents: perplexity against the mask ratio, the share of the gap closed beside the paper's, what hidden states add,
the controls, and the likelihood of sampling in T steps.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from benchmarks import record, trained
from benchmarks.autoregressive_head import AutoregressiveHead
from pcircuits_diffusion import corpus, evaluate, plot
from pcircuits_diffusion.coupling import COUPLINGS
from pcircuits_diffusion.evaluate import tables
from pcircuits_diffusion.evaluate.rules import Rule
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

PAPER = {0.1: 0.49, 0.3: 0.64, 0.5: 0.73, 0.7: 0.70, 0.9: 0.28}
"""Shares of the log-perplexity gap closed, LLaDA-8B on MathInstruct (Li et al. 2026, read off Fig. 1)."""
SHIPPED, TRAINED, AUTOREGRESSIVE = "shipped head", ", trained", "autoregressive"


def all_heads(loaded: trained.Trained, prior: pc.Circuit, folder: Path | None) -> dict[str, CoupledHead]:
    """The shipped head; every coupling of `prior` with nothing trained but that; and the trained heads of a folder (see
    `benchmarks.train_couplings`).
    """
    untrained = {name: CoupledHead(prior, coupling=name) for name in COUPLINGS}
    untrained["projected, 2 sweeps"] = CoupledHead(prior, sweeps=2)
    untrained["projected, 64 tokens"] = CoupledHead(prior, sweep_tokens=64)
    heads = {SHIPPED: loaded.head, **untrained}
    for path in sorted(folder.glob("*/head.json")) if folder else ():
        found = CoupledDiffusion.from_pretrained(path.parent, backbone=loaded.backbone).head
        assert isinstance(found, CoupledHead)
        heads[f"{path.parent.name}{TRAINED}"] = found
    return heads


def measure(loaded: trained.Trained, options: argparse.Namespace) -> tuple[evaluate.Study, evaluate.DocumentBootstrap]:
    """Scores windows of the test documents."""
    generator = torch.Generator().manual_seed(options.seed)
    text = trained.CORPORA[options.corpus]
    documents = corpus.encode(loaded.tokenizer, text.load("test"))
    windows = corpus.windows(documents, loaded.window_length, count=options.windows, generator=generator)
    prior = pc.load(options.prior) if options.prior else loaded.head.prior
    heads = all_heads(loaded, prior, options.heads)
    if unknown := set(options.only or ()) - set(heads):
        raise SystemExit(f"--only {sorted(unknown)}: the heads are {list(heads)}")
    controls: dict[str, Rule] = {
        "HMM alone": evaluate.prior_alone(prior),
        "unigram": evaluate.unigram(trained.token_counts(loaded.tokenizer, text.load("train"))),
    }
    if options.autoregressive:
        controls[AUTOREGRESSIVE] = AutoregressiveHead.load(options.autoregressive)
    study = evaluate.study(
        loaded.backbone,
        {name: head for name, head in heads.items() if not options.only or name in options.only},
        windows.tokens,
        windows.document,
        block_length=loaded.block_length,
        controls=controls,
        setting=evaluate.Setting(steps=() if options.no_steps else None, num_orders=options.orders, progress=True),
        generator=generator,
    )
    return _with_share(study), evaluate.DocumentBootstrap(windows.document, generator=generator)


def _with_share(study: evaluate.Study) -> evaluate.Study:
    """The autoregressive control's share of the gap is reported, too."""
    shown = (*study.ratios.heads, *({AUTOREGRESSIVE} & set(study.ratios.names)))
    return study._replace(ratios=dataclasses.replace(study.ratios, heads=shown))


def modulations(
    ratios: evaluate.MaskRatioCurves, bootstrap: evaluate.DocumentBootstrap
) -> dict[str, list[evaluate.Interval]]:
    """Nats a masked token that each trained modulation saves over its coupling trained without one, paired."""
    found = {}
    for name in ratios.heads:
        coupling, _, modulation = name.removesuffix(TRAINED).partition("-")
        plain = f"{coupling}-none{TRAINED}"
        if name.endswith(TRAINED) and modulation != "none" and plain in ratios.heads:
            found[f"{coupling}, {modulation}"] = ratios.gain(name, bootstrap, over=plain)
    return found


def show(study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap, corpus_title: str) -> None:
    ratios, steps = study
    gains = modulations(ratios, bootstrap)
    published = ", ".join(f"{ratio:.0%}: {share:.0%}" for ratio, share in PAPER.items())
    sections = {
        "Perplexity of the masked tokens": tables.ratio_table(ratios, bootstrap),
        "Share of the gap closed, in nats, 95% intervals": tables.share_table(ratios, bootstrap),
        "The same in the paper, for another backbone and corpus": published,
        "Nats a masked token saved over the backbone's single step, paired": tables.gain_table(ratios, bootstrap),
        "Nats a masked token that hidden states save, same coupling and budget, paired": tables.interval_table(
            [f"{point} of {ratios.block_length}" for point in ratios.points], gains
        ),
        "The sequential reference in each order": tables.order_table(ratios),
    }
    if steps.points:
        sections["Sampling in T steps, nats a token"] = tables.step_table(steps, bootstrap)
        sections["Saved over the backbone alone in as many steps, paired"] = tables.gain_table(steps, bootstrap)
    print(f"{len(ratios.documents)} windows of {bootstrap.num_documents} test documents: {corpus_title}")
    for title, text in sections.items():
        if text:
            print(f"\n{title}\n{text}")


def results(
    study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap, loaded: trained.Trained, options: argparse.Namespace
) -> dict[str, Any]:
    head = loaded.head
    return {
        "corpus": f"{trained.CORPORA[options.corpus].title}, test documents",
        "reduced": options.reduced,
        "head": {"coupling": head.coupling, "sweeps": head.sweeps, "states": head.prior.num_units},
        "backbone_parameters": sum(p.numel() for p in loaded.backbone.parameters()),
        "paper_share_closed": {str(ratio): share for ratio, share in PAPER.items()},
        "autoregressive_parameters": _size(options.autoregressive),
        "mask_ratios": study.ratios.to_json(bootstrap),
        "hidden_states_save": modulations(study.ratios, bootstrap),
        "steps": study.steps.to_json(bootstrap) if study.steps.points else None,
    }


def _size(folder: Path | None) -> int | None:
    return sum(p.numel() for p in AutoregressiveHead.load(folder).parameters()) if folder else None


def draw(study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap, title: str, folder: Path, pattern: str) -> None:
    """Figures of the shipped head alone, so that they stay readable; the JSON has every coupling."""
    if SHIPPED not in study.ratios.heads:
        return
    ratios, steps = study.ratios.only(SHIPPED), study.steps.only(SHIPPED)
    figure = plot.plot_mask_ratios(
        ratios, bootstrap, title=f"{title}: what a coupled head recovers in one step", published=PAPER
    )
    figure.savefig(folder / pattern.format(""), dpi=150)
    if not steps.points:
        return
    figure = plot.plot_steps(steps, bootstrap, title=f"{title}: likelihood of sampling in few steps")
    figure.savefig(folder / pattern.format("_steps"), dpi=150)


def main(arguments: list[str] | None = None) -> None:
    parser = trained.parser(__doc__)
    trained.add_corpus(parser)
    parser.add_argument("--windows", type=int, default=None, help="default: 256, reduced 48")
    parser.add_argument("--heads", type=Path, help="a folder of trained heads to compare")
    parser.add_argument("--only", nargs="*", help='these heads, such as "projected-latent, trained"')
    parser.add_argument(
        "--prior", type=Path, help="the circuit of the untrained couplings; default: the shipped head's"
    )
    parser.add_argument("--autoregressive", type=Path, help="the control that benchmarks.autoregressive_head trained")
    parser.add_argument("--no-steps", action="store_true", help="leave out sampling in T steps, most of the work")
    parser.add_argument("--name", default="coupling", help="of the result's files")
    parser.add_argument("--orders", type=int, default=None, help="random orders a window; default: 2, reduced 1")
    options = parser.parse_args(arguments)
    options.windows = options.windows or (48 if options.reduced else 256)
    options.orders = options.orders or (1 if options.reduced else 2)
    loaded = trained.load_chosen(options)
    study, bootstrap = measure(loaded, options)
    title = trained.CORPORA[options.corpus].title
    show(study, bootstrap, title)
    suffix = "_reduced" if options.reduced else ""
    found = results(study, bootstrap, loaded, options)
    path = record.write(f"{options.name}{suffix}", found, seed=options.seed, folder=options.out)
    draw(study, bootstrap, title, options.out, f"{options.name}{{}}{suffix}.png")
    print(f"wrote {path.name} and its figures to {path.parent.name}/")


if __name__ == "__main__":
    main()
