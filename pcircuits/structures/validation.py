"""Argument checks that the builders share: each error names the argument, what was given and what would do."""

import operator
from typing import Any

from pcircuits.errors import StructureError


def require_integer(name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
    """`value` as a Python int from `minimum` to `maximum`, both included; bools and floats do not pass."""
    wanted = f"an integer of at least {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):
        raise StructureError(f"{name} must be {wanted}, got {value!r}") from None
    if isinstance(value, bool) or number < minimum or (maximum is not None and number > maximum):
        raise StructureError(f"{name} must be {wanted}, got {value!r}")
    return number


def require_order(name: str, order: Any, num_variables: int) -> list[int]:
    """`order` as a list that holds each variable of 0..D-1 once."""
    variables = [require_integer(f"{name}[{i}]", v, minimum=0, maximum=num_variables - 1) for i, v in enumerate(order)]
    if len(variables) != num_variables or len(set(variables)) != num_variables:
        raise StructureError(
            f"{name} must hold each variable 0..{num_variables - 1} once, "
            f"got {len(variables)} entries, {len(set(variables))} of them distinct"
        )
    return variables
