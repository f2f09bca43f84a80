"""A constraint on the whole text that `CoupledDiffusion.generate` writes, block after block.

Axes: R rows, N new tokens of the text, L positions of a block, Q automaton states.
"""

from dataclasses import dataclass

import torch

import pcircuits as pc
from pcircuits.types import Bool, Float, Int, Tensor
from pcircuits_diffusion.constraints.automaton import TokenAutomaton
from pcircuits_diffusion.constraints.posterior import Conditionable, ConstrainedPosterior


@dataclass(frozen=True)
class Constraint:
    """What a generated text must satisfy.

    Attributes:
        automaton: the language of the new tokens, up to the end of text.
        look_ahead: whether a block weighs the state that it leaves the automaton in by the head's prior probability
            that the remaining blocks lead from there to acceptance (Zhang et al. 2024, Ctrl-G); else any state counts
            from which acceptance is possible in the length that is left.
    """

    automaton: TokenAutomaton
    look_ahead: bool = False


class ConstrainedText:
    """A constraint bound to one call of `generate`: its length, its end of text, its prior.

    The text is accepted if what comes before the first `eos_id`, or all N tokens where there is none, is in the
    language. With `after_eos="sum_out"` what follows the end is free, so that a block's law is the coupled one given
    only that; with "observe" nothing but `eos_id` follows.

    Args:
        constraint: over the model's tokens.
        length: N, the most tokens that the text has.
        prior: of the look-ahead; one block of the head.

    Raises:
        pc.ShapeError: another vocabulary. pc.EvidenceError: no text of that length satisfies the constraint.
        pc.StructureError: a look-ahead without a prior that is a `pc.HMM`.
    """

    def __init__(
        self,
        constraint: Constraint,
        *,
        length: int,
        vocab_size: int,
        mask_id: int,
        eos_id: int | None,
        after_eos: str = "sum_out",
        prior: pc.Circuit | None = None,
    ) -> None:
        automaton = constraint.automaton
        if automaton.vocab_size != vocab_size:
            raise pc.ShapeError(
                f"the constraint covers {automaton.vocab_size} tokens, the model {vocab_size}; build it with "
                f"vocab_size={vocab_size}"
            )
        if mask_id < vocab_size:
            automaton = automaton.without(mask_id)
        if eos_id is not None:
            automaton = automaton.ending(eos_id, then_anything=after_eos == "sum_out")
        self.automaton, self.length, self.eos_id = automaton, length, eos_id
        self.feasible = automaton.feasible(length)
        if not self.feasible[length, automaton.start]:
            ending = "exactly" if eos_id is None else "at most"
            raise pc.EvidenceError(
                f"no text of {ending} {length} tokens satisfies the constraint, in any batch row; "
                f"the shortest text that does has {constraint.automaton.shortest} tokens"
            )
        self.prior = prior
        self.look_ahead: dict[int, Tensor] | None = {} if constraint.look_ahead else None
        if constraint.look_ahead and not isinstance(prior, pc.HMM):
            raise pc.StructureError("`look_ahead` needs a head whose prior is a pc.HMM")

    def condition(
        self,
        distribution: Conditionable,
        rows: Int[Tensor, " R"],
        tokens: Int[Tensor, "R N"],
        mask: Bool[Tensor, "R N"],
        block: slice,
    ) -> ConstrainedPosterior:
        """The next block's distribution, given that the whole text can still satisfy the constraint.

        Args:
            distribution: of the block, for R rows.
            rows: their numbers in the batch, for messages.
            tokens: their new tokens.
            mask: which of them are undecided.
            block: the columns of the block.

        Raises:
            pc.StructureError: blocks that are not decoded from left to right.
            pc.EvidenceError: impossible, naming the rows.
        """
        ended = torch.zeros_like(rows, dtype=torch.bool)
        if self.eos_id is not None:  # what follows an end may be filled with it
            ended = ((tokens == self.eos_id) & ~mask)[:, block].any(1)
        if mask[:, : block.start].any() or not (mask[:, block.stop :].all(1) | ended).all():
            raise pc.StructureError("a constraint needs blocks that are decoded one after another, from left to right")
        block_length = block.stop - block.start
        automaton = self.automaton.to(tokens.device)
        log_final = self._log_final(max(self.length - block.stop, 0), block_length)
        conditioned = ConstrainedPosterior(
            distribution,
            automaton,
            start=automaton.run(tokens[:, : block.start]),
            log_final=log_final.to(tokens.device).expand(len(rows), -1),
            length=min(block_length, self.length - block.start),
        )
        if (bad := conditioned.log_evidence.isneginf()).any():
            raise pc.EvidenceError(
                f"the models exclude every block that satisfies the constraint in batch rows {rows[bad][:8].tolist()}, "
                f"at new tokens {block.start}..{block.stop - 1}"
            )
        return conditioned

    def _log_final(self, left: int, block_length: int) -> Float[Tensor, " Q"]:
        if self.look_ahead is None or left == 0:
            return torch.where(self.feasible[left], 0.0, -torch.inf).double()
        if left not in self.look_ahead:
            self.look_ahead[left] = self._probability_of_acceptance(left, block_length)
        return self.look_ahead[left]

    def _probability_of_acceptance(self, left: int, block_length: int) -> Float[Tensor, " Q"]:
        """Log probability under the prior, block after block, that `left` more tokens lead to acceptance."""
        assert isinstance(self.prior, pc.HMM)
        nothing = pc.Evidence.nothing(1, self.prior.length, self.prior.device)
        ahead = ConstrainedPosterior(
            self.prior.condition(nothing),
            self.automaton,
            log_final=self._log_final(max(left - block_length, 0), block_length).unsqueeze(0).to(self.prior.device),
            length=min(left, block_length),
        )
        return ahead.log_from_states()[0]
