"""`python -m pcircuits_diffusion.demo`: the embedded backbone with and without its head, on held-out documentation."""

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import pcircuits as pc
from pcircuits_diffusion import embedded, evaluate, plot
from pcircuits_diffusion.corpus import Windows
from pcircuits_diffusion.demo import words
from pcircuits_diffusion.demo.fitting import fit_head
from pcircuits_diffusion.demo.parts import (
    Parts,
    held_out_windows,
    load,
    shipped_head,
    token_counts,
)
from pcircuits_diffusion.demo.samples import side_by_side
from pcircuits_diffusion.evaluate import tables
from pcircuits_diffusion.evaluate.curves import dump
from pcircuits_diffusion.head import CoupledHead

NAME = "coupled"
SAMPLE_STEPS = (32, 8, 4)


def main(arguments: Sequence[str] | None = None, *, folder: Path | None = None) -> None:
    """Prints the tables and samples, and writes two figures and a JSON file."""
    options, start = parse_options(arguments), time.monotonic()
    generator = torch.Generator().manual_seed(options.seed)
    parts = load(folder or embedded.FOLDER)
    head = fit_head(parts, seed=options.seed) if options.train else shipped_head(parts)
    windows = held_out_windows(parts, options.documents, generator=generator)
    introduce(parts, head, windows)
    study = measure(parts, head, windows, generator)
    bootstrap = evaluate.DocumentBootstrap(windows.document, generator=generator)
    show(study, bootstrap)
    heading(f"Samples at {', '.join(map(str, SAMPLE_STEPS))} steps, temperature 1, same prompts and seeds")
    print("\n".join(side_by_side(parts, head, windows.tokens[:2], steps=SAMPLE_STEPS, seed=options.seed)))
    overhead = evaluate.head_overhead(
        parts.backbone,
        head,
        windows.tokens,
        block_length=parts.block_length,
        batch_sizes=(1, 16),
        generator=generator,
    )
    heading(f"Run time of the head ({torch.get_num_threads()} threads)")
    print("\n".join(words.overhead(overhead)))
    save(study, bootstrap, overhead, options)
    print(f"\nFigures and all numbers: {options.out}/ ({time.monotonic() - start:.0f} s in all)")


def introduce(parts: Parts, head: CoupledHead, windows: Windows) -> None:
    documents = len(windows.document.unique())
    print(
        f"Backbone: masked diffusion transformer, {parts.num_parameters / 1e6:.1f}M parameters. Head: {head.coupling}, "
        f"circuit with {head.prior.num_units} states, {head.prior.num_parameters / 1e6:.1f}M parameters.\n"
        f"Text: {len(windows.tokens)} windows of {documents} documents of Python {platform.python_version()} that "
        f"neither was trained on; the last {parts.block_length} of {parts.window_length} tokens are masked."
    )


def measure(parts: Parts, head: CoupledHead, windows: Windows, generator: torch.Generator) -> evaluate.Study:
    controls = {
        words.CONTROL: evaluate.prior_alone(head.prior),
        "unigram": evaluate.unigram(token_counts(parts)),
    }
    return evaluate.study(
        parts.backbone,
        {NAME: head},
        windows.tokens,
        windows.document,
        block_length=parts.block_length,
        controls=controls,
        setting=evaluate.Setting(num_orders=2, progress=True),
        generator=generator,
    )


def show(study: evaluate.Study, bootstrap: evaluate.DocumentBootstrap) -> None:
    heading("Perplexity of masked tokens, and the share of the gap closed in nats (95% intervals over documents)")
    print(tables.ratio_table(study.ratios, bootstrap))
    print("sequential: the backbone, one token at a time; factorised: the backbone, all tokens in one step")
    print(words.shares(study.ratios, bootstrap, NAME))
    print(words.controls(study.ratios, NAME))
    heading("Nats a token of sampling a block in T steps, random order, temperature 1 (exact)")
    print(tables.step_table(study.steps, bootstrap))
    print(words.steps(study.steps, bootstrap, NAME))


def save(
    study: evaluate.Study,
    bootstrap: evaluate.DocumentBootstrap,
    overhead: Sequence[evaluate.Overhead],
    options: argparse.Namespace,
) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    python = f"Python {platform.python_version()}'s documentation"
    figure = plot.plot_mask_ratios(study.ratios, bootstrap, title=f"One step, with and without coupling: {python}")
    figure.savefig(options.out / "mask_ratios.png", dpi=150)
    figure = plot.plot_steps(study.steps, bootstrap, title=f"Sampling in few steps: {python}")
    figure.savefig(options.out / "steps.png", dpi=150)
    results = {
        "seed": options.seed,
        "trained_on_the_spot": options.train,
        "versions": {"pcircuits": pc.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "mask_ratios": study.ratios.to_json(bootstrap),
        "steps": study.steps.to_json(bootstrap),
        "overhead": [o._asdict() | {"share": o.share} for o in overhead],
    }
    (options.out / "results.json").write_text(dump(results), encoding="utf-8")


def heading(text: str) -> None:
    print(f"\n{text}\n{'=' * len(text)}")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pcircuits_diffusion.demo", description=__doc__)
    parser.add_argument("--train", action="store_true", help="fit a head on the training documents instead")
    parser.add_argument("--documents", type=int, default=40, help="at most so many held-out documents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder of the figures and the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
