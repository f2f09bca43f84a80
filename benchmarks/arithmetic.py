"""Whether generated GSM8K solutions calculate rightly: `python -m benchmarks.arithmetic [--reduced]`.

Both the backbone alone and the coupled model continue test problems, same seeds, in few and in many steps a block.
Solutions annotate their calculations (`<<48/2=24>>`), so each one can be checked. Fewer or more trivial ones are no
improvement, nor are copies from the training set: counts, operators, repetitions and copies stand beside the shares.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from benchmarks import gsm8k, record, weights
from benchmarks.annotations import Annotation, annotations
from benchmarks.arithmetic_plot import plot_right
from pcircuits_diffusion.evaluate import DocumentBootstrap, Interval, generation, tables
from pcircuits_diffusion.model import CoupledDiffusion

SYSTEMS = ("backbone alone", "coupled")


class Cell(NamedTuple):
    """One way to decode: the annotations of each problem's sample, and the diversity of the samples' tokens."""

    annotations: list[list[Annotation]]
    distinct_2: float
    entropy: float

    def count(self, field: str) -> torch.Tensor:
        """(N,) how many annotations of each sample have the property, or its sum."""
        return torch.tensor([float(sum(getattr(a, field) for a in sample)) for sample in self.annotations]).double()

    @property
    def number(self) -> torch.Tensor:
        return torch.tensor([float(len(sample)) for sample in self.annotations]).double()


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


def examine(loaded: weights.Weights, rows: Sequence[list[int]], max_new_tokens: int) -> Cell:
    """Finds the annotations of each sample; one that the length limit cuts off is left out."""
    texts = loaded.tokenizer.decode_batch([list(row) for row in rows])
    found = [annotations(t, complete=len(row) < max_new_tokens) for t, row in zip(texts, rows, strict=True)]
    pairs = {pair for row in rows for pair in pairwise(row)}
    bigrams = sum(max(len(row) - 1, 0) for row in rows)
    entropy = generation.token_entropy(torch.tensor([[t for row in rows for t in row] or [0]]))
    return Cell(found, len(pairs) / max(bigrams, 1), entropy)


def summary(cell: Cell, known: set[str], bootstrap: DocumentBootstrap) -> dict[str, Any]:
    """Shares with intervals over problems, and what keeps them honest."""
    flat = [annotation for sample in cell.annotations for annotation in sample]
    new = [annotation for annotation in flat if annotation.text not in known]
    total = max(len(flat), 1)
    return {
        "well_formed": share(cell, "well_formed", bootstrap),
        "right": share(cell, "right", bootstrap),
        "right_among_new": sum(a.right for a in new) / max(len(new), 1),
        "annotations_a_sample": len(flat) / len(cell.annotations),
        "right_a_sample": sum(a.right for a in flat) / len(cell.annotations),
        "distinct": len({a.text for a in flat}),
        "copied_from_training": sum(a.text in known for a in flat) / total,
        "operators_an_annotation": sum(a.operators for a in flat) / total,
        "distinct_2": cell.distinct_2,
        "token_entropy": cell.entropy,
    }


def share(cell: Cell, field: str, bootstrap: DocumentBootstrap) -> Interval:
    """Annotations with the property over all annotations."""
    return bootstrap.intervals(_ratio(cell, field, bootstrap))[0]


def gain(cell: Cell, over: Cell, field: str, bootstrap: DocumentBootstrap) -> Interval:
    """Difference of two shares on the same problems, paired."""
    return bootstrap.intervals(_ratio(cell, field, bootstrap) - _ratio(over, field, bootstrap))[0]


def _ratio(cell: Cell, field: str, bootstrap: DocumentBootstrap) -> torch.Tensor:
    totals = bootstrap.totals(torch.stack([cell.count(field), cell.number]))
    return (totals[:, 0] / totals[:, 1]).unsqueeze(-1)


def measure(loaded: weights.Weights, options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The published solutions, and one row for each rule and number of steps."""
    items = questions(options.problems, options.seed)
    known = {a.text for document in gsm8k.load("train") for a in annotations(document.text)}
    prompts = [row.ids for row in loaded.tokenizer.encode_batch([f"{item.problem}\n" for item in items])]
    bootstrap = DocumentBootstrap(torch.arange(len(items)), generator=torch.Generator().manual_seed(options.seed))
    solutions = [row.ids[: options.tokens] for row in loaded.tokenizer.encode_batch([item.solution for item in items])]
    published = summary(examine(loaded, solutions, options.tokens), known, bootstrap)
    rows = []
    for rule, steps in tqdm([(rule, steps) for rule in options.rules for steps in options.steps], desc="decoding"):
        cells = dict(zip(SYSTEMS, decode(loaded, prompts, rule, steps, options), strict=True))
        gains = {
            field: gain(cells["coupled"], cells["backbone alone"], field, bootstrap)
            for field in ("well_formed", "right")
        }
        found = {name: summary(cell, known, bootstrap) for name, cell in cells.items()}
        rows.append({"rule": rule, "steps": steps, **found, "gain": gains})
    return published, rows


