"""Shape annotations are checked while tests run, at a fraction of what jaxtyping's own decorator costs.

jaxtyping's import hook puts `jaxtyping.jaxtyped` around every function. That decorator binds the arguments three times
a call and checks them twice, and builds its checks at import, or at every call for functions that are defined in
others. The one here checks the same annotations, in the same context of axes, with checks that are built at a
function's first call and kept.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple, NoReturn, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
_AXES, _NO_AXES = _jaxtyped("context"), contextlib.nullcontext()
_checking = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
_OF_INNER_FUNCTIONS: dict[tuple, "Checks"] = {}


class Checks(NamedTuple):
    arguments: Callable[..., None]
    result: Callable[[Any], None]
    of_shapes: bool


def install() -> None:
    """To be called before the packages are imported."""
    jaxtyping.jaxtyped = jaxtyped


def jaxtyped(fn: Any = None, **options: Any) -> Any:
    """What the import hook calls, with a class or a bare function; anything else is left to jaxtyping."""
    if fn is None:
        return functools.partial(jaxtyped, **options)
    if isinstance(fn, type):
        if dataclasses.is_dataclass(fn) and not hasattr(fn.__init__, "__wrapped__"):
            fn.__init__ = checked(fn.__init__)  # type: ignore[misc]
        return fn
    if not isinstance(fn, FunctionType) or inspect.isgeneratorfunction(fn):
        return _jaxtyped(fn, **options)
    return checked(fn)


def checked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises a `jaxtyping.TypeCheckError` where a value does not fit its annotation."""
    if not fn.__annotations__:
        return fn
    checks: Checks | None = None

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checks
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        if checks is None:
            checks = _checks_of(fn)
        with _AXES if checks.of_shapes else _NO_AXES:
            checks.arguments(*args, **kwargs)
            result = fn(*args, **kwargs)
            checks.result(result)
        return result

    return call


def _checks_of(fn: Callable[..., Any]) -> Checks:
    if "<locals>" not in fn.__qualname__:
        return _build_checks(fn)
    key = (fn.__module__, fn.__qualname__, fn.__code__)
    if key not in _OF_INNER_FUNCTIONS:
        _OF_INNER_FUNCTIONS[key] = _build_checks(fn)
    return _OF_INNER_FUNCTIONS[key]


def _build_checks(fn: Callable[..., Any]) -> Checks:
    hints = {name: _evaluated(hint, fn.__globals__) for name, hint in fn.__annotations__.items()}
    of_shapes = any(map(_has_shape, hints.values()))
    of_result = hints.pop("return", Any)

    def arguments(*args: Any, **kwargs: Any) -> None: ...

    def result(value: Any) -> None: ...

    functools.update_wrapper(arguments, fn).__annotations__ = hints  # beartype reads the parameters of what is wrapped
    result.__annotations__ = {"value": Any if of_result is NoReturn else of_result}
    return Checks(_checking(arguments), _checking(result), of_shapes)


def _evaluated(hint: Any, names: dict[str, Any]) -> Any:
    """A hint without forward references; anything fits where a name is imported for type checkers only."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"hint": hint}), names, include_extras=True)["hint"]
    except NameError:
        return Any


def _has_shape(hint: Any) -> bool:
    parts = hint if isinstance(hint, list) else get_args(hint)
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or any(map(_has_shape, parts))
