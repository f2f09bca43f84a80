"""How few steps a block will do: `python -m benchmarks.few_steps [--reduced]`.

The backbone alone, the paper's head and ours continue GSM8K test problems under several decoding rules, in many and in
few steps a block: how many calculator annotations are well formed and right, what an autoregressive judge says of the
text, never without its entropy and distinct bigrams, and in how many steps a head is as good as the backbone alone.

An interrupted run goes on where it stopped (`--work`). `--prior` is the prior before objective (7), which the first
command in the model card of `benchmarks/weights` makes; without it the shipped head's prior takes its place.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import pcircuits as pc
from benchmarks import few_steps_tables, record, trained
from benchmarks.arithmetic import questions
from benchmarks.few_steps_cells import RULES, Counted, Drawn, Spec, Work, all_specs, count, digest, draw
from benchmarks.few_steps_plot import plot_few_steps
from benchmarks.few_steps_tables import BACKBONE, Result
from pcircuits_diffusion.evaluate import DocumentBootstrap
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion

GAMMA = 0.5  # Li et al. 2026, Sec. 6: the head is used while at most this share of the block is masked


def heads(loaded: trained.Trained, untrained: pc.Circuit) -> dict[str, CoupledHead | None]:
    """Who is compared."""
    return {
        BACKBONE: None,
        "ours, trained": loaded.head,
        "ours, untrained": CoupledHead(untrained, coupling="projected"),
        "paper's": CoupledHead(untrained, coupling="product", gamma=GAMMA),
    }


def measure(
    loaded: trained.Trained, options: argparse.Namespace
) -> tuple[dict[Spec, Counted], Counted, dict[str, Any]]:
    """What is counted in every cell and in the published solutions, and the settings."""
    untrained = pc.load(options.prior) if options.prior else loaded.head.prior
    models = {name: CoupledDiffusion(loaded.backbone, head) for name, head in heads(loaded, untrained).items()}
    items = questions(options.problems, options.seed)
    prompts = [row.ids for row in loaded.tokenizer.encode_batch([f"{item.problem}\n" for item in items])]
    shared = {name: getattr(options, name) for name in ("problems", "tokens", "temperature", "seed")}
    work = Work(options.work or options.out / "few_steps.partial.jsonl", {**shared, "prior": digest(untrained)})
    wanted = all_specs(models, options.rules, options.steps)
    for spec in tqdm([] if options.partial else wanted, "cells", mininterval=10.0):
        if spec not in work.cells:
            setting = {"tokens": options.tokens, "temperature": options.temperature, "seed": options.seed}
            sizes = {"block_length": loaded.block_length, "eos_id": loaded.eos_id}
            work.add(spec, draw(models[spec.model], prompts, spec, **sizes, **setting))
    solutions = [row.ids[: options.tokens] for row in loaded.tokenizer.encode_batch([item.solution for item in items])]
    published = count(loaded, prompts, Drawn(solutions, [0] * len(solutions), 0.0), options.tokens)
    cells = {
        spec: count(
            loaded, prompts, work.cells[spec], options.tokens, None if RULES[spec.rule].bounds else spec.setting
        )
        for spec in wanted
        if spec in work.cells
    }
    if options.work is None:
        work.path.unlink(missing_ok=True)
    kind = "EM alone" if options.prior else "of the shipped head"
    return (
        cells,
        published,
        {
            **shared,
            "reduced": options.reduced,
            "untrained_prior": kind,
            **_sizes(loaded),
            "not_drawn": len(wanted) - len(cells),
        },
    )


def _sizes(loaded: trained.Trained) -> dict[str, Any]:
    judge = loaded.judge
    return {
        "backbone_parameters": sum(p.numel() for p in loaded.backbone.parameters()),
        "judge_parameters": judge and sum(p.numel() for p in judge.parameters()),
        "states": loaded.head.prior.num_units,
        "bounds": {name: rule.bounds for name, rule in RULES.items() if rule.bounds},
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    loaded = trained.load(options.weights)
    cells, published, settings = measure(loaded, options)
    bootstrap = DocumentBootstrap(torch.arange(options.problems), generator=torch.Generator().manual_seed(options.seed))
    result = Result(cells, published, bootstrap)
    show(result, options)
    suffix = "_reduced" if options.reduced else ""
    found = {**settings, **few_steps_tables.to_json(result)}
    path = record.write(f"few_steps{suffix}", found, seed=options.seed, folder=options.out)
    plot_few_steps(result).savefig(options.out / f"few_steps{suffix}.png", dpi=150)
    print(f"wrote {path.name} and a figure to {path.parent.name}/")


def show(result: Result, options: argparse.Namespace) -> None:
    sections: Mapping[str, str] = {
        f"{options.problems} GSM8K test problems, {options.tokens} new tokens, temperature {options.temperature}; "
        "95% intervals over problems": few_steps_tables.table(result),
        "Well-formed annotations: gain on the backbone alone at equal steps, paired": few_steps_tables.gain_table(
            result
        ),
        "Fewer steps for as many well-formed annotations as the backbone alone, paired": few_steps_tables.needed_table(
            result
        ),
    }
    for title, text in sections.items():
        print(f"\n{title}\n{text}")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = trained.parser(__doc__)
    parser.add_argument("--problems", type=int, default=None, help="default: 96, reduced 16")
    parser.add_argument("--tokens", type=int, default=None, help="new tokens; default: 64, reduced 32")
    parser.add_argument("--steps", type=int, nargs="+", default=None, help="of a block; default: 32 16 8 4 2 1")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=None, help="default: all; reduced: random")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--prior", type=Path, help="folder of a prior that objective (7) has not seen")
    parser.add_argument("--work", type=Path, help="file of the samples drawn so far; kept")
    parser.add_argument("--partial", action="store_true", help="draw nothing: results of what the work file has")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    options.problems = options.problems or (16 if options.reduced else 96)
    options.tokens = options.tokens or (32 if options.reduced else 64)
    options.steps = options.steps or ([4, 1] if options.reduced else [32, 16, 8, 4, 2, 1])
    options.rules = options.rules or (["random"] if options.reduced else list(RULES))
    return options


if __name__ == "__main__":
    main()
