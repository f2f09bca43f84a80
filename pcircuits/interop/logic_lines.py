"""Text files of numbers, line by line, with errors that say where."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pcircuits.errors import FormatError
from pcircuits.files import read_bytes


class Line(NamedTuple):
    number: int
    words: list[str]

    @property
    def kind(self) -> str:
        return self.words[0]

    def integers(self, start: int = 1) -> list[int]:
        """All words from `start` on."""
        return [self.integer(place) for place in range(start, len(self.words))]

    def integer(self, place: int) -> int:
        try:
            return int(self.words[place])
        except (ValueError, IndexError):
            found = repr(self.words[place])[:80] if place < len(self.words) else "nothing"
            raise FormatError(f"word {place + 1} must be an integer, got {found}") from None

    def number_at(self, place: int) -> float:
        """A real number or minus infinity."""
        try:
            value = float(self.words[place])
        except (ValueError, IndexError):
            value = float("nan")
        if not value < float("inf"):
            found = repr(self.words[place])[:80] if place < len(self.words) else "nothing"
            raise FormatError(f"word {place + 1} must be a log probability, got {found}")
        return value


def read_lines(path: str | os.PathLike) -> list[Line]:
    """The lines that are neither empty nor comments ("c ...").

    Raises:
        FormatError: a file that cannot be read or is no text.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no text file: {error}") from error
    lines = (Line(number, line.split()) for number, line in enumerate(text.split("\n"), start=1))
    return [line for line in lines if line.words and line.kind != "c"]


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Errors name the file."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


@contextmanager
def at(line: Line) -> Iterator[None]:
    """Errors name the line."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"line {line.number}: {error}") from error


def require_header(lines: list[Line], *words: str, numbers: int) -> list[int]:
    """The numbers of the first line, which must start with `words`."""
    found = lines[0].words[: len(words)] if lines else []
    if found != list(words) or len(lines[0].words) != len(words) + numbers:
        got = " ".join(lines[0].words)[:80] if lines else "nothing"
        raise FormatError(f"it must start with '{' '.join(words)}' and {numbers} numbers, got {got!r}")
    with at(lines[0]):
        return lines[0].integers(len(words))
