"""From an automaton over characters to one over bytes, and from bytes to a tokenizer's tokens.

Axes: S states, C classes of tokens, V tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

import pcircuits as pc
from pcircuits_diffusion.constraints.automaton import DEAD, TokenAutomaton
from pcircuits_diffusion.constraints.combine import minimised

PADDING = 256  # the column that changes nothing, behind the last byte of a token
MOST_ENTRIES = 1 << 24  # entries of a table of states by tokens that are worked on at once

Pieces = tuple[tuple[int, int], ...]  # (first code point, target), ascending; each holds up to the next


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """`table[s, b]` is the state after byte b, -1 dead; the first state is 0."""

    table: np.ndarray
    accepting: np.ndarray

    def accepts(self, text: bytes) -> bool:
        state = 0
        for byte in text:
            if (state := int(self.table[state, byte])) < 0:
                return False
        return bool(self.accepting[state])


def from_characters(moves: Sequence[Mapping[int, int]], others: Sequence[int], accepting: set[int]) -> ByteAutomaton:
    """The automaton over the UTF-8 bytes of an automaton over characters whose first state is 0.

    Args:
        moves: for each state its next state by code point.
        others: for each state its next state by any other character; -1 is dead.
    """
    encoder = _Encoder(len(moves))
    for state, (known, other) in enumerate(zip(moves, others, strict=True)):
        encoder.add(state, _pieces(known, other))
    table = np.stack(encoder.rows)
    return ByteAutomaton(table, np.isin(np.arange(len(table)), sorted(accepting)))


class _Encoder:
    """Rows of a byte table; between the bytes of a character it is in states of its own, shared where all that can
    follow is the same.
    """

    def __init__(self, num_states: int) -> None:
        self.rows = [np.full(256, DEAD, dtype=np.int32) for _ in range(num_states)]
        self.inner: dict[tuple[int, Pieces], int] = {}

    def add(self, state: int, pieces: Pieces) -> None:
        """Well-formed UTF-8 only: no overlong forms, nothing above U+10FFFF (Unicode 15, Table 3-7)."""
        for byte in range(0x80):
            self.rows[state][byte] = _cut(pieces, byte, byte + 1)[0][1]
        for first_byte, stop_byte, following in ((0xC2, 0xE0, 1), (0xE0, 0xF0, 2), (0xF0, 0xF5, 3)):
            least, size = {1: 0x80, 2: 0x800, 3: 0x10000}[following], 64**following
            encodable = ((0, DEAD), *((start + least, target) for start, target in _cut(pieces, least, 1 << 21)))
            for byte in range(first_byte, stop_byte):
                code = (byte - {1: 0xC0, 2: 0xE0, 3: 0xF0}[following]) * size
                self.rows[state][byte] = self._target(_cut(encodable, code, code + size), size)

    def _target(self, pieces: Pieces, size: int) -> int:
        """The state that reads the rest of a character, one of `size` code points."""
        if size == 1 or pieces == ((0, DEAD),):
            return pieces[0][1]
        if (size, pieces) not in self.inner:
            self.inner[size, pieces] = len(self.rows)
            self.rows.append(np.full(256, DEAD, dtype=np.int32))
            row, part = self.rows[-1], size // 64
            for i in range(64):
                row[0x80 + i] = self._target(_cut(pieces, i * part, (i + 1) * part), part)
        return self.inner[size, pieces]


def _pieces(known: Mapping[int, int], other: int) -> Pieces:
    target_from = {0: other}
    for code in sorted(known):
        target_from[code] = known[code]
        target_from[code + 1] = other
    below = _cut(tuple(target_from.items()), 0, 0xD800)
    above = _cut(tuple(target_from.items()), 0xE000, 0x110000)
    surrogates = ((0xD800, DEAD),)
    return below + surrogates + tuple((start + 0xE000, target) for start, target in above) + ((0x110000, DEAD),)


def _cut(pieces: Pieces, first: int, stop: int) -> Pieces:
    """What holds from `first` to before `stop`, counted from `first`; equal neighbours are one piece."""
    starts = [start for start, _ in pieces]
    found: list[tuple[int, int]] = []
    for start, target in pieces[np.searchsorted(starts, first, side="right") - 1 :]:
        if start >= stop:
            break
        if not found or found[-1][1] != target:
            found.append((max(start - first, 0), target))
    return tuple(found)


def lift(automaton: ByteAutomaton, spellings: Sequence[bytes | None]) -> TokenAutomaton:
    """The sequences of tokens whose bytes the automaton accepts, however the text is cut into tokens.

    Raises:
        pc.ParameterError: there are none.
    """
    states = len(automaton.table)
    dead = states  # as a row of its own, so that it can be looked up
    table = np.full((states + 1, PADDING + 1), dead, dtype=np.int32)
    table[:states, :PADDING] = np.where(automaton.table < 0, dead, automaton.table)
    table[:, PADDING] = np.arange(states + 1)
    classes = np.full(len(spellings), DEAD, dtype=np.int64)
    columns: dict[bytes, int] = {}
    spelled = sorted((len(spelling), index) for index, spelling in enumerate(spellings) if spelling)
    width = max(1, MOST_ENTRIES // (states + 1))
    for at in range(0, len(spelled), width):
        index = [i for _, i in spelled[at : at + width]]
        for i, column in zip(index, _walk(table, [spellings[i] or b"" for i in index]), strict=True):
            classes[i] = columns.setdefault(column.tobytes(), len(columns))
    transitions = np.stack([np.frombuffer(column, dtype=np.int32) for column in columns], 1).astype(np.int64)
    found = TokenAutomaton(
        torch.from_numpy(np.where(transitions == dead, DEAD, transitions)),
        torch.from_numpy(classes),
        torch.from_numpy(automaton.accepting),
    )
    if found.shortest is None:
        raise pc.ParameterError("no sequence of this tokenizer's tokens spells a text that the constraint accepts")
    return minimised(found)


def _walk(table: np.ndarray, tokens: list[bytes]) -> np.ndarray:
    """For each token the state that each state leads to, (tokens, states)."""
    longest = max(map(len, tokens))
    padded = np.full((len(tokens), longest), PADDING)
    for row, token in zip(padded, tokens, strict=True):
        row[: len(token)] = np.frombuffer(token, dtype=np.uint8)
    reached = np.broadcast_to(np.arange(len(table) - 1, dtype=np.int32), (len(tokens), len(table) - 1))
    for column in padded.T:
        reached = table[reached, column[:, None]]
    return np.ascontiguousarray(reached)
