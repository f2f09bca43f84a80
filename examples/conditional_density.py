"""Regression with several outputs that depend on each other: a network makes the parameters of a circuit over them.

python examples/conditional_density.py [--small]
"""

import math
import sys

import torch
from torch import Tensor, nn

import pcircuits as pc

small = "--small" in sys.argv
generator = torch.Generator().manual_seed(0)
rows, units = 1000, 4
angle = 2 * math.pi * torch.rand(rows, 1, generator=generator)
side = torch.randint(0, 2, (rows, 1), generator=generator) * 2 - 1  # not observed: both outputs point to one side
noise = 0.1 * torch.randn(rows, 2, generator=generator)
outputs = side * torch.cat([angle.cos(), angle.sin()], 1) + noise
train, test = slice(0, 800), slice(800, None)


class Network(nn.Module):
    """From an angle to means and standard deviations of each output's units."""

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.shape = (2, num_units, 2)  # outputs, units, parameters
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, math.prod(self.shape)))

    def forward(self, angle: Tensor) -> pc.Potentials:
        features = torch.cat([angle.cos(), angle.sin()], 1)
        mean, raw_std = self.layers(features).unflatten(-1, self.shape).unbind(-1)
        return pc.Potentials(parameters={"mean": mean, "raw_std": raw_std})


def score(num_units: int) -> tuple[float, pc.ConditionalCircuit]:
    torch.manual_seed(0)
    inputs = pc.PerSample(pc.Gaussian())
    circuit = pc.Circuit(pc.structures.factorized(2), inputs, num_units=num_units, layer="cp-t", seed=0)
    model = pc.ConditionalCircuit(circuit, Network(num_units))
    batches = list(zip(outputs[train].split(200), angle[train].split(200), strict=True))
    objective = pc.ConditionalCircuit.log_likelihood
    learner, epochs = pc.Adam(0.01), 20 if small else 150
    pc.fit(model, batches, objective=objective, learner=learner, epochs=epochs, progress=False)
    with torch.no_grad():
        return float(model(outputs[test], angle[test]).mean()), model


alone, _ = score(1)
together, model = score(units)
print(f"log density of held-out outputs: {alone:.2f} with one unit, which keeps them independent")
print(f"                                 {together:.2f} with {units} units")
assert together > alone

drawn = model.sample(torch.tensor([[math.pi / 4]]), 1000, generator=generator)[:, 0]
agree, positive = (drawn[:, 0].sign() == drawn[:, 1].sign()).double().mean(), (drawn > 0).all(1).double().mean()
print(f"samples at 45 degrees: {agree:.0%} have outputs of one sign, {positive:.0%} positive ones")
