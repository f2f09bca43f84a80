"""Random formulas, their models by enumeration, and files of them that other programs would write."""

import itertools
import math
import random
from pathlib import Path

import torch
from hypothesis import strategies as st

Clauses = list[list[int]]


@st.composite
def cnfs(draw: st.DrawFn, *, max_variables: int = 12) -> tuple[Clauses, int]:
    """A random 3-SAT formula of 4 variables or more, with at most four times as many clauses."""
    count, seed = draw(st.integers(4, max_variables)), draw(st.integers(0, 1 << 16))
    generator = random.Random(seed)
    clauses = [
        [v * generator.choice((-1, 1)) for v in generator.sample(range(1, count + 1), 3)]
        for _ in range(generator.randint(0, 4 * count))
    ]
    return clauses, count


def worlds(num_variables: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=num_variables)))


def satisfies(clauses: Clauses, x: torch.Tensor) -> torch.Tensor:
    """Which rows are models."""
    found = torch.ones(len(x), dtype=torch.bool)
    for clause in clauses:
        found &= torch.stack([x[:, abs(v) - 1] == int(v > 0) for v in clause]).any(0)
    return found


def dimacs(clauses: Clauses, num_variables: int) -> str:
    lines = [f"p cnf {num_variables} {len(clauses)}", *(" ".join(map(str, [*c, 0])) for c in clauses)]
    return "c a formula\n" + "\n".join(lines) + "\n"


class Decisions:
    """A decision-DNNF by trying the first variable's values, in either format; equal subformulas once."""

    def __init__(self, clauses: Clauses) -> None:
        self.c2d: list[str] = []
        self.d4: list[str] = ["o 1 0", "t 2 0", "f 3 0"]
        self.edges: list[str] = []
        self.known: dict[tuple, tuple[int, int]] = {}
        self.constants = self._c2d("A 0"), self._c2d("O 0 0")
        root, place = self._node(tuple(sorted(map(tuple, clauses))))
        self._c2d(f"A 1 {root}")
        self.edges.insert(0, f"1 {place} 0")

    def c2d_text(self, num_variables: int) -> str:
        edges = sum(max(0, len(line.split()) - {"L": 2, "A": 2, "O": 3}[line[0]]) for line in self.c2d)
        return f"nnf {len(self.c2d)} {edges} {num_variables}\n" + "\n".join(self.c2d) + "\n"

    def d4_text(self) -> str:
        return "\n".join([*self.d4, *self.edges]) + "\n"

    def _node(self, clauses: tuple) -> tuple[int, int]:
        if not clauses:
            return self.constants[0], 2
        if () in clauses:
            return self.constants[1], 3
        if clauses not in self.known:
            variable = min(abs(v) for c in clauses for v in c)
            branches = []
            for literal in (variable, -variable):
                rest = tuple(sorted({tuple(v for v in c if v != -literal) for c in clauses if literal not in c}))
                branches.append((literal, *self._node(rest)))
            ands = [self._c2d(f"A 2 {self._c2d(f'L {literal}')} {child}") for literal, child, _ in branches]
            place = len(self.d4) + 1
            self.d4.append(f"o {place} 0")
            self.edges += [f"{place} {child} {literal} 0" for literal, _, child in branches]
            self.known[clauses] = self._c2d(f"O {variable} 2 {ands[0]} {ands[1]}"), place
        return self.known[clauses]

    def _c2d(self, line: str) -> int:
        self.c2d.append(line)
        return len(self.c2d) - 1


class RandomPsdd:
    """A normalised PSDD over a random vtree, as the text of its two files."""

    def __init__(self, seed: int, num_variables: int) -> None:
        self.random = random.Random(seed)
        self.vtree_lines: list[str] = []
        self.children: dict[int, tuple[int, int]] = {}
        self.variables: dict[int, list[int]] = {}
        self.lines: list[str] = []
        self.anything: dict[int, list[int]] = {}
        order = self.random.sample(range(1, num_variables + 1), num_variables)
        self._any(self._split(order))

    @property
    def vtree(self) -> str:
        return f"c a vtree\nvtree {len(self.vtree_lines)}\n" + "\n".join(self.vtree_lines) + "\n"

    @property
    def psdd(self) -> str:
        return f"c a psdd\npsdd {len(self.lines)}\n" + "\n".join(self.lines) + "\n"

    def _split(self, variables: list[int]) -> int:
        if len(variables) == 1:
            v = len(self.vtree_lines)
            self.vtree_lines.append(f"L {v} {variables[0]}")
        else:
            cut = self.random.randint(1, len(variables) - 1)
            left, right = self._split(variables[:cut]), self._split(variables[cut:])
            v = len(self.vtree_lines)
            self.vtree_lines.append(f"I {v} {left} {right}")
            self.children[v] = left, right
        self.variables[v] = variables
        return v

    def _any(self, v: int) -> int:
        """A node without zeros; some are shared."""
        if v in self.anything and self.random.random() < 0.5:
            return self.random.choice(self.anything[v])
        p = self.random.uniform(0.1, 0.9)
        if v not in self.children:
            node = self._add(f"T {{}} {v} {self.variables[v][0]} {math.log(p)!r}")
        else:
            left, right = self.children[v]
            variable = self.random.choice(self.variables[left])
            parts = [
                f"{self._fixed(left, literal)} {self._any(right)} {math.log(share)!r}"
                for literal, share in ((variable, p), (-variable, 1 - p))
            ]
            node = self._add(f"D {{}} {v} 2 {' '.join(parts)}")
        self.anything.setdefault(v, []).append(node)
        return node

    def _fixed(self, v: int, literal: int) -> int:
        """A node that is positive where the literal holds."""
        if v not in self.children:
            return self._add(f"L {{}} {v} {literal}")
        left, right = self.children[v]
        first = self._fixed(left, literal) if abs(literal) in self.variables[left] else self._any(left)
        second = self._fixed(right, literal) if abs(literal) in self.variables[right] else self._any(right)
        return self._add(f"D {{}} {v} 1 {first} {second} 0.0")

    def _add(self, line: str) -> int:
        self.lines.append(line.format(len(self.lines)))
        return len(self.lines) - 1


def psdd_values(text: str, x: torch.Tensor) -> torch.Tensor:
    """The value of a PSDD's root on each row, as the format defines it."""
    values: dict[int, torch.Tensor] = {}
    for line in text.splitlines():
        if line.startswith(("c", "psdd")):
            continue
        kind, number, _, *rest = line.split()
        if kind == "D":
            triples = [rest[1:][n : n + 3] for n in range(0, len(rest) - 1, 3)]
            values[int(number)] = sum(values[int(p)] * values[int(s)] * math.exp(float(w)) for p, s, w in triples)
            continue
        literal = int(rest[0])
        holds = (x[:, abs(literal) - 1] == int(literal > 0)).double()
        if kind == "T":
            p = math.exp(float(rest[1]))
            holds = holds * p + (1 - holds) * (1 - p)
        values[int(number)] = holds
    return list(values.values())[-1]


def write(folder: Path, **texts: str) -> list[Path]:
    """One file a text, named by its suffix."""
    paths = [folder / f"formula.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    return paths
