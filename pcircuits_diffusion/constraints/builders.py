"""Automata of what people ask for: patterns, keywords, lengths, JSON schemas, tables by hand."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

import pcircuits as pc
from pcircuits.types import Tensor
from pcircuits_diffusion.constraints.automaton import DEAD, TokenAutomaton
from pcircuits_diffusion.constraints.byte_automaton import ByteAutomaton, from_characters, lift
from pcircuits_diffusion.constraints.combine import intersection, minimised
from pcircuits_diffusion.constraints.spelling import Tokens, spellings

MISSING = "constraints need the packages of the extra: pip install 'pcircuits[constraints]'"

# Escapes and character classes are passed over; what has a name is read by interegular otherwise than by `re`.
_SCAN = re.compile(
    r"\\.|(?P<bracket>\[\^?\])|\[(?:\\.|[^\]\\])*\]"
    r"|(?P<lookaround>\(\?<?[=!])|(?P<atomic>\(\?>)|(?P<possessive>[*+?}]\+)",
    re.DOTALL,
)


def regex(pattern: str, tokenizer: Tokens, *, vocab_size: int | None = None) -> TokenAutomaton:
    """Texts that match a regular expression as a whole.

    Syntax as in `re`, of regular languages only: no backreferences, look-around, anchors, atomic groups or possessive
    quantifiers. `\\d`, `\\w` and `\\s` are ASCII, as under `re.ASCII`.

    Args:
        pattern: of the whole text.
        tokenizer: as for `spellings`. Every tokenisation of a text counts.
        vocab_size: of the model, where it has more ids than the tokenizer.

    Raises:
        pc.ParameterError: a pattern that is malformed or not regular, or that no sequence of tokens matches.
        ModuleNotFoundError: without the extra `constraints`.
    """
    return lift(_bytes_of(pattern), spellings(tokenizer, vocab_size=vocab_size))


def json_schema(
    schema: Mapping[str, Any] | str,
    tokenizer: Tokens,
    *,
    vocab_size: int | None = None,
    whitespace_pattern: str | None = None,
) -> TokenAutomaton:
    """JSON texts that are valid under a schema, their properties in the schema's order.

    Args:
        schema: a JSON schema, as far as outlines-core turns it into a regular expression (no recursion).
        tokenizer: as for `spellings`.
        vocab_size: of the model, where it has more ids than the tokenizer.
        whitespace_pattern: between the parts; at most one space if left out.

    Raises:
        pc.ParameterError: what is not JSON or not supported.
        ModuleNotFoundError: without the extra `constraints`.
    """
    try:
        from outlines_core.json_schema import build_regex_from_schema
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING) from error
    text = schema if isinstance(schema, str) else json.dumps(schema)
    try:
        pattern = build_regex_from_schema(text, whitespace_pattern)
    except (TypeError, ValueError) as error:
        raise pc.ParameterError(f"`schema` cannot be made a regular expression: {error}") from error
    return regex(pattern, tokenizer, vocab_size=vocab_size)


def must_contain(keywords: Sequence[str], tokenizer: Tokens, *, vocab_size: int | None = None) -> TokenAutomaton:
    """Texts in which every keyword occurs, in any order and however it is cut into tokens; the rest is free.

    Raises:
        pc.ParameterError: no keywords, empty ones, or ones that cannot be spelled.
    """
    if isinstance(keywords, str) or not keywords or not all(isinstance(word, str) and word for word in keywords):
        raise pc.ParameterError(f"`keywords` must be a sequence of non-empty strings, got {keywords!r}")
    tokens = spellings(tokenizer, vocab_size=vocab_size)
    return reduce(intersection, [lift(_containing(word.encode()), tokens) for word in keywords])


def fixed_length(length: int, tokenizer: Tokens, *, vocab_size: int | None = None) -> TokenAutomaton:
    """Texts of exactly `length` tokens, special ones not among them.

    Raises:
        pc.ParameterError: a length below 1.
    """
    if length < 1:
        raise pc.ParameterError(f"`length` must be a positive integer, got {length!r}")
    transitions = torch.arange(1, length + 2).unsqueeze(-1)
    transitions[length] = DEAD
    spelled = [0 if token else DEAD for token in spellings(tokenizer, vocab_size=vocab_size)]
    return TokenAutomaton(transitions, torch.tensor(spelled), torch.arange(length + 1) == length)


def dfa(transitions: Tensor, accepting: Tensor, *, start: int = 0) -> TokenAutomaton:
    """A deterministic automaton by hand.

    Args:
        transitions: (Q, V) the next state of each state and token, -1 where a text must not go on.
        accepting: (Q,) whether a text may end there.

    Raises:
        pc.ShapeError, pc.ParameterError: tensors that do not fit together.
    """
    if transitions.ndim != 2 or transitions.is_floating_point():
        raise pc.ShapeError(
            f"`transitions` must be integers of shape (Q, V), got {transitions.dtype} {tuple(transitions.shape)}"
        )
    columns, classes = transitions.long().unique(dim=1, return_inverse=True)
    return minimised(TokenAutomaton(columns, classes, accepting, start))


def _bytes_of(pattern: str) -> ByteAutomaton:
    try:
        import interegular
        from interegular.fsm import anything_else
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING) from error
    _require_regular(pattern)
    try:
        machine = interegular.parse_pattern(pattern).to_fsm().reduce()
    except Exception as error:  # interegular raises Exception itself, among others
        raise pc.ParameterError(f"`pattern` is not a regular expression that is supported: {error}") from error
    number = {machine.initial: 0}
    for state in machine.states:
        number.setdefault(state, len(number))
    moves: list[dict[int, int]] = [{} for _ in number]
    others = [DEAD] * len(number)
    for state, index in number.items():
        targets = machine.map.get(state, {})
        for key, symbols in machine.alphabet.by_transition.items():
            target = number[targets[key]] if key in targets else DEAD
            if anything_else in symbols:
                others[index] = target
            moves[index].update((ord(symbol), target) for symbol in symbols if symbol is not anything_else)
    return from_characters(moves, others, {number[state] for state in machine.finals})


def _require_regular(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise pc.ParameterError(f"`pattern` is malformed: {error}") from error
    for found in _SCAN.finditer(pattern):
        if found.lastgroup is not None:
            what = "a bracket first in a class: escape it" if found.lastgroup == "bracket" else found.lastgroup
            raise pc.ParameterError(f"`pattern` has {found.group()!r} at {found.start()}, not supported ({what})")


def _containing(word: bytes) -> ByteAutomaton:
    """State s: the last s bytes are the first s of the word, and no more are (Knuth, Morris, Pratt 1977)."""
    table = np.zeros((len(word) + 1, 256), dtype=np.int32)
    fallback = 0
    for state, byte in enumerate(word):
        table[state] = table[fallback]
        table[state, byte] = state + 1
        fallback = int(table[fallback, byte]) if state else 0
    table[len(word)] = len(word)
    return ByteAutomaton(table, np.arange(len(word) + 1) == len(word))
