"""What a step sees and what it returns; the parts of the settings that concern a single step.

Axes: B rows, L positions of the region, V tokens.
"""

from typing import NamedTuple

import torch

from pcircuits.types import Bool, Float, Int, Tensor


class Rule(NamedTuple):
    """What a sampler is asked; see the fields of the same names in `Settings`."""

    remasking: str = "low_confidence"
    confidence_from: str = "backbone"
    temperature: float = 1.0
    sampling: str = "latent"
    quota: str = "linear"
    bound: float = 0.0
    order_temperature: float = 0.0
    tempered_confidence: bool = False
    begin_suppress_tokens: tuple[int, ...] = ()
    drift: float = 0.0

    @property
    def needs_joint(self) -> bool:
        """Whether positions are chosen by what the head says, not by the backbone alone."""
        return self.confidence_from == "coupled" or self.quota == "joint_confidence"


class View(NamedTuple):
    """What is known of a batch of regions before a step.

    `mask`: undecided positions. `open`: those that may be committed. `counts`: how many will be at least.
    `log_marginals`: the backbone's predictions. `log_targets`: the same truncated by top_p and top_k. `valid`: columns
    that are text, not padding. `hidden`: the backbone's hidden states, for heads that read them. `drift`: how far the
    predictions moved in the last steps (see `Drift`), for quota "klass".
    """

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]
    open: Bool[Tensor, "B L"]
    counts: Int[Tensor, " B"]
    log_marginals: Float[Tensor, "B L V"]
    log_targets: Float[Tensor, "B L V"]
    valid: Bool[Tensor, "B L"]
    hidden: Float[Tensor, "B L E"] | None = None
    drift: Float[Tensor, "B L"] | None = None

    def probability(self, tokens: Int[Tensor, "B L"], positions: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """What the backbone gives the tokens at some positions; elsewhere it means nothing."""
        index = torch.where(positions, tokens, 0).unsqueeze(-1)
        return self.log_marginals.gather(-1, index).squeeze(-1).exp()

    def rows(self, index: Int[Tensor, " R"]) -> "View":
        """Some rows, without the columns on the left that are padding in all of them: what is drawn for a row does not
        depend on how long the others are.
        """
        padding = int(self.valid[index].any(0).long().argmax())
        fields = {name: field[index] for name, field in self._asdict().items() if field is not None}
        return View(**{name: field if name == "counts" else field[:, padding:] for name, field in fields.items()})


class Commit(NamedTuple):
    """Tokens (B, L), to be kept where `positions` (B, L) is True."""

    tokens: Int[Tensor, "B L"]
    positions: Bool[Tensor, "B L"]
