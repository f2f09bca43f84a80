"""What of a text that forms in any order is text already."""

from collections.abc import Callable, Sequence

from pcircuits.types import Int, Tensor

Decode = Callable[[Sequence[int]], str]

UNDECIDED = "·"
CUT_CHARACTER = "\ufffd"  # what the bytes of a character decode to before its last one is there


def decided_prefix(tokens: Int[Tensor, " N"], mask_id: int, eos_id: int | None) -> list[int]:
    """The token ids before the first one that is undecided or ends the text."""
    ids = tokens.tolist()
    stops = [ids.index(stop) for stop in (mask_id, eos_id) if stop in ids]
    return ids[: min(stops)] if stops else ids


def readable(decode: Decode, ids: Sequence[int]) -> str:
    """The text of decided tokens, without a last character that is not complete."""
    return decode(ids).rstrip(CUT_CHARACTER)


def board(decode: Decode, tokens: Int[Tensor, " N"], mask_id: int, eos_id: int | None) -> str:
    """The text of decided tokens where they stand, a dot for each undecided one before the end of the text."""
    text, run = "", list[int]()
    for token in tokens.tolist():
        if token == eos_id:
            break
        if token == mask_id:
            text, run = text + decode(run) + UNDECIDED, []
        else:
            run.append(token)
    return text + decode(run)
