"""How a text is shown while it forms."""

from types import TracebackType

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from pcircuits.types import Int, Tensor
from pcircuits_diffusion.streaming import Decode, board, decided_prefix, readable


class View:
    """Keeps the last step's tokens (B, N); `shown` once the text itself has been written."""

    shown = False

    def __init__(self, decode: Decode, mask_id: int, eos_id: int | None) -> None:
        self.decode, self.mask_id, self.eos_id = decode, mask_id, eos_id
        self.tokens: Int[Tensor, "B N"] | None = None

    def show(self, tokens: Int[Tensor, "B N"]) -> None:
        self.tokens = tokens

    def texts(self) -> list[str]:
        """The text of each row."""
        rows = [] if self.tokens is None else list(self.tokens)
        return [self.decode(decided_prefix(row, self.mask_id, self.eos_id)) for row in rows]

    def __enter__(self) -> "View":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


class Silent(View):
    """Nothing until the end."""


class Prefix(View):
    """The beginning of a single text, as far as it is decided: what was written once stays."""

    written = ""

    def show(self, tokens: Int[Tensor, "B N"]) -> None:
        super().show(tokens)
        text = readable(self.decode, decided_prefix(tokens[0], self.mask_id, self.eos_id))
        if text.startswith(self.written):
            typer.echo(text[len(self.written) :], nl=False)
            self.written = text

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            (text,) = self.texts()
            typer.echo(text[len(self.written) :])
            self.shown = True


class Board(View):
    """All rows in a terminal, redrawn at each step, dots where tokens are undecided."""

    def __enter__(self) -> "Board":
        self.live = Live(auto_refresh=False).__enter__()
        return self

    def show(self, tokens: Int[Tensor, "B N"]) -> None:
        super().show(tokens)
        rows = (board(self.decode, row, self.mask_id, self.eos_id) for row in tokens)
        self.live.update(Group(*(Text(row + "\n" * (len(tokens) > 1)) for row in rows)), refresh=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.__exit__(kind, error, at)
        self.shown = True
