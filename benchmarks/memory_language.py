"""Peak memory of a head at language scale: `python -m benchmarks.memory_language [--reduced]`.

Each row is a process of its own that makes a random HMM of 1024 states over 32 positions of 126,464 tokens, conditions
it on random predictions with every position masked, and draws a sample; its peak resident memory includes the
interpreter and torch.
"""

import json
import resource
import subprocess
import sys
from typing import Any

import torch

import pcircuits as pc
from benchmarks import record
from benchmarks.random_transformer import BLOCK, SMALL_STATES, SMALL_VOCAB, STATES, VOCAB
from pcircuits_diffusion.evaluate import tables
from pcircuits_diffusion.head import CoupledHead

HEADS: dict[str, dict[str, Any]] = {
    "product": {"coupling": "product"},
    "corrected": {"coupling": "corrected"},
    "projected, 64 tokens one by one": {"sweep_tokens": 64},
    "projected, all tokens": {},
    "product, top 256": {"coupling": "product", "top_k": 256},
}


@torch.no_grad()
def peak_of(options: dict[str, Any], *, small: bool, seed: int) -> float:
    """MiB of this process after one sample."""
    states, vocab_size = (SMALL_STATES, SMALL_VOCAB) if small else (STATES, VOCAB)
    head = CoupledHead(pc.HMM(states, vocab_size, BLOCK, seed=seed).requires_grad_(False), **options)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, BLOCK, vocab_size, generator=generator)
    mask = torch.ones(1, BLOCK, dtype=torch.bool)
    head(logits, None, torch.zeros(1, BLOCK, dtype=torch.long), mask).sample(1, generator=generator)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(*, small: bool, seed: int) -> dict[str, float]:
    found = {}
    for name, options in HEADS.items():
        code = f"from benchmarks import memory_language as m; m.child({json.dumps(options)!r}, {small}, {seed})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[name] = float(done.stdout)
    return found


def child(options: str, small: bool, seed: int) -> None:
    torch.set_num_threads(1)
    print(peak_of(json.loads(options), small=small, seed=seed))


def main(arguments: list[str] | None = None) -> None:
    parser = record.parser(__doc__)
    options = parser.parse_args(arguments)
    found = measure(small=options.reduced, seed=options.seed)
    print(tables.aligned([["head", "peak MB"], *([k, f"{v * 1.048576:.0f}"] for k, v in found.items())]))
    suffix = "_reduced" if options.reduced else ""
    path = record.write(f"memory_language{suffix}", {"peak_mib": found}, seed=options.seed, folder=options.out)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
