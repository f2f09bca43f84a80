"""Automata and token sequences for the tests of constraints."""

import itertools

import torch
from hypothesis import strategies as st

from pcircuits_diffusion.constraints import TokenAutomaton

EACUTE = "é".encode()
SPELLINGS: list[bytes | None] = [b"a", b"b", EACUTE[:1], EACUTE[1:], b"ab", None, "éa".encode()]  # both halves of é


def sequences(vocab: int, length: int) -> torch.Tensor:
    """All token sequences of a length, (V^length, length)."""
    return torch.tensor(list(itertools.product(range(vocab), repeat=length))).view(vocab**length, length).long()


def language(automaton: TokenAutomaton, longest: int = 4) -> set[tuple[int, ...]]:
    """Its texts up to a length, by asking for each."""
    found = set()
    for length in range(longest + 1):
        texts = sequences(automaton.vocab_size, length)
        found |= {tuple(text) for text in texts[automaton.accepts(texts)].tolist()}
    return found


def spelled(tokens: list[int]) -> str | None:
    """The text of tokens of `SPELLINGS`; None where they spell none."""
    parts = [SPELLINGS[token] for token in tokens]
    if None in parts:
        return None
    try:
        return b"".join(part for part in parts if part).decode()
    except UnicodeDecodeError:
        return None


@st.composite
def automata(draw: st.DrawFn, vocab: int = 3, most_states: int = 5) -> TokenAutomaton:
    """Any transitions, dead ones and tokens outside the alphabet among them; the language may be empty."""
    states = draw(st.integers(1, most_states))
    classes = draw(st.integers(1, vocab))
    entries = st.lists(st.integers(-1, states - 1), min_size=classes, max_size=classes)
    transitions = draw(st.lists(entries, min_size=states, max_size=states))
    column = draw(st.lists(st.integers(-1, classes - 1), min_size=vocab, max_size=vocab))
    accepting = draw(st.lists(st.booleans(), min_size=states, max_size=states))
    start = draw(st.integers(0, states - 1))
    return TokenAutomaton(torch.tensor(transitions), torch.tensor(column), torch.tensor(accepting), start)
