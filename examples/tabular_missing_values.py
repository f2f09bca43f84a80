"""Mixed columns with missing values: learn a circuit from incomplete rows, then fill the gaps exactly.

python examples/tabular_missing_values.py [--small]
"""

import sys

import torch

import pcircuits as pc

rows = 300 if "--small" in sys.argv else 5_000
generator = torch.Generator().manual_seed(0)

# Two kinds of customer: the kind sets age, spending and two yes/no answers.
kind = torch.rand(rows, generator=generator) < 0.4
age = torch.where(kind, 30.0, 60.0) + 5 * torch.randn(rows, generator=generator)
spending = torch.where(kind, 200.0, 80.0) + 20 * torch.randn(rows, generator=generator)
answers = (torch.rand(rows, 2, generator=generator) < torch.where(kind, 0.9, 0.2).unsqueeze(1)).float()
x = torch.cat([age.unsqueeze(1), spending.unsqueeze(1), answers], 1)

holes = torch.rand(x.shape, generator=generator) < 0.3
incomplete = pc.Evidence.from_nan(x.masked_fill(holes, torch.nan))

inputs = [pc.Gaussian(50.0, 20.0), pc.Gaussian(120.0, 60.0), pc.Bernoulli(), pc.Bernoulli()]
circuit = pc.Circuit(pc.structures.binary_tree(4), inputs, num_units=4, layer="cp-t", seed=0)
pc.fit(circuit, incomplete, learner=pc.EM(pseudocount=0.1), epochs=10, seed=0, progress=False)

posterior = circuit.condition(incomplete)
age_moments, spending_moments, *_ = posterior.marginals()
missing = holes[:, 1]
error = (spending_moments.mean - x[:, 1])[missing].abs().mean()
baseline = (x[~missing, 1].mean() - x[missing, 1]).abs().mean()
print(f"spending where it is missing: mean error {error:.1f}, with the column's mean instead {baseline:.1f}")
print("five joint completions of the first row:\n", posterior.sample(5, generator=generator)[:, 0].round(decimals=1))
