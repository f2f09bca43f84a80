"""A hidden Markov model of text: start from bigrams, learn by EM, fill a gap, sample.

python examples/hmm_sequences.py [--small]
"""

import sys
import this  # text that every Python installation carries

import torch

import pcircuits as pc

text = "".join(this.d.get(letter, letter) for letter in this.s).lower()
letters = sorted(set(text))
tokens = torch.tensor([letters.index(letter) for letter in text])
length, states = 16, 8 if "--small" in sys.argv else 24
windows = tokens.unfold(0, length, 1)

hmm = pc.learning.hmm_from_bigrams(windows, states, len(letters), length=length, seed=0)
pc.fit(hmm, windows, epochs=3 if "--small" in sys.argv else 30, seed=0, progress=False)
print(f"{-hmm.log_prob(windows).mean().item() / length:.2f} nats a letter")

gap = windows[:1].clone()
observed = torch.ones_like(gap, dtype=torch.bool)
observed[0, 5:8] = False
posterior = hmm.condition(pc.Evidence(gap, observed=observed))
shown = "".join(letters[i] if seen else "_" for i, seen in zip(gap[0].tolist(), observed[0].tolist(), strict=True))
print("gap:       ", repr(shown))
print("most likely:", repr("".join(letters[i] for i in posterior.mpe().values[0].tolist())))
for row in hmm.sample(3, generator=torch.Generator().manual_seed(0)).tolist():
    print("sample:    ", repr("".join(letters[i] for i in row)))
