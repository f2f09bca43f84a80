"""The coupled output head: a circuit over a block of tokens, conditioned on what a diffusion backbone predicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pcircuits as pc
from pcircuits_diffusion.coupling import COUPLINGS, CoupledPosterior, CouplingOptions, Targets
from pcircuits_diffusion.modulation import MODULATIONS, Modulation
from pcircuits_diffusion.reduced import ReducedPosterior, TokenMap, stored


class CoupledHead(nn.Module):
    """Couples the tokens that a backbone predicts independently (Li et al. 2026, equation 5).

    Args:
        prior: any circuit over L positions with V tokens each, such as an `HMM` over a block of 32.
        coupling: "projected" (the coupled marginals stay the backbone's), "corrected" (the circuit's own marginals are
            divided out) or "product" (the paper's).
        sweeps: of the iterative fitting of "projected"; with a `tolerance`, at most.
        tolerance: total variation from the backbone's marginals at which "projected" has converged; None: `sweeps` are
            made, whatever they reach.
        sweep_tokens: tokens of each position that the sweeps of "projected" fit one by one, all others together; None:
            all are fitted. With a large vocabulary a sweep then costs no more than "corrected".
        top_k: each position's so many likeliest tokens are given a weight, the others none, and the posterior tells
            their `lost_mass`; None: all, which is exact.
        token_map: the tokenizer's ids of the prior's tokens, for a prior over a part of the vocabulary: it has one
            value more, the class of all other tokens, which are independent within it (see `reduced.py`). None: all.
        vocab_size: of the tokenizer, with a `token_map`.
        modulation: what the backbone's hidden states say of the circuit: "none" (the paper), "latent" (potentials of
            its latent variables, App. E.1) or "parameter" (gates on its parameters, App. E.2).
        hidden_size: of the backbone's hidden states, for modulations.
        modulation_options: `width` and `blocks` of the modulation (see `Modulation`).
        sharpen: tau of `p_theta^(1/tau)` before it meets the circuit (the paper's `pc_temperature`); 1 leaves the
            backbone as it is.
        gamma: the head is used for rows whose mask ratio is at most gamma; None: for all. Only "product" needs it.
        learn_exponents: train a and b of the weights `p_theta^a / m^b`: 0 keeps them at one, 1 (True) trains one pair,
            n a pair at each of n equally spaced mask ratios, linear in between.
        differentiate_weights: whether training differentiates through the weights of "corrected" and "projected" (their
            sweeps, without a tolerance); else they are constants of the gradient.

    Raises:
        pc.ParameterError, pc.StructureError: arguments out of range, or a prior whose variables are not tokens of one
            vocabulary.
    """

    def __init__(  # noqa: PLR0913
        self,
        prior: pc.Circuit,
        *,
        coupling: str = "projected",
        sweeps: int = 1,
        tolerance: float | None = None,
        sweep_tokens: int | None = None,
        top_k: int | None = None,
        token_map: Sequence[int] | None = None,
        vocab_size: int | None = None,
        modulation: str = "none",
        hidden_size: int | None = None,
        modulation_options: Mapping[str, int] | None = None,
        sharpen: float = 1.0,
        gamma: float | None = None,
        learn_exponents: int = 0,
        differentiate_weights: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (("coupling", coupling, COUPLINGS), ("modulation", modulation, MODULATIONS)):
            if value not in known:
                raise pc.ParameterError(f"`{name}` must be one of {', '.join(known)}; got {value!r}")
        if not isinstance(prior, pc.Circuit) or prior.num_categories is None:
            raise pc.StructureError(
                "`prior` must be a pc.Circuit whose variables are all discrete with equally many values"
            )
        if not sharpen > 0:
            raise pc.ParameterError(f"`sharpen` must be positive, got {sharpen!r}")
        if gamma is not None and not 0 <= gamma <= 1:
            raise pc.ParameterError(f"`gamma` must be a mask ratio in [0, 1] or None, got {gamma!r}")
        if tolerance is not None and not tolerance > 0:
            raise pc.ParameterError(f"`tolerance` must be positive or None, got {tolerance!r}")
        if not isinstance(learn_exponents, int) or learn_exponents < 0:
            raise pc.ParameterError(f"`learn_exponents` must be a number of mask ratios, got {learn_exponents!r}")
        _require_tokens(coupling, tolerance, sweep_tokens, top_k)
        self.prior, self.coupling, self.sweeps, self.tolerance = prior, coupling, sweeps, tolerance
        self.sweep_tokens, self.top_k = sweep_tokens, top_k
        self.token_map = _token_map(prior, token_map, vocab_size)
        self.sharpen, self.gamma, self.differentiate_weights = sharpen, gamma, differentiate_weights
        self.exponents = nn.Parameter(torch.ones(2, max(1, learn_exponents)), requires_grad=learn_exponents > 0)
        self.modulation: Modulation | None = None
        if (build := MODULATIONS[modulation]) is not None:
            if hidden_size is None:
                raise pc.ParameterError(f"modulation {modulation!r} needs `hidden_size`, that of the backbone's states")
            self.modulation = build(hidden_size, prior.num_units, **(modulation_options or {}))

    @property
    def options(self) -> dict[str, Any]:
        """What builds an equal head around its prior: plain values."""
        modulation = self.modulation
        return {
            "coupling": self.coupling,
            "sweeps": self.sweeps,
            "tolerance": self.tolerance,
            "sweep_tokens": self.sweep_tokens,
            "top_k": self.top_k,
            **stored(self.token_map),
            "modulation": next(k for k, v in MODULATIONS.items() if v is (modulation and type(modulation))),
            "hidden_size": modulation and modulation.hidden_size,
            "modulation_options": modulation and {"width": modulation.width, "blocks": modulation.blocks},
            "sharpen": self.sharpen,
            "gamma": self.gamma,
            "learn_exponents": self.exponents.shape[1] if self.exponents.requires_grad else 0,
            "differentiate_weights": self.differentiate_weights,
        }

    @property
    def needs_hidden(self) -> bool:
        """Whether `forward` reads the backbone's hidden states."""
        return self.modulation is not None

    @property
    def block_length(self) -> int:
        return self.prior.num_variables

    @property
    def vocab_size(self) -> int:
        """V, the tokenizer's."""
        if self.token_map is not None:
            return self.token_map.vocab_size
        assert self.prior.num_categories is not None
        return self.prior.num_categories

    @property
    def learn_exponents(self) -> bool:
        return self.exponents.requires_grad

    def forward(self, logits: Tensor, hidden_states: Tensor | None, tokens: Tensor, mask: Tensor) -> CoupledPosterior:
        """The coupled distribution of a batch of blocks.

        Args:
            logits: (B, L, V) the backbone's predictions, normalised or not; read at masked positions.
            hidden_states: (B, L, E) the backbone's, where the head is modulated by them; else ignored.
            tokens: (B, L) token ids; anything at masked positions.
            mask: (B, L) True where the token is to be predicted. Other tokens are hard evidence.

        Raises:
            pc.ShapeError: shapes or sizes that do not fit the head. pc.EvidenceError: NaN logits, or positions without
                any possible token.
        """
        self._validate(logits, hidden_states, tokens, mask)
        tokens = torch.where(mask, 0, tokens)
        if self.token_map is None:
            return self._couple(logits, hidden_states, tokens, mask)
        logits = logits / self.sharpen
        of_classes = self.token_map.of_logits(logits) * self.sharpen
        inner = self._couple(of_classes, hidden_states, self.token_map.of_tokens(tokens), mask)
        return ReducedPosterior(inner, self.token_map, logits, tokens, mask)

    def _couple(self, logits: Tensor, hidden_states: Tensor | None, tokens: Tensor, mask: Tensor) -> CoupledPosterior:
        """Over the prior's values."""
        targets = Targets.of(logits, mask, sharpen=self.sharpen, top_k=self.top_k, dtype=self.prior.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            potentials = pc.Potentials()
            if self.modulation is not None and hidden_states is not None:
                potentials = self.modulation(hidden_states, mask)
            given = pc.Evidence(tokens, observed=~mask, **potentials._asdict())
            evidence = COUPLINGS[self.coupling](self.prior, targets, given, self._coupling_options(mask))
            posterior = self.prior.condition(evidence)
        return CoupledPosterior(posterior, targets, potentials)

    def _coupling_options(self, mask: Tensor) -> CouplingOptions:
        """With each row's exponents at its mask ratio."""
        intervals = self.exponents.shape[1] - 1
        place = mask.to(self.exponents.dtype).mean(-1) * intervals
        below = place.floor().clamp(max=max(0, intervals - 1)).long()
        above = (below + 1).clamp(max=intervals)
        of_rows = torch.lerp(self.exponents[:, below], self.exponents[:, above], place - below)
        a, b = of_rows[:, mask.nonzero(as_tuple=True)[0]].unsqueeze(-1)
        return CouplingOptions(a, b, self.sweeps, self.tolerance, self.sweep_tokens, self.differentiate_weights)

    def active(self, mask: Tensor) -> Tensor:
        """(B,) rows whose share of masked positions is at most gamma: each row for itself."""
        if self.gamma is None:
            return torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        return mask.double().mean(-1) <= self.gamma

    def _validate(self, logits: Tensor, hidden_states: Tensor | None, tokens: Tensor, mask: Tensor) -> None:
        if self.needs_hidden and hidden_states is None:
            raise pc.ParameterError("this head is modulated by the backbone's hidden states; give `hidden_states`")
        shape = (self.block_length, self.vocab_size)
        if logits.ndim != 3 or logits.shape[1:] != shape:
            raise pc.ShapeError(
                f"`logits` must have shape (B, {shape[0]}, {shape[1]}) for this head's block and vocabulary, "
                f"got {tuple(logits.shape)}"
            )
        for name, tensor in (("tokens", tokens), ("mask", mask)):
            if tensor.shape != logits.shape[:2]:
                raise pc.ShapeError(f"`{name}` must have shape {tuple(logits.shape[:2])}, got {tuple(tensor.shape)}")
        if mask.dtype != torch.bool:
            raise pc.ShapeError(f"`mask` must be bool, True where a token is to be predicted; got {mask.dtype}")

    def extra_repr(self) -> str:
        shown = ("coupling", "sweeps", "tolerance", "sweep_tokens", "top_k", "sharpen", "gamma")
        return ", ".join(f"{name}={getattr(self, name)}" for name in shown)


def _token_map(prior: pc.Circuit, token_map: Sequence[int] | None, vocab_size: int | None) -> TokenMap | None:
    if token_map is None and vocab_size is None:
        return None
    if token_map is None or vocab_size is None:
        raise pc.ParameterError("`token_map` and `vocab_size`, that of the tokenizer, belong together")
    found = TokenMap(token_map, vocab_size)
    if prior.num_categories != found.num_kept + 1:
        raise pc.ShapeError(
            f"with a `token_map` of {found.num_kept} tokens `prior` must have one value more, for all others; it has "
            f"{prior.num_categories}"
        )
    return found


def _require_tokens(coupling: str, tolerance: float | None, sweep_tokens: int | None, top_k: int | None) -> None:
    """Raises unless numbers of tokens are positive and belong together."""
    for name, value in {"sweep_tokens": sweep_tokens, "top_k": top_k}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise pc.ParameterError(f"`{name}` must be a positive number of tokens or None, got {value!r}")
    chosen = [n for n, v in {"tolerance": tolerance, "sweep_tokens": sweep_tokens, "top_k": top_k}.items() if v]
    if coupling == "projected" and len(chosen) > 1:
        raise pc.ParameterError(f"'projected' can have one of {' and '.join(chosen)}")
