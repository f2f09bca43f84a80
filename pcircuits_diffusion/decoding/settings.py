"""How a text is decoded: one frozen record, validated once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pcircuits as pc
from pcircuits_diffusion.decoding.proposals import SAMPLERS
from pcircuits_diffusion.decoding.quota import ADAPTIVE, QUOTAS
from pcircuits_diffusion.decoding.region import REGIONS
from pcircuits_diffusion.decoding.reviser import REVISERS
from pcircuits_diffusion.decoding.score import SCORES
from pcircuits_diffusion.decoding.view import Rule

CONFIDENCES = ("backbone", "coupled")
AFTER_EOS = ("sum_out", "observe")
CACHES = (None, "prefix")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `CoupledDiffusion.generate` and `infill`.

    Attributes:
        steps: calls of the backbone over all blocks, at least one a block; the remainder goes to the first blocks.
            None: one a token, for adaptive quotas as many as it takes. A block's last step commits all that is left.
        block_length: tokens decoded at once, left to right: a divisor of the head's length (the head then sees the
            window that holds the block) or a multiple of it (dynamic windows).
        region: "blocks" left to right (LLaDA, Fast-dLLM, BD3-LM), or "canvas": all new tokens in any order (Dream).
        see_ahead: in blocks, whether the backbone sees the masked columns of later blocks, as in the loops of LLaDA and
            Fast-dLLM; False: the text ends with the block (block diffusion).
        quota: how many positions a step commits (`quota.py`): "linear" (LLaDA), "cosine" (MaskGIT, dllm), "dream",
            "binomial" (MDLM's ancestral sampling), "first_hitting" (BD3-LM); by what is proposed: "threshold" and
            "factor" (Fast-dLLM), "entropy_bounded" (EB sampler), "klass" (KLASS), "joint_confidence".
        bound: of an adaptive quota: tau, factor, gamma, tau, tau; None: 0.9, 1.0, 0.1, 0.9, 0.5.
        drift: of "klass": nats of KL divergence that a position's predictions may move in a step and count as settled.
        history: of "klass": in so many of the last steps.
        remasking: which positions a step commits (`score.py`): "low_confidence" (Dream: `maskgit_plus`), "margin"
            (`topk_margin`), "entropy", "top_prob", "random" (`origin`) or "left_to_right".
        order_temperature: above 0 positions are drawn by `softmax(score / order_temperature)` (Dream: `alg_temp`).
        confidence_from: whose probabilities scores and adaptive quotas see: "backbone", or "coupled": the head's exact
            marginals.
        tempered_confidence: whether these are tempered and, the backbone's, truncated by top_p and top_k (Dream, at a
            temperature above 0), or raw (LLaDA).
        sampling: "latent" draws the block jointly by its latent path; "any_order" fixes one token after another and
            asks the circuit anew in between (Li et al. 2026, Sec. 5.1), both exact at temperature 1; "mpe" takes the
            most probable block.
        temperature: of the tokens given the latent path ("latent") or of each conditional ("any_order"). 0 is
            deterministic: the most probable block ("latent"; exact where maximisation is), or each conditional's mode.
            LLaDA's and Dream's own default.
        top_p: the nucleus that the backbone's predictions are cut to before they meet the circuit (`predictions.py`).
        top_k: so many tokens at most.
        eos_id: ends a row; None: no token does.
        after_eos: what the models see after a row's end: "sum_out" leaves it undecided (right for any masked diffusion
            model), "observe" fills it with `eos_id` (for models that were trained on texts padded so).
        eos_penalty: nats that the backbone's log probability of `eos_id` loses before it is normalised again.
        suppress_tokens: tokens that are never decided (dllm; LLaDA's `logits_eos_inf`).
        begin_suppress_tokens: tokens of confidence zero, decided last (dllm; LLaDA's `confidence_eos_eot_inf`).
        reviser: which decided positions are masked again (`reviser.py`): "none".
        cache: "prefix" asks the backbone to keep what precedes a block from one step to the next (Fast-dLLM), for
            backbones with `prefill`; None: everything is computed anew.
        max_context: most tokens that the backbone is given, the block included; earlier ones are dropped. None: the
            backbone's own `max_length` or `config.max_length`, if it has one.
    """

    steps: int | None = None
    block_length: int
    region: str = "blocks"
    see_ahead: bool = False
    quota: str = "linear"
    bound: float | None = None
    drift: float = 0.01
    history: int = 2
    remasking: str = "low_confidence"
    order_temperature: float = 0.0
    confidence_from: str = "backbone"
    tempered_confidence: bool = False
    sampling: str = "latent"
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    eos_id: int | None = None
    after_eos: str = "sum_out"
    eos_penalty: float = 0.0
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    reviser: str = "none"
    cache: str | None = None
    max_context: int | None = None

    def __post_init__(self) -> None:
        self._require_choices()
        self._require_numbers()
        if self.bound is not None:
            if self.quota not in ADAPTIVE:
                raise pc.ParameterError(f"`bound` belongs to {', '.join(ADAPTIVE)}; the quota is {self.quota!r}")
            largest = ADAPTIVE[self.quota].largest
            if not 0 <= self.bound <= largest:
                raise pc.ParameterError(f"`bound` of {self.quota!r} must lie in [0, {largest}], got {self.bound!r}")
        if self.eos_penalty and self.eos_id is None:
            raise pc.ParameterError("`eos_penalty` needs `eos_id`, the token that it makes less likely")

    def _require_choices(self) -> None:
        choices = (
            ("region", REGIONS),
            ("quota", QUOTAS),
            ("remasking", SCORES),
            ("sampling", SAMPLERS),
            ("confidence_from", CONFIDENCES),
            ("after_eos", AFTER_EOS),
            ("reviser", REVISERS),
            ("cache", CACHES),
        )
        for name, allowed in choices:
            if (value := getattr(self, name)) not in allowed:
                raise pc.ParameterError(f"`{name}` must be one of {', '.join(map(str, allowed))}; got {value!r}")

    def _require_numbers(self) -> None:
        for name in ("block_length", "history", "steps", "top_k", "max_context"):
            value = getattr(self, name)
            if (name in ("block_length", "history") or value is not None) and not _is_positive_integer(value):
                raise pc.ParameterError(f"`{name}` must be a positive integer, got {value!r}")
        for name in ("temperature", "order_temperature", "drift"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise pc.ParameterError(f"`{name}` must be finite and at least 0, got {value!r}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise pc.ParameterError(f"`top_p` must lie in (0, 1], got {self.top_p!r}")
        if not math.isfinite(self.eos_penalty):
            raise pc.ParameterError(f"`eos_penalty` must be finite, got {self.eos_penalty!r}")

    @property
    def rule(self) -> Rule:
        """The part that concerns a single step."""
        bound = self.bound
        if bound is None:
            bound = ADAPTIVE[self.quota].default if self.quota in ADAPTIVE else 0.0
        return Rule(
            remasking=self.remasking,
            confidence_from=self.confidence_from,
            temperature=self.temperature,
            sampling=self.sampling,
            quota=self.quota,
            bound=bound,
            order_temperature=self.order_temperature,
            tempered_confidence=self.tempered_confidence,
            begin_suppress_tokens=tuple(self.begin_suppress_tokens),
            drift=self.drift,
        )


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
