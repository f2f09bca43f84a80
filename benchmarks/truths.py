"""Enumerable truths: `python -m benchmarks.truths [--reduced]`.

Permutations, lists with one item replaced or removed (as in ParallelBench), 4x4 Latin squares and 4x4 sudoku have a
known law, uniform over valid outputs. The backbone is an oracle,
right about every position, so that all that is wrong with sampling in T steps is that positions are drawn
independently; or a small transformer. Circuits of few and of enough states are put on it, and the law of sampling in T
steps in random order is worked out: how much of it is valid, and how far it is from uniform.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import pcircuits as pc
from benchmarks import record, truths_plot, truths_tables
from benchmarks.truths_laws import Distance, Rule, StepLaw, distance, some_orders
from benchmarks.truths_priors import exact_hmm, fitted_hmm, rows_hmm, uniform_hmm
from benchmarks.truths_tasks import (
    Oracle,
    Truth,
    latin_squares,
    one_removed,
    one_replaced,
    permutations,
    sudoku_grids,
    sudoku_puzzles,
)
from benchmarks.truths_transformer import train_transformer
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.evaluate.rules import factorised
from pcircuits_diffusion.head import CoupledHead

COUPLINGS: dict[str, dict[str, Any]] = {
    "product": {"coupling": "product"},
    "corrected": {"coupling": "corrected"},
    "projected": {"coupling": "projected"},
    "projected, 20 sweeps": {"coupling": "projected", "sweeps": 20},
}
TRANSFORMED = ("permutations of 5",)  # a trained backbone sees them too; among masks alone it knows no position
ENOUGH = 0.999  # validity of a circuit that is the exact law
MOST_POSITIONS = 5  # whose orders are all counted
SHORT = 4  # positions; only so short outputs see many sweeps
MOST_STATES = 512  # circuits with more are asked in one step only, where no orders need be sampled


class Question(NamedTuple):
    """What is asked of a law: all `outputs` (N, L) that are valid, `given` (N, L) positions that are known, the
    `puzzle` (N,) that each output solves. `exact`: all orders are counted.
    """

    name: str
    truth: Truth
    states: tuple[int, ...]
    steps: tuple[int, ...]
    outputs: Tensor
    given: Tensor
    puzzle: Tensor
    exact: bool = False


class Row(NamedTuple):
    """`states` 0: no circuit; n 2^(n-1) on grids of n by n: of valid rows, not by EM. `enough`: the circuit is the
    exact law. `alone`: validity of the circuit's samples.
    """

    task: str
    backbone: str
    coupling: str
    states: int
    enough: bool
    alone: float | None
    distances: dict[int, Distance]


def whole(truth: Truth, states: tuple[int, ...], steps: tuple[int, ...]) -> Question:
    """Nothing is given. Orders of long outputs are sampled, of short ones all counted."""
    nothing = torch.zeros_like(truth.valid, dtype=torch.bool)
    exact = truth.length <= MOST_POSITIONS
    return Question(truth.name, truth, states, steps, truth.valid, nothing, _one(truth.valid), exact)


def first_row_given(truth: Truth, states: tuple[int, ...], steps: tuple[int, ...]) -> Question:
    """Latin squares whose first row is in order."""
    outputs = truth.valid[(truth.valid[:, :4] == torch.arange(4)).all(1)]
    given = (torch.arange(truth.length) < 4).expand_as(outputs)
    return Question(f"{truth.name}, first row given", truth, states, steps, outputs, given, _one(outputs))


def puzzles(truth: Truth, givens: int, states: tuple[int, ...], steps: tuple[int, ...]) -> Question:
    """All solutions of all puzzles with so many givens."""
    found = sudoku_puzzles(truth, givens)
    return Question(f"{truth.name}, {givens} given", truth, states, steps, found.solutions, found.given, found.puzzle)


def _one(outputs: Tensor) -> Tensor:
    """(N,) one puzzle, that all outputs solve."""
    return torch.zeros(len(outputs), dtype=torch.long)


def questions(options: argparse.Namespace) -> list[Question]:
    small = whole(permutations(3), (2, 4, 8), (1, 2, 3))
    if options.reduced:
        return [small]
    latin, sudoku = latin_squares(), sudoku_grids()
    return [
        small,
        whole(permutations(4), (4, 8, 16), (1, 2, 4)),
        whole(permutations(5), (8, 16, 32, 64), (1, 2, 3, 5)),
        whole(one_replaced(5), (2, 4, 8), (1, 2, 3, 5)),
        whole(one_removed(6), (2, 4, 8), (1, 2, 3, 5)),
        whole(latin, (16, 64, 256), (1, 2, 4, 8, 16)),
        whole(sudoku, (16, 64, 256), (1, 2, 4, 8, 16)),
        puzzles(sudoku, 4, (16, 64, 256), (1, 2, 4, 8, 12)),
        first_row_given(latin, (16, 64, 256), (1, 2, 4, 8, 12)),
        whole(permutations(7), (16, 64, 128), (1, 2, 4, 7)),
    ]


def measured(
    question: Question, make_backbone: Callable[[], Backbone], name: str, options: argparse.Namespace
) -> list[Row]:
    """From the work file where it has the task, else worked out and added to it."""
    orders = None if question.exact else options.orders
    key = [question.name, name, options.seed, orders, options.epochs]
    lines = options.work.read_text(encoding="utf-8").splitlines() if options.work and options.work.is_file() else []
    for line in map(json.loads, lines):
        if line["key"] == key:
            return [
                Row._make([*row[:-1], {int(steps): Distance(*found) for steps, found in row[-1].items()}])
                for row in line["rows"]
            ]
    rows = list(measure(question, make_backbone(), name, options))
    if options.work:
        with options.work.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "rows": rows}) + "\n")
    return rows


def measure(question: Question, backbone: Backbone, name: str, options: argparse.Namespace) -> Iterator[Row]:
    """The backbone alone, then every coupling of every circuit."""
    yield Row(question.name, name, "backbone alone", 0, False, None, distances(question, backbone, factorised, options))
    for states, prior in circuits(question, options):
        with torch.no_grad():
            alone = float(prior.log_prob(question.truth.valid).exp().sum())
        enough = alone > ENOUGH
        for coupling, settings in COUPLINGS.items():
            if settings.get("sweeps", 1) > 1 and question.truth.length > SHORT:
                continue
            rule = CoupledHead(prior, **settings)
            found = distances(question, backbone, rule, options, once=states > MOST_STATES)
            yield Row(question.name, name, coupling, states, enough, alone, found)


def circuits(question: Question, options: argparse.Namespace) -> Iterator[tuple[int, pc.HMM]]:
    for states in question.states:
        yield states, fitted_hmm(question.truth, states, epochs=options.epochs, seed=options.seed).requires_grad_(False)
    if question.truth.length == question.truth.num_symbols**2:
        rows = rows_hmm(question.truth).requires_grad_(False)
        yield rows.num_units, rows
    exact = exact_hmm(question.truth).requires_grad_(False)
    yield exact.num_units, exact


def distances(
    question: Question, backbone: Backbone, rule: Rule, options: argparse.Namespace, *, once: bool = False
) -> dict[int, Distance]:
    """By number of steps; `once`: one step only. In one step all orders are alike."""
    law = StepLaw(rule, backbone, question.outputs, question.given)
    orders = some_orders(question.truth.length, options.orders, seed=options.seed)
    return {
        steps: distance(law.probabilities(orders, steps), question.puzzle, exact=question.exact or steps == 1)
        for steps in question.steps
        if steps == 1 or not once
    }


def control(truth: Truth, options: argparse.Namespace) -> float:
    """Largest difference in log probability that uniform circuits make, over couplings and outputs: none, if right."""
    backbone, orders = Oracle(truth), some_orders(truth.length, options.orders, seed=options.seed)
    alone = StepLaw(factorised, backbone, truth.valid).probabilities(orders, 2)
    found = [
        StepLaw(CoupledHead(uniform_hmm(truth), **settings), backbone, truth.valid).probabilities(orders, 2)
        for settings in COUPLINGS.values()
    ]
    return max(float((law - alone).abs().max()) for law in found)


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    asked = [question for question in questions(options) if options.tasks is None or question.name in options.tasks]
    for question in tqdm(asked, "tasks"):
        rows += measured(question, partial(Oracle, question.truth), "oracle", options)
        if options.train_steps and question.name in TRANSFORMED:
            trained = partial(train_transformer, question.truth, steps=options.train_steps, seed=options.seed)
            rows += measured(question, trained, f"transformer, {options.train_steps} steps", options)
    difference = control(asked[0].truth, options)
    print(truths_tables.all_tables(rows))
    print(f"\nuniform circuits change the backbone's law by at most {difference:.1e}")
    suffix = "_reduced" if options.reduced else ""
    settings = {name: getattr(options, name) for name in ("orders", "epochs", "train_steps", "reduced")}
    found = {**settings, "uniform_circuit_difference": difference, "rows": [truths_tables.to_json(row) for row in rows]}
    path = record.write(f"truths{suffix}", found, seed=options.seed, folder=options.out)
    truths_plot.plot_truths(rows).savefig(options.out / f"truths{suffix}.png", dpi=150)
    print(f"wrote {path.name} and a figure to {path.parent.name}/")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    parser.add_argument("--orders", type=int, default=6, help="sampled, where not all can be counted")
    parser.add_argument("--epochs", type=int, default=50, help="of EM")
    parser.add_argument("--train-steps", type=int, default=None, help="of the transformer; default: 1500, reduced 0")
    parser.add_argument("--tasks", nargs="+", help="some of the tasks, by name")
    parser.add_argument("--work", type=Path, help="file of the tasks worked out so far, to go on from")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.train_steps is None:
        options.train_steps = 0 if options.reduced else 1500
    return options


if __name__ == "__main__":
    main()
