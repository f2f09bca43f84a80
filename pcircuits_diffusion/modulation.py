"""Conditioning a head's circuit on the backbone's hidden states: small maps from them to potentials of the circuit.

Axes: B batch, L positions of the block, E features of a hidden state, K units a region, G blocks of units.
"""

import torch
from torch import nn

import pcircuits as pc
from pcircuits.types import Bool, Float, Tensor

LARGEST = 12.0  # nats: a potential can favour a state, never exclude it


class Modulation(nn.Module):
    """A perceptron on each position's hidden state, its mask and the block's mask ratio. Its last layer starts at zero,
    so that a new head is the unconditioned one.

    Args:
        hidden_size: E.
        num_units: K of the prior.
        width: of the perceptron.
        blocks: G of "parameter"; must divide K.

    Raises:
        pc.ParameterError: blocks that do not divide the units, or sizes that are not positive.
    """

    def __init__(self, hidden_size: int, num_units: int, *, width: int = 128, blocks: int = 8) -> None:
        super().__init__()
        for name, size in {"hidden_size": hidden_size, "width": width, "blocks": blocks}.items():
            if not isinstance(size, int) or size < 1:
                raise pc.ParameterError(f"`{name}` must be a positive integer, got {size!r}")
        if num_units % blocks:
            raise pc.ParameterError(f"`blocks` must divide the prior's {num_units} units, got {blocks}")
        self.hidden_size, self.num_units, self.width, self.blocks = hidden_size, num_units, width, blocks
        self.norm = nn.LayerNorm(hidden_size)
        self.expand = nn.Linear(hidden_size + 2, width)
        self.contract = nn.Linear(width, self.num_outputs)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    @property
    def num_outputs(self) -> int:
        raise NotImplementedError

    def split(self, outputs: Float[Tensor, "B L N"]) -> pc.Potentials:
        """The perceptron's outputs as potentials."""
        raise NotImplementedError

    def forward(self, hidden: Float[Tensor, "B L E"], mask: Bool[Tensor, "B L"]) -> pc.Potentials:
        """Potentials given the hidden states and which positions are masked."""
        if hidden.shape != (*mask.shape, self.hidden_size):
            raise pc.ShapeError(
                f"`hidden_states` must have shape {(*mask.shape, self.hidden_size)}, got {tuple(hidden.shape)}"
            )
        masked = mask.to(self.expand.weight.dtype)
        ratio = masked.mean(1, keepdim=True).expand_as(masked)
        features = torch.cat([self.norm(hidden.to(masked.dtype)), torch.stack([masked, ratio], -1)], -1)
        outputs = self.contract(nn.functional.gelu(self.expand(features)))
        return self.split(LARGEST * torch.tanh(outputs / LARGEST))

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}, width={self.width}, blocks={self.blocks}"


class Latent(Modulation):
    """Potentials of the latent variables: `p_theta(z | x_t)` of Li et al. 2026, equation (10)."""

    @property
    def num_outputs(self) -> int:
        return self.num_units

    def split(self, outputs: Float[Tensor, "B L N"]) -> pc.Potentials:
        return pc.Potentials(outputs)


class Parameter(Modulation):
    """Gates on the parameters themselves (Li et al. 2026, App. E.2): on blocks of the transition into each position,
    and on each state's row of emission probabilities, which are latent potentials. Nothing is made per sample but
    the gates.
    """

    @property
    def num_outputs(self) -> int:
        return self.num_units + self.blocks**2

    def split(self, outputs: Float[Tensor, "B L N"]) -> pc.Potentials:
        latent, gates = outputs.split([self.num_units, self.blocks**2], -1)
        return pc.Potentials(latent, gates.unflatten(-1, (self.blocks, self.blocks)))


MODULATIONS: dict[str, type[Modulation] | None] = {"none": None, "latent": Latent, "parameter": Parameter}
