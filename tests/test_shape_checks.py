"""The checks of shape annotations that tests run under say what jaxtyping's own decorator says."""

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import jaxtyping
import pytest
import torch
from beartype import beartype

import pcircuits as pc
from pcircuits.kernels.dense_sum.reference import linear_sum
from pcircuits.types import Float, Int, Tensor
from tests import shape_checks

VECTOR, MATRIX, INTEGERS = torch.zeros(3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)


def same_axis(x: Float[Tensor, "A B"], y: Float[Tensor, " B"]) -> Float[Tensor, "A B"]:
    return x + y


def result_has_axis(x: Float[Tensor, " A"], size: int) -> Float[Tensor, " A"]:
    return x.new_zeros(size)


def optional(x: Float[Tensor, " A"] | None = None, *, y: Int[Tensor, " A"] | None = None) -> None: ...


def many(*x: Float[Tensor, " A"], **y: Float[Tensor, " A"]) -> list[Float[Tensor, " A"]]:
    return [*x, *y.values()]


def pair(x: tuple[Float[Tensor, " A"], Int[Tensor, " A"]]) -> "tuple[Tensor, Tensor]":
    return x


def callback(call: Callable[[int], int], *, size: int = 3) -> int:
    return call(size)  # type: ignore[no-any-return]


def own_axes(x: Float[Tensor, " A"]) -> Float[Tensor, " A"]:
    CHECKED[0]["same_axis"](torch.zeros(5, 7), torch.zeros(7))
    return x


def plain(size: int) -> str:
    return "a" if size else 1  # type: ignore[return-value]


def outer(x: Float[Tensor, " A"], y: Float[Tensor, " A"]) -> int:
    return len(x) + len(y)


def generator(x: Float[Tensor, " A"]) -> Iterator[int]:
    yield len(x)


def never() -> NoReturn:
    raise ZeroDivisionError


@dataclasses.dataclass(frozen=True)
class Pair:
    x: Float[Tensor, " A"]
    y: Float[Tensor, " A"]
    size: int = 3


CASES: list[tuple[str, tuple, dict[str, Any]]] = [
    ("same_axis", (MATRIX, VECTOR), {}),
    ("same_axis", (MATRIX,), {"y": VECTOR}),
    ("same_axis", (MATRIX,), {"y": torch.zeros(1)}),
    ("same_axis", (MATRIX, torch.zeros(2)), {}),
    ("same_axis", (VECTOR, VECTOR), {}),
    ("same_axis", (MATRIX, INTEGERS), {}),
    ("same_axis", (MATRIX, [0.0]), {}),
    ("result_has_axis", (VECTOR, 3), {}),
    ("result_has_axis", (VECTOR, 4), {}),
    ("result_has_axis", (VECTOR, 3.0), {}),
    ("optional", (), {}),
    ("optional", (VECTOR,), {"y": INTEGERS}),
    ("optional", (VECTOR,), {"y": VECTOR}),
    ("optional", (VECTOR,), {"y": torch.zeros(4, dtype=torch.long)}),
    ("optional", (MATRIX,), {}),
    ("many", (VECTOR, VECTOR), {"z": VECTOR}),
    ("many", (VECTOR, MATRIX), {}),
    ("many", (VECTOR,), {"z": torch.zeros(4)}),
    ("pair", ((VECTOR, INTEGERS),), {}),
    ("pair", ((VECTOR, VECTOR),), {}),
    ("pair", ((VECTOR,),), {}),
    ("callback", (abs,), {}),
    ("callback", (3,), {}),
    ("callback", (lambda size: None,), {}),
    ("callback", (abs,), {"size": "3"}),
    ("own_axes", (VECTOR,), {}),
    ("own_axes", (MATRIX,), {}),
    ("plain", (1,), {}),
    ("plain", (0,), {}),
    ("plain", ("1",), {}),
    ("outer", (VECTOR, VECTOR), {}),
    ("outer", (VECTOR, torch.zeros(4)), {}),
    ("generator", (VECTOR,), {}),
    ("generator", (MATRIX,), {}),
    ("never", (), {}),
    ("Pair", (VECTOR, VECTOR), {}),
    ("Pair", (VECTOR, torch.zeros(4)), {}),
    ("Pair", (VECTOR, VECTOR), {"size": "3"}),
]
NAMES = dict.fromkeys(name for name, _, _ in CASES)


def each(decorate: Callable[..., Any]) -> dict[str, Any]:
    """All functions above under a decorator; it changes a class in place, so each has a class of its own."""
    found = {name: globals()[name] for name in NAMES}
    found["Pair"] = dataclasses.make_dataclass("Pair", [(f.name, f.type, f) for f in dataclasses.fields(Pair)])
    return {name: decorate(value, typechecker=beartype) for name, value in found.items()}


CHECKED = [each(shape_checks.jaxtyped), each(shape_checks._jaxtyped)]


def is_fit(call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bool:
    try:
        call(*args, **kwargs)
    except ZeroDivisionError:
        return True
    except jaxtyping.TypeCheckError:
        return False
    return True


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_it_refuses_what_jaxtyping_refuses(name: str, args: tuple, kwargs: dict[str, Any]) -> None:
    for _ in range(2):  # checks are kept from the first call
        ours, theirs = (is_fit(functions[name], args, kwargs) for functions in CHECKED)
        assert ours == theirs


def test_cases_are_of_both_kinds() -> None:
    verdicts = {name: [is_fit(CHECKED[0][name], *rest) for n, *rest in CASES if n == name] for name in NAMES}
    assert all(True in found for found in verdicts.values())
    assert all(False in found for name, found in verdicts.items() if name != "never")


def test_inner_functions_share_checks_and_keep_their_own_variables() -> None:
    def make(size: int) -> Callable[..., Any]:
        def inner(x: Float[Tensor, " A"]) -> Float[Tensor, " A"]:
            return x.new_zeros(size)

        return shape_checks.checked(inner)

    three, four = make(3), make(4)
    assert len(three(VECTOR)) == 3 and len(four(torch.zeros(4))) == 4
    for call, size in ((three, 4), (four, 3)):
        with pytest.raises(jaxtyping.TypeCheckError):
            call(torch.zeros(size))
    assert len([key for key in shape_checks._OF_INNER_FUNCTIONS if key[1] == three.__qualname__]) == 1


def test_names_that_are_known_only_later_are_checked_and_those_of_type_checkers_are_not() -> None:
    def later(x: "Later", y: "imported_for_mypy_alone") -> None: ...  # type: ignore[name-defined]

    call = shape_checks.checked(later)
    later.__globals__["Later"] = int
    call(1, SimpleNamespace())
    with pytest.raises(jaxtyping.TypeCheckError):
        call("1", SimpleNamespace())
    del later.__globals__["Later"]


def test_they_can_be_switched_off() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert CHECKED[0]["outer"](VECTOR, torch.zeros(4)) == 7
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_the_packages_run_under_them() -> None:
    assert pc.structures.chain.__code__.co_filename == shape_checks.__file__
    with pytest.raises(jaxtyping.TypeCheckError):
        linear_sum(torch.zeros(1, 2, 3), torch.zeros(1, 4, 5))
    with pytest.raises(jaxtyping.TypeCheckError):
        pc.structures.chain("3")  # type: ignore[arg-type]
