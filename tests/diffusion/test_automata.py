"""Automata over tokens: each builder and combinator against the language that it should have, by enumeration."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

import pcircuits as pc
from pcircuits_diffusion.constraints import (
    TokenAutomaton,
    complement,
    dfa,
    fixed_length,
    intersection,
    json_schema,
    minimised,
    must_contain,
    regex,
    spellings,
    union,
)
from pcircuits_diffusion.constraints.builders import _bytes_of
from pcircuits_diffusion.corpus import train_tokenizer
from tests.diffusion.automata import SPELLINGS, automata, language, sequences, spelled

PATTERNS = [
    "a*", "(ab|é)+", "[^a]", ".é?", "a{2,3}b", "a|b|", r"\w+", r"[\x61-\x62]é*", "(?i:AB)", "(?:a|ab)(?:é|b)",
    "(?P<x>a)b+?", r"\W+", "[é-ü]a", "a[^é]b", "b.*b",
]  # fmt: skip
TEXTS = [text for n in range(5) for text in sequences(len(SPELLINGS), n).tolist()]


def text_sets(a: TokenAutomaton, longest: int = 4) -> set[tuple[int, ...]]:
    """All sequences of the alphabet's tokens up to a length."""
    alphabet = (a.classes >= 0).nonzero().flatten()
    return {tuple(alphabet[row].tolist()) for n in range(longest + 1) for row in sequences(len(alphabet), n)}


# --- patterns ---


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_accepts_every_tokenisation_of_what_re_matches(pattern: str) -> None:
    automaton = regex(pattern, SPELLINGS)
    wanted = re.compile(pattern, re.ASCII)
    matching = {tuple(t) for t in TEXTS if (text := spelled(t)) is not None and wanted.fullmatch(text)}
    assert language(automaton) == matching
    assert len(matching) > 1 and automaton.shortest == min(map(len, matching))


@given(st.sampled_from([*PATTERNS, "[^\U0001f600]+", ".", "[߿-ࠀ]x|\uffff", "[^a]{2}"]), st.text(max_size=4))
def test_bytes_say_what_characters_say(pattern: str, text: str) -> None:
    assert _bytes_of(pattern).accepts(text.encode()) == bool(re.compile(pattern, re.ASCII).fullmatch(text))


@pytest.mark.parametrize("code", [0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF])
def test_bytes_at_the_edges_of_utf_8(code: int) -> None:
    character = chr(code)
    assert _bytes_of(f"[^{re.escape(chr(code - 1 if code != 0xE000 else code + 1))}]").accepts(character.encode())
    one = _bytes_of(re.escape(character) if code < 0x80 else character)
    assert one.accepts(character.encode()) and not one.accepts(b"b")
    anything = _bytes_of(".")
    for wrong in (b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xff"):
        assert not anything.accepts(wrong)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "malformed"), ("a{3,1}", "malformed"), ("^a", "not a regular expression that is supported"),
        (r"(a)\1", "not a regular expression"), ("a(?=b)", "lookaround"),
        ("(?<!a)b", "lookaround"), ("(?>a)", "atomic|malformed"),
        ("[]a]", "bracket first"), ("x", "no sequence of this tokenizer's tokens"),
    ],
)  # fmt: skip
def test_patterns_that_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(pc.ParameterError, match=message):
        regex(pattern, SPELLINGS)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="possessive quantifiers are Python's from 3.11 on")
def test_possessive_quantifiers_are_refused_unless_escaped() -> None:
    with pytest.raises(pc.ParameterError, match="possessive"):
        regex("a*+a", SPELLINGS)
    assert regex(r"a*[*+]+\++", [b"a", b"+", b"*"]).accepts(torch.tensor([[0, 2, 1]]))


# --- keywords, lengths, tables ---


@pytest.mark.parametrize("keywords", [["ab"], ["aba"], ["abab", "é"], ["ba", "ab"], ["aab"]])
def test_every_keyword_occurs_however_it_is_cut(keywords: list[str]) -> None:
    found = language(must_contain(keywords, SPELLINGS))
    raw = {tuple(t): b"".join(SPELLINGS[i] or b"" for i in t) for t in TEXTS if 5 not in t}
    assert found == {t for t, text in raw.items() if all(word.encode() in text for word in keywords)}
    assert found or keywords == ["abab", "é"]


def test_keywords_that_are_refused() -> None:
    for keywords in ("ab", [], [""], ["a", 3]):
        with pytest.raises(pc.ParameterError, match="non-empty strings"):
            must_contain(keywords, SPELLINGS)
    with pytest.raises(pc.ParameterError, match="no sequence"):
        must_contain(["c"], SPELLINGS)


def test_a_fixed_length_counts_tokens_that_spell_something() -> None:
    assert language(fixed_length(2, SPELLINGS)) == {(i, j) for i in range(7) for j in range(7) if 5 not in (i, j)}
    for length in (0, -1):
        with pytest.raises(pc.ParameterError, match="`length` must be a positive integer"):
            fixed_length(length, SPELLINGS)


