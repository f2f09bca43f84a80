"""The coupled output head: a circuit over a block of tokens, conditioned on what a diffusion backbone predicts."""

import torch
from torch import Tensor, nn

import pcircuits as pc
from pcircuits_diffusion.coupling import COUPLINGS, CoupledPosterior, CouplingOptions


class CoupledHead(nn.Module):
    """Couples the tokens that a backbone predicts independently (Li et al. 2026, equation 5).

    Args:
        prior: any circuit over L positions with V tokens each, such as an `HMM` over a block of 32.
        coupling: "projected" (the coupled marginals stay the backbone's), "corrected" (the circuit's own marginals are
            divided out) or "product" (the paper's).
        sweeps: of the iterative fitting of "projected".
        sharpen: tau of `p_theta^(1/tau)` before it meets the circuit (the paper's `pc_temperature`); 1 leaves the
            backbone as it is.
        gamma: the head is used for rows whose mask ratio is at most gamma; None: for all. Only "product" needs it.
        learn_exponents: train a and b of the weights `p_theta^a / m^b`.
        differentiate_marginals: whether training "corrected" differentiates through m; else m is a constant of the
            gradient.

    Raises:
        pc.ParameterError, pc.StructureError: arguments out of range, or a prior whose variables are not tokens of one
            vocabulary.
    """

    def __init__(
        self,
        prior: pc.Circuit,
        *,
        coupling: str = "projected",
        sweeps: int = 1,
        sharpen: float = 1.0,
        gamma: float | None = None,
        learn_exponents: bool = False,
        differentiate_marginals: bool = True,
    ) -> None:
        super().__init__()
        if coupling not in COUPLINGS:
            raise pc.ParameterError(f"`coupling` must be one of {', '.join(COUPLINGS)}; got {coupling!r}")
        if not isinstance(prior, pc.Circuit) or prior.num_categories is None:
            raise pc.StructureError(
                "`prior` must be a pc.Circuit whose variables are all discrete with equally many values"
            )
        if not sharpen > 0:
            raise pc.ParameterError(f"`sharpen` must be positive, got {sharpen!r}")
        if gamma is not None and not 0 <= gamma <= 1:
            raise pc.ParameterError(f"`gamma` must be a mask ratio in [0, 1] or None, got {gamma!r}")
        self.prior, self.coupling, self.sweeps, self.sharpen, self.gamma = prior, coupling, sweeps, sharpen, gamma
        self.differentiate_marginals = differentiate_marginals
        self.exponents = nn.Parameter(torch.ones(2), requires_grad=learn_exponents)

    @property
    def block_length(self) -> int:
        return self.prior.num_variables

    @property
    def vocab_size(self) -> int:
        assert self.prior.num_categories is not None
        return self.prior.num_categories

    @property
    def learn_exponents(self) -> bool:
        return self.exponents.requires_grad

    def forward(self, logits: Tensor, hidden_states: Tensor | None, tokens: Tensor, mask: Tensor) -> CoupledPosterior:
        """The coupled distribution of a batch of blocks.

        Args:
            logits: (B, L, V) the backbone's predictions, normalised or not; read at masked positions.
            hidden_states: the backbone's hidden states, for heads that are conditioned on them; this one is not.
            tokens: (B, L) token ids; anything at masked positions.
            mask: (B, L) True where the token is to be predicted. Other tokens are hard evidence.

        Raises:
            pc.ShapeError: shapes or sizes that do not fit the head. pc.EvidenceError: NaN logits, or positions without
                any possible token.
        """
        self._validate(logits, tokens, mask)
        tokens = torch.where(mask, 0, tokens)
        log_targets = (logits.to(self.prior.dtype) / self.sharpen).masked_fill(~mask.unsqueeze(-1), 0.0).log_softmax(-1)
        options = CouplingOptions(self.exponents[0], self.exponents[1], self.sweeps, self.differentiate_marginals)
        with torch.autocast(logits.device.type, enabled=False):
            weights = COUPLINGS[self.coupling](self.prior, log_targets, tokens, mask, options)
            posterior = self.prior.condition(pc.Evidence(tokens, observed=~mask, log_weights=weights))
        return CoupledPosterior(posterior, log_targets, mask)

    def active(self, mask: Tensor) -> Tensor:
        """(B,) rows whose share of masked positions is at most gamma: each row for itself."""
        if self.gamma is None:
            return torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        return mask.double().mean(-1) <= self.gamma

    def _validate(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> None:
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
        used = logits.detach().masked_fill(~mask.unsqueeze(-1), 0.0)
        if (bad := used.isnan() | used.isposinf()).any() or (bad := used.isneginf().all(-1)).any():
            rows = bad.flatten(1).any(1).nonzero().flatten()[:8].tolist()
            raise pc.EvidenceError(
                f"`logits` are NaN, +inf, or exclude every token at masked positions of batch rows {rows}"
            )

    def extra_repr(self) -> str:
        return f"coupling={self.coupling}, sweeps={self.sweeps}, sharpen={self.sharpen}, gamma={self.gamma}"
