"""Formulas in conjunctive normal form, compiled by PySDD."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from pcircuits.circuit import Circuit
from pcircuits.errors import FormatError, StructureError
from pcircuits.interop.logic_lines import at, read_lines, reading
from pcircuits.interop.logic_nodes import MOST_VARIABLES
from pcircuits.interop.sdd import read_sdd

_VTREES = ("balanced", "right", "left", "vertical", "random")
Clauses = Sequence[Sequence[int]]


def compile_cnf(
    cnf: str | os.PathLike | Iterable[Iterable[int]],
    *,
    num_variables: int | None = None,
    vtree: str = "balanced",
    dtype: torch.dtype = torch.float64,
) -> Circuit:
    """The uniform distribution over the models of a formula in conjunctive normal form, as a deterministic circuit.

    `model_count` counts them, `Evidence` conditions them or gives each literal a weight, `fit` learns their
    distribution. The formula is compiled into a sentential decision diagram by PySDD (`pip install
    'pcircuits[logic]'`): the size of that can grow exponentially with the formula's treewidth.

    Args:
        cnf: a DIMACS file, or clauses: lists of literals v or -v, variables counted from 1. Variable v is variable
            v - 1 of the circuit, and true is 1.
        num_variables: D, default what the file says, or the largest variable in a clause.
        vtree: how the variables split: "balanced", "right" or "left" (linear), "vertical" or "random".

    Raises:
        FormatError: a file that is no DIMACS file, or whose clauses have no common model.
        StructureError: clauses of anything but literals, or without a common model.
    """
    if vtree not in _VTREES:
        raise StructureError(f"`vtree` must be one of {', '.join(_VTREES)}, got {vtree!r}")
    if isinstance(cnf, str | os.PathLike):
        with reading(cnf):
            clauses, stated = _read(cnf)
            try:
                return compile_cnf(clauses, num_variables=num_variables or stated, vtree=vtree, dtype=dtype)
            except StructureError as error:
                raise FormatError(str(error)) from error
    clauses = [list(clause) for clause in cnf]
    _require_literals(clauses)
    largest = max((abs(literal) for clause in clauses for literal in clause), default=0)
    count = largest if num_variables is None else num_variables
    if not isinstance(count, int) or not max(largest, 1) <= count <= MOST_VARIABLES:
        raise StructureError(f"`num_variables` must be from {max(largest, 1)} to {MOST_VARIABLES}, got {count!r}")
    if [] in clauses:
        raise StructureError("the clauses have no model: one of them is empty")
    return _compile(clauses, count, vtree, dtype)


def _require_literals(clauses: Clauses) -> None:
    if bad := [x for clause in clauses for x in clause if type(x) is not int or x == 0]:
        raise StructureError(f"a clause must hold integers other than 0, got {bad[0]!r:.80}")


def _compile(clauses: Clauses, num_variables: int, vtree: str, dtype: torch.dtype) -> Circuit:
    """Clause by clause, those of the first variables first; the diagram goes through its files."""
    try:
        from pysdd.sdd import SddManager, Vtree
    except ImportError as error:
        raise ModuleNotFoundError("compile_cnf needs PySDD: pip install 'pcircuits[logic]'") from error
    tree = Vtree(var_count=num_variables, vtree_type=vtree)
    manager = SddManager.from_vtree(tree)
    formula = manager.true()
    for clause in sorted(clauses, key=lambda c: sorted(map(abs, c))):
        disjunction = manager.false()
        for literal in clause:
            disjunction = disjunction | manager.literal(literal)
        formula = formula & disjunction
        if formula.is_false():
            raise StructureError("the clauses have no model in common")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("formula.sdd", "formula.vtree")]
        formula.save(bytes(files[0]))
        manager.vtree().save(bytes(files[1]))
        return read_sdd(*files, dtype=dtype)


def _read(path: str | os.PathLike) -> tuple[list[list[int]], int]:
    """Clauses and number of variables of a DIMACS file; "%" ends it, as in SATLIB's."""
    lines = read_lines(path)
    if not lines or lines[0].words[:2] != ["p", "cnf"] or len(lines[0].words) != 4:
        raise FormatError("it must start with 'p cnf' and the numbers of variables and clauses")
    with at(lines[0]):
        variables, count = lines[0].integers(2)
    if not 0 <= variables <= MOST_VARIABLES:
        raise FormatError(f"it has {variables} variables, expected 1 to {MOST_VARIABLES}")
    clauses: list[list[int]] = [[]]
    for line in lines[1:]:
        if line.kind == "%":
            break
        with at(line):
            for literal in line.integers(0):
                if abs(literal) > variables:
                    raise FormatError(f"literal {literal} is beyond the {variables} variables")
                clauses[-1].append(literal)
                if literal == 0:
                    clauses[-1].pop()
                    clauses.append([])
    if clauses[-1]:
        raise FormatError("its last clause does not end with 0")
    if len(clauses) - 1 != count:
        raise FormatError(f"it has {len(clauses) - 1} clauses, its first line says {count}")
    return clauses[:-1], variables
