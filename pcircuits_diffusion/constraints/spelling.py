"""What each token of a tokenizer stands for: its bytes, so that characters split over tokens come out right."""

import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import pcircuits as pc

METASPACE = "\u2581"


@runtime_checkable
class FastTokenizer(Protocol):
    """A `tokenizers.Tokenizer`, as far as it is read here."""

    def to_str(self) -> str: ...

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]: ...

    def get_added_tokens_decoder(self) -> dict[int, Any]: ...


Spellings = Sequence[bytes | str | None]
Tokens = Any  # a tokenizers.Tokenizer, an object whose `backend_tokenizer` is one (transformers), or `Spellings`


def spellings(tokens: Tokens, *, vocab_size: int | None = None) -> list[bytes | None]:
    """The bytes of every token id; None for those that spell nothing (special tokens, unused ids).

    Args:
        tokens: a byte-level BPE or SentencePiece-like `tokenizers.Tokenizer`, a transformers tokenizer made of one, or
            a spelling for each id.
        vocab_size: of the model, where it has more ids than the tokenizer.

    Raises:
        pc.ParameterError: tokenizers whose text is not the concatenation of their tokens (WordPiece), objects of
            another kind, or a `vocab_size` below the tokenizer's.
    """
    tokens = getattr(tokens, "backend_tokenizer", tokens)
    found = _of_tokenizer(tokens) if isinstance(tokens, FastTokenizer) else _of_sequence(tokens)
    size = len(found) if vocab_size is None else vocab_size
    if size < len(found):
        raise pc.ParameterError(f"`vocab_size` is {size}, the tokenizer has {len(found)} tokens")
    return found + [None] * (size - len(found))


def _of_sequence(tokens: object) -> list[bytes | None]:
    if not isinstance(tokens, Sequence) or isinstance(tokens, str | bytes):
        raise pc.ParameterError(
            f"`tokenizer` must be a tokenizers.Tokenizer, a transformers tokenizer with a `backend_tokenizer`, or a "
            f"sequence of bytes, str or None, one a token; got {type(tokens).__name__}"
        )
    encoded = [token.encode() if isinstance(token, str) else token for token in tokens]
    if bad := [type(token).__name__ for token in encoded if not isinstance(token, bytes | None)]:
        raise pc.ParameterError(f"a token's spelling must be bytes, str or None, got {bad[0]}")
    return [token or None for token in encoded]


def _of_tokenizer(tokenizer: FastTokenizer) -> list[bytes | None]:
    spell = _speller(json.loads(tokenizer.to_str()).get("decoder"))
    vocabulary, added = tokenizer.get_vocab(with_added_tokens=True), tokenizer.get_added_tokens_decoder()
    found: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        if index in added:
            found[index] = None if added[index].special else token.encode()
        else:
            found[index] = spell(token) or None
    return found


def _speller(decoder: dict[str, Any] | None) -> Any:
    """The function from a token's name to its bytes, by the kind of decoder that a tokenizer has."""
    parts = decoder.get("decoders", [decoder]) if decoder else []
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"]:
        return _byte_level
    spaces = "Metaspace" in kinds or {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "} in parts
    if spaces and set(kinds) <= {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}:
        return _byte_fallback if "ByteFallback" in kinds else _metaspace
    raise pc.ParameterError(
        f"constraints need a tokenizer whose text is the concatenation of its tokens' bytes (byte-level or "
        f"SentencePiece-like); this one decodes by {' and '.join(kinds) or 'joining words'}. "
        "Give the spelling of each token as a sequence instead"
    )


def _byte_level(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)


def _metaspace(token: str) -> bytes:
    return token.replace(METASPACE, " ").encode()


def _byte_fallback(token: str) -> bytes:
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return bytes.fromhex(token[3:5]) if is_byte else _metaspace(token)


def _byte_of() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of()
