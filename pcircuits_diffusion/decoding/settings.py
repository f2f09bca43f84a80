"""How a text is decoded: one frozen record, validated once."""

import math
from dataclasses import dataclass

import pcircuits as pc
from pcircuits_diffusion.decoding.proposals import SAMPLERS, Rule
from pcircuits_diffusion.decoding.score import SCORES

CONFIDENCES = ("backbone", "coupled")
AFTER_EOS = ("sum_out", "observe")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `CoupledDiffusion.generate`.

    Attributes:
        steps: calls of the backbone over all blocks, at least one a block; the remainder goes to the first blocks.
        block_length: tokens decoded at once, left to right; the head's own length where there is a head.
        remasking: which positions a step commits: "low_confidence", "margin", "entropy" or "random" (see `score.py`).
        sampling: "latent" draws the block jointly by its latent path; "any_order" fixes one token after another and
            asks the circuit anew in between (Li et al. 2026, Sec. 5.1). Both are exact at temperature 1.
        temperature: of the tokens given the latent path ("latent") or of each conditional ("any_order"). 0 is
            deterministic: the most probable block ("latent"; exact where maximisation is), or each conditional's mode.
        confidence_from: "backbone" scores positions as the backbone alone would, "coupled" by the head's exact
            marginals; always untempered.
        eos_id: ends a row; None: no token does.
        after_eos: what the models see after a row's end: "sum_out" leaves it undecided (right for any masked diffusion
            model), "observe" fills it with `eos_id` (for models that were trained on texts padded so).
        max_context: most tokens that the backbone is given, the block included; earlier ones are dropped. None: the
            backbone's own `max_length` or `config.max_length`, if it has one.
    """

    steps: int
    block_length: int
    remasking: str = "low_confidence"
    sampling: str = "latent"
    temperature: float = 1.0
    confidence_from: str = "backbone"
    eos_id: int | None = None
    after_eos: str = "sum_out"
    max_context: int | None = None

    def __post_init__(self) -> None:
        choices = (
            ("remasking", SCORES),
            ("sampling", SAMPLERS),
            ("confidence_from", CONFIDENCES),
            ("after_eos", AFTER_EOS),
        )
        for name, allowed in choices:
            if (value := getattr(self, name)) not in allowed:
                raise pc.ParameterError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r}")
        for name in ("steps", "block_length"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise pc.ParameterError(f"`{name}` must be a positive integer, got {value!r}")
        if not 0 <= self.temperature < math.inf:
            raise pc.ParameterError(f"`temperature` must be finite and at least 0, got {self.temperature!r}")
        if self.max_context is not None and self.max_context < self.block_length:
            raise pc.ParameterError(
                f"the backbone takes {self.max_context} tokens, fewer than one block of {self.block_length}"
            )

    @property
    def rule(self) -> Rule:
        """The part that concerns a single step."""
        return Rule(self.remasking, self.confidence_from, self.temperature)
