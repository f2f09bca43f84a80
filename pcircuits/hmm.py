"""Homogeneous hidden Markov models: a chain region graph with tied parameters, no second engine."""

from typing import Any, NamedTuple

import torch

from pcircuits.circuit import Circuit
from pcircuits.distributions import Categorical
from pcircuits.errors import ParameterError
from pcircuits.evidence import describe
from pcircuits.layers import InputGroup, SumGroup
from pcircuits.structures import chain
from pcircuits.summary import summary
from pcircuits.types import Float, Tensor


class HMMLogProbs(NamedTuple):
    """Natural logarithms of `HMM.initial` (H,), `.transition` (H, H) and `.emission` (H, V); `-inf` outside the
    support.
    """

    initial: Float[Tensor, " H"]
    transition: Float[Tensor, "H H"]
    emission: Float[Tensor, "H V"]


class HMM(Circuit):
    """`p(x) = sum_z p(z_1) p(x_1 | z_1) prod_t p(z_t | z_{t-1}) p(x_t | z_t)` over T categorical variables.

    Args:
        num_states: H hidden states.
        num_categories: V values of each variable.
        length: T steps.
        seed: of the random initial parameters. On text start from `pcircuits.learning.hmm_from_states` instead: EM
            from random parameters stays at unigrams.
    """

    def __init__(
        self,
        num_states: int,
        num_categories: int,
        length: int,
        *,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        graph = chain(length)
        inner = [i for i, region in enumerate(graph.regions) if not region.is_input]
        super().__init__(
            graph,
            Categorical(num_categories),
            num_units=num_states,
            layer="cp-t",
            seed=seed,
            dtype=dtype,
            sum_ties={i: "initial" if i == graph.root else "transition" for i in inner},
            input_ties={i: "emission" for i, region in enumerate(graph.regions) if region.is_input},
        )

    @classmethod
    def from_probs(
        cls,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor,
        *,
        length: int,
    ) -> "HMM":
        """An HMM with these probabilities, (H,), (H, H) and (H, V); rows sum to one, exact zeros stay zero under every
        learner.

        Raises:
            ParameterError: shapes that do not fit, negative or NaN entries, or rows that do not sum to one within 1e-4.
        """
        states = _checked("initial", initial, (None,)).shape[0]
        _checked("transition", transition, (states, states))
        categories = _checked("emission", emission, (states, None)).shape[1]
        dtype = torch.float64 if initial.dtype == torch.float64 else torch.float32
        hmm = cls(states, categories, length, seed=0, dtype=dtype).to(initial.device)
        hmm.set_probs(initial, transition, emission)
        return hmm

    @torch.no_grad()
    def set_probs(
        self, initial: Float[Tensor, " H"], transition: Float[Tensor, "H H"], emission: Float[Tensor, "H V"]
    ) -> None:
        """Set all probabilities in place; zeros become part of the support masks."""
        tables = {
            "initial": initial.view(1, 1, -1),
            "transition": transition.unsqueeze(0),
            "emission": emission.unsqueeze(0),
        }
        for name, table in tables.items():
            if name not in self.groups:
                continue  # a single step has no transition
            group, family = self.group(name), self.inputs[0]
            group.support = None if (table > 0).all() else table > 0
            if isinstance(group, SumGroup):
                group.set_probabilities(table)
            elif isinstance(group, InputGroup) and isinstance(family, Categorical):
                group.set_parameters(family.from_table(table))

    @property
    def num_states(self) -> int:
        return self.num_units

    @property
    def length(self) -> int:
        return self.num_variables

    @property
    def initial(self) -> Float[Tensor, " H"]:
        return self._tables()["initial"].linear[0, 0]

    @property
    def transition(self) -> Float[Tensor, "H H"]:
        """`transition[i, j] = p(z_t = j | z_{t-1} = i)`."""
        if "transition" not in self.groups:
            return torch.full(
                (self.num_states, self.num_states), 1 / self.num_states, dtype=self.dtype, device=self.device
            )
        return self._tables()["transition"].linear[0]

    @property
    def emission(self) -> Float[Tensor, "H V"]:
        return self._tables()["emission"].linear[0].mT

    def log_probs(self) -> HMMLogProbs:
        """All probabilities as logarithms, for algorithms on chains that keep tiny ones apart from zeros."""
        prepared = self._tables()
        transition = prepared["transition"].log[0] if "transition" in prepared else self.transition.log()
        return HMMLogProbs(prepared["initial"].log[0, 0], transition, prepared["emission"].log[0])

    def __str__(self) -> str:
        return summary(self, steps=f"{self.length} of {self.num_states} states and {self.num_categories} values")

    def _tables(self) -> dict[str, Any]:
        """Normalised parameters for users, which no EM step may write over."""
        self._shared = True
        return self.prepared()

    def with_length(self, length: int) -> "HMM":
        """The same HMM over another number of steps, with parameters of its own."""
        with torch.no_grad():
            return HMM.from_probs(self.initial, self.transition, self.emission, length=length)


def _checked(name: str, table: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    if not isinstance(table, Tensor) or not table.is_floating_point() or table.ndim != len(shape):
        raise ParameterError(f"`{name}` must be a floating point tensor with {len(shape)} axes, got {describe(table)}")
    if any(want is not None and want != got for want, got in zip(shape, table.shape, strict=True)):
        raise ParameterError(f"`{name}` must have shape {shape}, got {tuple(table.shape)}")
    if not (table >= 0).all() or (table.sum(-1) - 1).abs().max() > 1e-4:
        raise ParameterError(f"`{name}` must hold probabilities whose rows sum to one")
    return table
