"""Every field of `Settings` as an option: a new one needs no line here."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any

import typer

from pcircuits_diffusion.decoding import Settings

PLAIN = (int, float, str, bool)
_ENTRY = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that ends in `**settings` one option a field; those that were given arrive by name."""

    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    options = list(_options({parameter.name for parameter in own}))

    def parsed(**values: Any) -> None:
        left_out = {option.name for option in options if values[option.name] in (None, [])}
        command(**{name: value for name, value in values.items() if name not in left_out})

    parameters = [*own, *options]
    parsed.__name__, parsed.__doc__ = command.__name__, command.__doc__
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return parsed


def _options(taken: set[str]) -> Iterator[inspect.Parameter]:
    types, words = typing.get_type_hints(Settings), dict(_ENTRY.findall(Settings.__doc__ or ""))
    for field in dataclasses.fields(Settings):
        kind = _plain(types[field.name])
        if kind is None or field.name in taken:
            continue
        text = " ".join(words.get(field.name, "").split())
        if field.default not in (dataclasses.MISSING, None, ()):
            text = f"{text} Default: {field.default}."
        option = typer.Option(help=text, show_default=False)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain(annotation: Any) -> Any:
    """The type of a value that can be written on a command line, a list of them repeated; None for others."""
    choices = typing.get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = [choice for choice in choices if choice is not NoneType]
    if len(kinds) != 1:
        return None
    items = typing.get_args(kinds[0])
    if typing.get_origin(kinds[0]) in (Sequence, list, tuple) and set(items) - {...} <= set(PLAIN):
        return list[items[0]]  # type: ignore[valid-type]
    return kinds[0] if kinds[0] in PLAIN else None
