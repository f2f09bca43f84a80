"""Files that follow the grammars of Juice.jl: what a recursion over their lines says of each world is what is read."""

import itertools
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import pcircuits as pc
from pcircuits.interop import read_jlc, read_jpc, read_nnf, read_spn
from tests.interop.formulas import Decisions, cnfs, satisfies, worlds

SPN = """(2 2 2)
v 0 1
v 0 0
v 1 1
v 1 0
+ 0 -0.6931471805599453 1 -0.6931471805599453
+ 2 -1.2039728043259361 3 -0.35667494393873245
* 4 5
v 2 1
* 0 3 7
+ 6 -0.5108256237659907 8 -0.916290731874155
EOF
"""
JPC = """c this file was saved by ProbabilisticCircuits.jl
c
jpc 8
L 0 0 1
L 1 0 -1
C 2 0 2 -1.2039728043259361 -1.6094379124341003 -0.6931471805599453
I 3 0 2 1
B 4 0 3 4 -0.6931471805599453
P 5 0 3 0 2 4
P 6 0 3 1 3 4
S 7 0 2 5 -1.3862943611198906 6 -0.2876820724517809
"""
JLC = """c a logic circuit
jlc 8
L 0 0 1
L 1 0 -2
L 2 0 3
L 3 0 -1
T 4
A 5 1 2 0 1
A 6 1 3 3 2 4
O 7 1 2 5 6
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("juice")


def all_worlds(circuit: pc.Circuit) -> torch.Tensor:
    return torch.tensor(list(itertools.product(*(range(f.num_categories or 0) for f in circuit.inputs))))


def test_an_spn_is_its_sum_of_products(tmp_path: Path) -> None:
    """The last sum's second child has all three variables, the first two: there the third is uniform."""
    circuit = read_spn(write(tmp_path, "a.spn", SPN))
    worlds_, got = all_worlds(circuit), []
    for a, b, c in worlds_.tolist():
        first = 0.6 * 0.5 * (0.3 if b else 0.7)
        got.append(first + 0.4 * (a == 1 and b == 0 and c == 1))
    want = torch.tensor(got, dtype=torch.float64)
    assert torch.allclose(circuit.log_prob(worlds_).exp().detach(), want / want.sum(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_text_jpc_has_literals_indicators_categoricals_and_binomials(tmp_path: Path, dtype: torch.dtype) -> None:
    circuit = read_jpc(write(tmp_path, "a.jpc", JPC), dtype=dtype)
    assert [f.num_categories for f in circuit.inputs] == [2, 3, 5] and circuit.dtype == dtype
    x = all_worlds(circuit)
    of_second = torch.tensor([0.3, 0.2, 0.5])[x[:, 1]] * (x[:, 0] == 1) * 0.25 + 0.75 * (
        (x[:, 0] == 0) & (x[:, 1] == 1)
    )
    want = of_second * torch.from_numpy(binom.pmf(x[:, 2].numpy(), 4, 0.5))
    assert torch.allclose(circuit.log_prob(x).exp().detach(), want.double(), atol=1e-6)
    circuit.maximise(circuit.statistics(x[want > 0]))  # zeros stay zeros
    assert (circuit.log_prob(x)[want == 0]).isneginf().all()


def test_a_jlc_is_uniform_over_its_models(tmp_path: Path) -> None:
    circuit = read_jlc(write(tmp_path, "a.jlc", JLC))
    x = worlds(3)
    models = ((x[:, 0] == 1) & (x[:, 1] == 0)) | ((x[:, 0] == 0) & (x[:, 2] == 1))
    want = models.double().log() - models.double().sum().log()
    assert torch.allclose(circuit.log_prob(x).detach(), want, atol=1e-12)
    assert pc.model_count(circuit) == 4


class RandomCircuit:
    """Sums of any weights and any children, products of what shares no variable, with the value of each world."""

    def __init__(self, seed: int, num_variables: int, boolean: bool) -> None:
        self.rng, self.boolean = random.Random(seed), boolean
        self.sizes = [2 if boolean else self.rng.randint(2, 4) for _ in range(num_variables)]
        self.worlds = torch.tensor(list(itertools.product(*map(range, self.sizes))))
        self.scopes: list[set[int]] = []
        self.values: list[torch.Tensor] = []
        self.lines: list[str] = []
        for variable in range(num_variables):
            for _ in range(self.rng.randint(1, 3)):
                self._input(variable)
        for _ in range(self.rng.randint(3, 12)):
            self._inner()

    @property
    def probabilities(self) -> torch.Tensor:
        return self.values[-1] / self.values[-1].sum()

    def spn(self) -> str:
        return "\n".join([f"({' '.join(['2'] * len(self.sizes))})", *self.lines, "EOF", ""])

    def jpc(self) -> str:
        """Nodes may have any names."""
        return "\n".join([f"jpc {len(self.lines)}", *self.lines, ""])

    def _add(self, line: str, scope: set[int], value: torch.Tensor) -> None:
        number = len(self.lines)
        if not self.boolean:
            kind, rest = line.split(" ", 1)
            line = f"{kind} {number} 0 {rest}"
        self.lines.append(line)
        self.scopes.append(scope)
        self.values.append(value.double())

    def _input(self, variable: int) -> None:
        size, x = self.sizes[variable], self.worlds[:, variable]
        value, kind = self.rng.randrange(size), "v" if self.boolean else self.rng.choice("ICB" if size > 2 else "LICB")
        if kind in "vIL":
            sign = "" if value else "-"
            rest = {"v": f"{variable} {value}", "I": f"{variable + 1} {value}", "L": f"{sign}{variable + 1}"}[kind]
            self._add(f"{kind} {rest}", {variable}, x == value)
        elif kind == "C":
            logs = [self.rng.choice([-math.inf, *[self.rng.uniform(-3, 1)] * 3]) for _ in range(size - 1)]
            logs.append(self.rng.uniform(-3, 1))
            self._add(f"C {variable + 1} {' '.join(map(repr, logs))}", {variable}, torch.tensor(logs).double().exp()[x])
        else:
            n, p = self.rng.randint(1, size - 1), self.rng.choice([0.0, 0.25, 0.7, 1.0])
            log = repr(math.log(p)) if p else "-Inf"
            self._add(f"B {variable + 1} {n} {log}", {variable}, torch.from_numpy(binom.pmf(x.numpy(), n, p)))

    def _inner(self) -> None:
        order = self.rng.sample(range(len(self.lines)), len(self.lines))
        symbols = "*+" if self.boolean else "PS"
        if self.rng.random() < 0.5:
            chosen, scope = [], set[int]()
            for n in order:
                if not scope & self.scopes[n]:
                    chosen.append(n)
                    scope |= self.scopes[n]
            chosen = chosen[: self.rng.randint(1, 3)]
            scope = set().union(*(self.scopes[n] for n in chosen))
            value = torch.stack([self.values[n] for n in chosen]).prod(0)
            parts = list(map(str, chosen))
            line = symbols[0]
        else:
            chosen = [self.rng.choice(order) for _ in range(self.rng.randint(1, 3))]
            weights = [self.rng.uniform(-2, 2) for _ in chosen]
            scope = set().union(*(self.scopes[n] for n in chosen))
            value = sum(math.exp(w) * self.values[n] for n, w in zip(chosen, weights, strict=True))
            parts = [f"{n} {w!r}" for n, w in zip(chosen, weights, strict=True)]
            line = symbols[1]
        count = "" if self.boolean else f"{len(parts)} "
        self._add(f"{line} {count}{' '.join(parts)}", scope, value)


@settings(max_examples=60)
@given(st.integers(0, 1 << 20), st.integers(1, 4), st.booleans())
def test_any_sums_and_products_give_their_values(folder: Path, seed: int, num_variables: int, boolean: bool) -> None:
    made = RandomCircuit(seed, num_variables, boolean)
    text, read = (made.spn(), read_spn) if boolean else (made.jpc(), read_jpc)
    path = write(folder, "random.spn" if boolean else "random.jpc", text)
    if not made.values[-1].any():
        with pytest.raises(pc.FormatError, match="no model"):
            read(path)
        return
    circuit = read(path, dtype=torch.float64)
    got = torch.zeros(len(made.worlds), dtype=torch.float64)
    inside = (made.worlds < torch.tensor([f.num_categories for f in circuit.inputs])).all(1)
    got[inside] = circuit.log_prob(made.worlds[inside]).exp().detach()
    want = made.probabilities
    if not boolean:  # a variable has the values that its inputs speak of
        want = torch.where(inside, made.values[-1], 0.0)
        want = want / want.sum()
    assert torch.allclose(got, want, atol=1e-9)


@settings(max_examples=15)
@given(cnfs(max_variables=8))
def test_a_jlc_says_what_the_same_nnf_says(folder: Path, formula: tuple[list[list[int]], int]) -> None:
    clauses, count = formula
    if not satisfies(clauses, worlds(count)).any():
        return
    nnf = Decisions(clauses).c2d_text(count)
    nodes, used = [], set()
    for number, line in enumerate(nnf.strip().split("\n")[1:]):
        kind, *rest = line.split()
        children = rest[1 if kind == "A" else 2 :]
        if kind == "L":
            used.add(abs(int(rest[0])))
            nodes.append(f"L {number} 0 {rest[0]}")
        elif children:
            nodes.append(" ".join([kind, str(number), "0", str(len(children)), *children]))
        else:
            nodes.append(f"{'T' if kind == 'A' else 'F'} {number}")
    if not used:
        return
    text = "\n".join([f"jlc {len(nodes)}", *nodes, ""])
    circuit = read_jlc(write(folder, "random.jlc", text))
    same = read_nnf(write(folder, "random.nnf", nnf), num_variables=max(used))
    x = worlds(max(used))
    assert torch.allclose(circuit.log_prob(x).detach(), same.log_prob(x).detach(), atol=1e-10)


WRONG = {
    "jpc 2\nL 0 0 1\n": "says 2",
    "jpc 1\nL 0 0 0\n": "variable from 1 on",
    "jpc 1\nI 0 0 1 70000\n": "up to 65536 values",
    "jpc 1\nB 0 0 1 3 0.5\n": "at most 0",
    "jpc 2\nL 0 0 1\nP 1 0 2 0 0\n": "two children of a product hold variable 1",
    "jpc 2\nL 0 0 1\nS 1 0 1 5 0.0\n": "its child 5 is no earlier node",
    "jpc 2\nL 0 0 1\nS 1 0 2 0 0.0\n": "another number of children",
    "jpc 2\nL 0 0 1\nS 1 0 1 0 nan\n": "must be a log probability",
    "jpc 2\nL 0 0 1\nL 0 0 -1\n": "there twice",
    "jpc 2\nL 0 0 1\nX 1 0 1\n": "a node's kind is 'X'",
    "jpc 2\nL 0 0 1\nS 1 0 1 0 -inf\n": "no model",
    "jpc 3\nL 0 0 1\nS 1 0 1 0 1e308\nS 2 0 1 1 1e308\n": "beyond the range",
    "(2 2)\nv 0 1\n": "end with 'EOF'",
    "(2 3)\nv 0 1\nEOF\n": "must start with one 2 a variable",
    "(2)\nv 1 1\nEOF\n": "variable 2 is not one of",
    "(2)\nv 0 2\nEOF\n": "with a value of 0 or 1",
    "(2)\nn 0.5\nEOF\n": "expected 'v variable value'",
    "jlc 1\nT 0\n": "it has 0 variables",
    "jlc 1\nL 0 0 1 5\n": "it has 0 variables",
    "jlc 2\nL 0 0 1\nD 1 0 1 0\n": "expected 'T id'",
    "": "it must start with",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, text: str) -> None:
    readers = {"j": {"jpc": read_jpc, "jlc": read_jlc}.get(text[:3]), "(": read_spn, "": read_spn}
    path = write(tmp_path, "wrong", text)
    with pytest.raises(pc.FormatError, match=WRONG[text]) as error:
        readers[text[:1]](path)  # type: ignore[misc]
    assert str(path) in str(error.value)
    with pytest.raises(pc.ParameterError, match="dtype"):
        read_spn(write(tmp_path, "a.spn", SPN), dtype=torch.float16)
