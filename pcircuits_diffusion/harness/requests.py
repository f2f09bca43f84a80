"""What the lm-evaluation-harness asks for when it asks for text: its keywords as options of `generate`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pcircuits as pc
from pcircuits_diffusion.decoding import Settings

SETTINGS = {field.name for field in dataclasses.fields(Settings)}
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")


class Wish(NamedTuple):
    """Strings that end a text, its length, and fields of `Settings`."""

    until: tuple[str, ...]
    max_new_tokens: int
    settings: dict[str, Any]

    def cut(self, text: str) -> str:
        """The text before the first of `until`."""
        return text[: min((text.index(stop) for stop in self.until if stop in text), default=len(text))]

    def is_met(self, text: str) -> bool:
        return any(stop in text for stop in self.until)


def read_wish(keywords: Mapping[str, Any], *, max_gen_toks: int) -> Wish:
    """`until`, a length, `do_sample`, `temperature` (0 unless `do_sample`), and any field of `Settings`.

    Raises:
        pc.ParameterError: keywords that decoding has no counterpart of: ignoring them would measure something else.
    """
    left = dict(keywords)
    until = left.pop("until", None) or ()
    lengths = [left.pop(name) for name in LENGTHS if name in left]
    sampled = bool(left.pop("do_sample", left.get("temperature", 0) > 0))
    settings: dict[str, Any] = {"temperature": float(left.pop("temperature", 1.0)) if sampled else 0.0}
    left.pop("temperature", None)
    if unknown := set(left) - SETTINGS:
        raise pc.ParameterError(f"generation keywords {', '.join(sorted(unknown))} have no counterpart in decoding")
    stops = (until,) if isinstance(until, str) else tuple(until)
    return Wish(tuple(filter(None, stops)), int(lengths[0]) if lengths else max_gen_toks, {**settings, **left})


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for all requests.

    Raises:
        pc.ParameterError: one that does not exist, or that each request sets.
    """
    given: Sequence[str] = ("steps", "eos_id", "temperature")
    if wrong := [name for name in settings if name not in SETTINGS or name in given]:
        allowed = ", ".join(sorted(SETTINGS - set(given)))
        raise pc.ParameterError(f"{', '.join(wrong)} cannot be set for all requests; what can: {allowed}")
    return dict(settings)
