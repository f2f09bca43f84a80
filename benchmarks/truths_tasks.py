"""Tasks of which the true law is known: uniform over outputs that can be enumerated.

Axes: M valid outputs, L positions, V symbols, B rows.
"""

import gzip
import itertools
import json
import os
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

FOLDER_VARIABLE = "PCIRCUITS_PLANNING"
_DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "dream_planning"


class Truth:
    """`valid` (M, L): all outputs that are right, each as likely as the others."""

    def __init__(self, name: str, valid: Tensor) -> None:
        self.name, self.valid = name, valid

    @property
    def length(self) -> int:
        return self.valid.shape[1]

    @cached_property
    def num_symbols(self) -> int:
        return int(self.valid.max()) + 1


def permutations(n: int) -> Truth:
    """Of n symbols: a product law reaches n! / n^n at best."""
    return Truth(f"permutations of {n}", torch.tensor(list(itertools.permutations(range(n)))))


def one_replaced(n: int) -> Truth:
    """A list of n items, any one of them replaced by a new item: n outputs (ParallelBench's "replace random")."""
    outputs = torch.arange(n).repeat(n, 1)
    outputs.fill_diagonal_(n)
    return Truth(f"one of {n} replaced", outputs)


def one_removed(n: int) -> Truth:
    """A list of n items without any one of them: n outputs of n - 1 (ParallelBench's "remove random")."""
    places = torch.arange(n - 1)
    return Truth(f"one of {n} removed", places + (places >= torch.arange(n).unsqueeze(1)))


def latin_squares(n: int = 4) -> Truth:
    """Each symbol once in every row and column: 576 squares of 4 by 4, row after row."""
    return Truth(f"{n}x{n} Latin squares", torch.tensor(_filled(n, boxes=False)))


def sudoku_grids() -> Truth:
    """The 288 of 4 by 4: Latin squares whose four boxes hold every symbol too."""
    return Truth("4x4 sudoku", torch.tensor(_filled(4, boxes=True)))


def _filled(n: int, *, boxes: bool) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for cell in range(n * n):
        found = [[*grid, symbol] for grid in found for symbol in range(n) if _fits(grid, cell, symbol, n, boxes)]
    return found


def _fits(grid: list[int], cell: int, symbol: int, n: int, boxes: bool) -> bool:
    row, column = divmod(cell, n)
    for other, value in enumerate(grid):
        r, c = divmod(other, n)
        same_box = boxes and (r // 2, c // 2) == (row // 2, column // 2)
        if value == symbol and (r == row or c == column or same_box):
            return False
    return True


class Puzzles(NamedTuple):
    """Solutions (N, L) of some puzzles, the cells that each gives (N, L), and the puzzle that each belongs to (N,)."""

    solutions: Tensor
    given: Tensor
    puzzle: Tensor


def sudoku_puzzles(truth: Truth, givens: int, folder: Path | None = None) -> Puzzles:
    """The 108 puzzles with 4, 8 or 12 given cells of Dream's planning data (Ye et al. 2025), with all their solutions.

    `folder` holds `sudoku_4x4_<givens>.jsonl.gz`; default: the environment variable `PCIRCUITS_PLANNING`, else
    `../shared/data/dream_planning` seen from the repository.
    """
    folder = Path(folder or os.environ.get(FOLDER_VARIABLE) or _DEFAULT_FOLDER)
    path = folder / f"sudoku_4x4_{givens}.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"the puzzles are not at {path}; pass their folder or set {FOLDER_VARIABLE}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        cells = [[int(c) for c in json.loads(line)["input"].replace("\n", "")] for line in lines]
    known = torch.tensor(cells)
    fits = ((known.unsqueeze(1) == 0) | (known.unsqueeze(1) == truth.valid + 1)).all(-1)
    puzzle, grid = fits.nonzero(as_tuple=True)
    return Puzzles(truth.valid[grid], (known > 0)[puzzle], puzzle)


class Oracle:
    """A `Backbone` that is never wrong about one position: `p(x_i | unmasked tokens)` under the true law.

    Contexts that no valid output has are predicted as if there were none; what comes of them is invalid anyway.
    """

    def __init__(self, truth: Truth) -> None:
        self.valid, self.vocab_size, self.mask_id = truth.valid, truth.num_symbols, truth.num_symbols
        self._one_hot = torch.nn.functional.one_hot(truth.valid, truth.num_symbols).double().flatten(1)

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """(B, |span|, V)."""
        unknown = tokens == self.mask_id
        fits = torch.stack([((row == self.valid) | blank).all(-1) for row, blank in zip(tokens, unknown, strict=True)])
        fits |= ~fits.any(-1, keepdim=True)
        counts = (fits.double() @ self._one_hot).unflatten(1, (self.valid.shape[1], -1))
        return (counts / fits.sum(-1).view(-1, 1, 1)).log()[:, span or slice(None)]