def test_a_table_by_hand() -> None:
    table = torch.tensor([[1, -1, 0], [0, 2, 1], [2, 2, 2]])  # the last state accepts nothing more than it is
    automaton = dfa(table, torch.tensor([False, True, False]))
    found = language(automaton)
    assert found == language(TokenAutomaton(table, torch.arange(3), torch.tensor([False, True, False])))
    assert (0,) in found and (0, 0, 0) in found and (2, 0, 2) in found and (0, 1) not in found
    assert automaton.num_states == 2, "what cannot be accepted any more is dead"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transitions": torch.tensor([[2], [0]])}, r"`transitions` must lie in -1..1, got 0..2"),
        ({"classes": torch.tensor([0, 1])}, r"`classes` must lie in -1..0"),
        ({"accepting": torch.tensor([True])}, r"`accepting` must be bool of shape \(2,\)"),
        ({"start": 2}, r"`start` must be a state in 0..1, got 2"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    transitions, classes, accepting = torch.tensor([[1], [0]]), torch.tensor([0, 0]), torch.tensor([True, False])
    fields = {"transitions": transitions, "classes": classes, "accepting": accepting}
    with pytest.raises(pc.PCircuitsError, match=message):
        TokenAutomaton(**{**fields, **changes})


# --- combinators ---


@given(automata(), automata())
def test_combinations_are_those_of_sets(a: TokenAutomaton, b: TokenAutomaton) -> None:
    assert language(intersection(a, b)) == language(a) & language(b)
    assert language(union(a, b)) == language(a) | language(b)
    assert language(complement(a)) == text_sets(a) - language(a)
    with pytest.raises(pc.ShapeError, match="3 and 7 tokens"):
        intersection(a, regex("a", SPELLINGS))


@given(automata())
def test_the_smallest_automaton_has_the_same_language(a: TokenAutomaton) -> None:
    small = minimised(a)
    assert language(small, 5) == language(a, 5) and (small.classes >= 0).equal(a.classes >= 0)
    assert small.num_states <= max(a.num_states, 1)
    again = minimised(small)
    assert (again.num_states, again.num_classes) == (small.num_states, small.num_classes)
    texts = [sequences(3, n) for n in range(5)]
    futures = {
        tuple(torch.cat([replace(small, start=q).accepts(text) for text in texts]).tolist())
        for q in range(small.num_states)
    }
    assert len(futures) == small.num_states, "no two states accept the same"


@given(automata())
def test_feasible_lengths_and_the_shortest_text(a: TokenAutomaton) -> None:
    feasible, lengths = a.feasible(4), {len(text) for text in language(a)}
    for q in range(a.num_states):
        wanted = [bool(replace(a, start=q).accepts(sequences(3, n)).any()) for n in range(5)]
        assert feasible[:, q].tolist() == wanted
    if lengths:
        assert a.shortest == min(lengths)


@given(automata(), st.booleans())
def test_the_end_of_text(a: TokenAutomaton, then_anything: bool) -> None:
    def accepted(text: tuple[int, ...]) -> bool:
        if 2 not in text:
            return text in before
        end = text.index(2)
        return text[:end] in before and (then_anything or set(text[end:]) == {2})

    before = {text for text in language(a) if 2 not in text}
    everything = {tuple(t) for n in range(5) for t in sequences(3, n).tolist()}
    assert language(a.ending(2, then_anything=then_anything)) == {t for t in everything if accepted(t)}
    assert language(a.without(1)) == {t for t in language(a) if 1 not in t}


# --- tokenizers ---


def test_a_byte_level_tokenizer_spells_bytes() -> None:
    tokenizer = train_tokenizer(["hé 日本 hé"] * 5, vocab_size=300)
    tokenizer.add_tokens(["日"])
    found = spellings(tokenizer, vocab_size=310)
    assert len(found) == 310 and found[0] is None and found[-1] is None, "special and unused ids spell nothing"
    ids = tokenizer.encode("日 hé\n本\x00").ids
    assert b"".join(found[i] for i in ids).decode() == "日 hé\n本\x00"
    assert {bytes([byte]) for byte in range(256)} <= set(found)
    wrapped = type("Fast", (), {"backend_tokenizer": tokenizer})()
    assert spellings(wrapped, vocab_size=310) == found
    with pytest.raises(pc.ParameterError, match="`vocab_size` is 5, the tokenizer has"):
        spellings(tokenizer, vocab_size=5)


def test_a_sentencepiece_like_tokenizer_spells_bytes() -> None:
    vocabulary = {"<unk>": 0, "▁a": 1, "b": 2, "<0xC3>": 3, "<0xA9>": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    assert spellings(tokenizer) == [None, b" a", b"b", b"\xc3", b"\xa9"]
    tokenizer.decoder = decoders.Metaspace()
    assert spellings(tokenizer)[1:4] == [b" a", b"b", b"<0xC3>"]


def test_tokenizers_that_are_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##b": 1}, unk_token="a"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(pc.ParameterError, match="decodes by WordPiece"):
        spellings(tokenizer)
    with pytest.raises(pc.ParameterError, match="decodes by joining words"):
        spellings(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    for tokens, message in ((3, "got int"), ("ab", "got str"), ([1], "bytes, str or None, got int")):
        with pytest.raises(pc.ParameterError, match=message):
            spellings(tokens)


# --- JSON ---


def test_a_json_schema_accepts_valid_documents_and_no_others() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 2}, "t": {"enum": ["é", None]}},
        "required": ["n", "t"],
    }
    letters = [bytes([byte]) for byte in range(256)]
    automaton = json_schema(schema, letters)
    assert language(json_schema(json.dumps(schema), letters), 1) == language(automaton, 1)

    def accepts(text: str) -> bool:
        return bool(automaton.accepts(torch.tensor([list(text.encode())])))

    for text in ('{"n":3,"t":null}', '{"n": -12, "s": "a日", "t": "é"}', '{"n":0,"s":"","t":"é"}'):
        assert accepts(text) and json.loads(text)
    for text in ('{"n":3}', '{"n":03,"t":null}', '{"n":3,"s":"abc","t":null}', '{"n":3,"t":"x"}', '{"n":3,"t":null'):
        assert not accepts(text)


def test_schemas_that_are_refused() -> None:
    for schema in ("{", {"type": "nope"}, {"not": {}}):
        with pytest.raises(pc.ParameterError, match="`schema` cannot be made a regular expression"):
            json_schema(schema, SPELLINGS)
