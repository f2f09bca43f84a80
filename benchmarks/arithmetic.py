"""Whether generated GSM8K solutions calculate rightly: `python -m benchmarks.arithmetic [--reduced]`.

Both the backbone alone and the coupled model continue test problems, same seeds, in few and in many steps a block.
Solutions annotate their calculations (`<<48/2=24>>`), so each one can be checked. Fewer or more trivial ones are no
improvement, nor are copies from the training set: counts, operators, repetitions and copies stand beside the shares.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks import arithmetic_tables, gsm8k, record, samples, trained
from benchmarks.annotations import annotations
from benchmarks.arithmetic_plot import plot_right
from benchmarks.arithmetic_tables import SYSTEMS
from pcircuits_diffusion.evaluate import DocumentBootstrap
from pcircuits_diffusion.model import CoupledDiffusion


class Question(NamedTuple):
    """A problem and its published solution."""

    problem: str
    solution: str


def questions(count: int, seed: int) -> list[Question]:
    """Test problems in random order."""
    documents = gsm8k.load("test")
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed))[:count]
    return [Question(*documents[i].text.split("\n", 1)) for i in order.tolist()]


def generate(
    model: CoupledDiffusion, prompts: Sequence[list[int]], options: dict[str, Any], seed: int
) -> list[list[int]]:
    """Token ids of one continuation a prompt; batch b draws from seed + b, whatever the model."""
    rows: list[list[int]] = []
    for batch, start in enumerate(range(0, len(prompts), 64)):
        generator = torch.Generator().manual_seed(seed + batch)
        generated = model.generate(
            [torch.tensor(p) for p in prompts[start : start + 64]], generator=generator, **options
        )
        rows += [row.tolist() for row in generated.rows]
    return rows


def measure(loaded: trained.Trained, options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The published solutions, and one row for each rule and number of steps."""
    items = questions(options.problems, options.seed)
    known = {a.text for document in gsm8k.load("train") for a in annotations(document.text)}
    prompts = [row.ids for row in loaded.tokenizer.encode_batch([f"{item.problem}\n" for item in items])]
    bootstrap = DocumentBootstrap(torch.arange(len(items)), generator=torch.Generator().manual_seed(options.seed))
    solutions = [row.ids[: options.tokens] for row in loaded.tokenizer.encode_batch([item.solution for item in items])]
    published = samples.summary(samples.examine(loaded, prompts, solutions, options.tokens), known, bootstrap)
    rows = []
    for rule, steps in tqdm([(rule, steps) for rule in options.rules for steps in options.steps], desc="decoding"):
        cells = dict(zip(SYSTEMS, decode(loaded, prompts, rule, steps, options), strict=True))
        gains = {
            field: samples.gain(cells["coupled"], cells["backbone alone"], field, bootstrap)
            for field in ("well_formed", "right")
        }
        found = {name: samples.summary(cell, known, bootstrap) for name, cell in cells.items()}
        rows.append({"rule": rule, "steps": steps, **found, "gain": gains})
    return published, rows


def decode(
    loaded: trained.Trained, prompts: Sequence[list[int]], rule: str, steps: int, options: argparse.Namespace
) -> list[samples.Cell]:
    """One cell a system; `steps` are those of each block."""
    blocks = -(-options.tokens // loaded.block_length)
    settings = {
        "max_new_tokens": options.tokens,
        "steps": steps * blocks,
        "block_length": loaded.block_length,
        "remasking": rule,
        "temperature": options.temperature,
        "eos_id": loaded.eos_id,
    }
    models = [CoupledDiffusion(loaded.backbone, head) for head in (None, loaded.head)]
    drawn = [generate(model, prompts, settings, options.seed) for model in models]
    return [samples.examine(loaded, prompts, rows, options.tokens) for rows in drawn]


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    loaded = trained.load(options.weights)
    published, rows = measure(loaded, options)
    print(f"\n{options.problems} GSM8K test problems, {options.tokens} new tokens, temperature {options.temperature}")
    print(arithmetic_tables.table(published, rows))
    print("\nGain of the coupled model, paired 95% intervals\n" + arithmetic_tables.gain_table(rows))
    if loaded.judge is not None:
        print(
            "\nThe first blocks as an autoregressive model judges them\n"
            + arithmetic_tables.judge_table(published, rows)
        )
    suffix = "_reduced" if options.reduced else ""
    settings = {name: getattr(options, name) for name in ("problems", "tokens", "temperature", "reduced")}
    found = {**settings, "published_solutions": published, "decoded": rows}
    path = record.write(f"arithmetic{suffix}", found, seed=options.seed, folder=options.out)
    plot_right(rows, published).savefig(options.out / f"arithmetic{suffix}.png", dpi=150)
    print(f"wrote {path.name} and a figure to {path.parent.name}/")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = trained.parser(__doc__)
    parser.add_argument("--problems", type=int, default=None, help="default: 208, reduced 64")
    parser.add_argument("--tokens", type=int, default=None, help="new tokens; default: 96, reduced 64")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=None, help="of each block; default: 32 16 8 4, reduced 8 4"
    )
    parser.add_argument("--rules", nargs="+", default=None, help="default: random low_confidence, reduced: random")
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args(arguments)
    options.problems = options.problems or (64 if options.reduced else 208)
    options.tokens = options.tokens or (64 if options.reduced else 96)
    options.steps = options.steps or ([8, 4] if options.reduced else [32, 16, 8, 4])
    options.rules = options.rules or (["random"] if options.reduced else ["random", "low_confidence"])
    return options


if __name__ == "__main__":
    main()