def decode(
    loaded: weights.Weights, prompts: Sequence[list[int]], rule: str, steps: int, options: argparse.Namespace
) -> list[Cell]:
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
    return [examine(loaded, generate(model, prompts, settings, options.seed), options.tokens) for model in models]


def table(published: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """One line a system, rule and number of steps."""
    header = [
        "rule",
        "steps",
        "model",
        "well formed",
        "right",
        "right of new",
        "a sample",
        "distinct",
        "copied",
        "operators",
    ]
    lines = [header, ["published solutions", "", "", *_figures(published)]]
    lines += [[row["rule"], str(row["steps"]), name, *_figures(row[name])] for row in rows for name in SYSTEMS]
    return tables.aligned(lines)


def gain_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [["rule", "steps", "well formed", "right"]]
    for row in rows:
        gains = [_points(row["gain"][field]) for field in ("well_formed", "right")]
        lines.append([row["rule"], str(row["steps"]), *gains])
    return tables.aligned(lines)


def _figures(found: dict[str, Any]) -> list[str]:
    shares = [found["well_formed"].estimate, found["right"].estimate, found["right_among_new"]]
    rest = [f"{found['distinct']}", f"{found['copied_from_training']:.0%}", f"{found['operators_an_annotation']:.2f}"]
    return [*(f"{value:.1%}" for value in shares), f"{found['annotations_a_sample']:.2f}", *rest]


def _points(interval: Interval) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * value for value in interval))


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    loaded = weights.load(options.weights)
    published, rows = measure(loaded, options)
    print(f"\n{options.problems} GSM8K test problems, {options.tokens} new tokens, temperature {options.temperature}")
    print(table(published, rows) + "\n\nGain of the coupled model, paired 95 % intervals\n" + gain_table(rows))
    suffix = "_reduced" if options.reduced else ""
    settings = {name: getattr(options, name) for name in ("problems", "tokens", "temperature", "reduced")}
    found = {**settings, "published_solutions": published, "decoded": rows}
    path = record.write(f"arithmetic{suffix}", found, seed=options.seed, folder=options.out)
    plot_right(rows, published).savefig(options.out / f"arithmetic{suffix}.png", dpi=150)
    print(f"wrote {path.name} and a figure to {path.parent.name}/")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=None, help="default: 256, reduced 64")
    parser.add_argument("--tokens", type=int, default=None, help="new tokens; default: 96, reduced 64")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=None, help="of each block; default: 32 16 8 4, reduced 8 4"
    )
    parser.add_argument("--rules", nargs="+", default=None, help="default: random low_confidence, reduced: random")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--weights", type=Path, default=weights.FOLDER)
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args(arguments)
    options.problems = options.problems or (64 if options.reduced else 256)
    options.tokens = options.tokens or (64 if options.reduced else 96)
    options.steps = options.steps or ([8, 4] if options.reduced else [32, 16, 8, 4])
    options.rules = options.rules or (["random"] if options.reduced else ["random", "low_confidence"])
    return options


if __name__ == "__main__":
    main()
