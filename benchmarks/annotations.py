"""GSM8K's calculator annotations, `<<48/2=24>>`: found in a text, parsed, and checked."""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

_OPENING = re.compile(r"<<(?P<inside>.*?)(?P<end>>>|(?=<<)|\n|\Z)")
_EXPRESSION = re.compile(r"[0-9+\-*/.() ]+")
_VALUE = re.compile(r"-?(\d+\.?\d*|\.\d+)")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Annotation(NamedTuple):
    """What stands between `<<` and `>>`.

    `well_formed`: an expression of numbers with + - * / and brackets, "=", and one number; `right`: the number is the
    expression's value; `operators`: how many the expression has.
    """

    text: str
    well_formed: bool
    right: bool
    operators: int


def annotations(text: str, *, complete: bool = True) -> list[Annotation]:
    """All annotations that a text opens. One that the end of the text cuts off counts only in a `complete` text."""
    found = []
    for match in _OPENING.finditer(text):
        if match["end"] == ">>":
            found.append(check(match["inside"]))
        elif complete or match.end() < len(text):
            found.append(Annotation(match["inside"], False, False, 0))
    return found


def check(inside: str) -> Annotation:
    """Parses and evaluates the inside of one annotation.

    >>> check("48/2=24").right, check("48/2=25").right, check("48/=24").well_formed
    (True, False, False)
    """
    expression, equals, value = inside.rpartition("=")
    expression, value = expression.strip(), value.strip()
    tree = _parse(expression)
    if not equals or tree is None or not _VALUE.fullmatch(value):
        return Annotation(inside, False, False, 0)
    operators = sum(isinstance(node, ast.BinOp) for node in ast.walk(tree))
    try:
        exact = _evaluate(tree)
    except ZeroDivisionError:
        return Annotation(inside, True, False, operators)
    return Annotation(inside, True, _agrees(value, exact), operators)


def _agrees(value: str, exact: Fraction) -> bool:
    """Decimals may be rounded or cut off: less than one unit of the last one away; whole numbers must be exact."""
    error, decimals = abs(Fraction(value) - exact), len(value.partition(".")[2])
    return error == 0 or (decimals > 0 and error < Fraction(1, 10**decimals))


def _parse(expression: str) -> ast.expr | None:
    """The syntax tree of an arithmetic expression; None where it is not one."""
    if not _EXPRESSION.fullmatch(expression):
        return None
    try:
        tree = ast.parse(_LEADING_ZEROS.sub("", expression), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if _is_arithmetic(tree) else None


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OPERATORS and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.UAdd) and _is_arithmetic(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and abs(node.value) < float("inf")


def _evaluate(node: ast.expr) -> Fraction:
    """The exact value; decimals count as written."""
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    assert isinstance(node, ast.Constant)
    return Fraction(str(node.value))
