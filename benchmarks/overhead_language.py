"""The head's time a generation step at language scale: `python -m benchmarks.overhead_language [--reduced]`.

A random transformer of 0.5 billion parameters with 126,464 tokens, 512 tokens of context, a block of 32, and a random
HMM of 1024 states. A step is the backbone's forward pass and what is decided from it, through the decoding loop's own
functions; steps without a head and with each of the heads take turns. The block is decided in four steps, eight tokens
each; the rows named "all" commit every masked token at once.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks import random_transformer, record
from benchmarks.random_transformer import BLOCK, CONTEXT, cached_log_marginals
from benchmarks.spread import Spread
from pcircuits_diffusion.decoding.loop import Models, propose
from pcircuits_diffusion.decoding.randomness import Randomness
from pcircuits_diffusion.decoding.view import Rule, View
from pcircuits_diffusion.evaluate import tables
from pcircuits_diffusion.head import CoupledHead

STEP_TOKENS = 8
HEADS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "product": {"coupling": "product"},
    "corrected": {"coupling": "corrected"},
    "projected, 1 sweep": {"sweep_tokens": 64},
    "projected, 4 sweeps": {"sweep_tokens": 64, "sweeps": 4},
    "projected, top 64 tokens": {"top_k": 64},
    "any order": {"coupling": "product"},
    "any order, all": {"coupling": "product"},
    "projected, 1 sweep of all tokens": {},
}
SLOW = "projected, 1 sweep of all tokens"


class Case(NamedTuple):
    batch_size: int
    masked: int


def measure(options: argparse.Namespace) -> dict[str, Any]:
    backbone, prior = random_transformer.build(small=options.reduced, seed=options.seed)
    heads = {name: None if o is None else CoupledHead(prior, **o) for name, o in HEADS.items()}
    rows = []
    for batch_size in options.batch_sizes:
        repeats = options.repeats if batch_size == 1 else max(2, options.repeats // 2)
        rows += _measure(backbone, heads, batch_size, repeats, options.seed)
    total, shared = (sum(p.numel() for p in m.parameters()) for m in (backbone, backbone.embedding))
    return {
        "parameters": total,
        "embedding_share": shared / total,
        "states": prior.num_states,
        "vocabulary": backbone.vocab_size,
        "threads": options.threads,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "steps": rows,
    }


@torch.no_grad()
def _measure(backbone: Any, heads: dict[str, Any], batch_size: int, repeats: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(backbone.vocab_size, (batch_size, CONTEXT + BLOCK), generator=generator)
    cases = {masked: _masked(tokens, masked, backbone.mask_id, generator) for masked in (BLOCK // 2, BLOCK)}
    span = slice(CONTEXT, CONTEXT + BLOCK)
    cache = random_transformer.prefill(backbone, tokens[:, :CONTEXT])
    times: dict[tuple[str, int], list[float]] = {}

    def timed(name: str, masked: int, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = call()
        times.setdefault((name, masked), []).append(time.perf_counter() - start)
        return found

    for turn in range(repeats + 1):
        if turn == 1:
            times.clear()  # the first turn warms up
        for masked, (inputs, mask) in cases.items():
            block = inputs[:, span]
            found = timed("backbone", masked, partial(backbone.log_marginals, inputs, span=span))
            timed("cached", masked, partial(cached_log_marginals, backbone, block, cache))
            for name, head in heads.items():
                if name != SLOW or (turn == 1 and batch_size == 1):
                    step = _step(backbone, head, name, found, block, mask, generator)
                    timed(name, masked, step)
    return [
        {"batch_size": batch_size, "masked": masked, "what": name, "seconds": Spread.of(seconds).to_json()}
        for (name, masked), seconds in times.items()
    ]


def _masked(tokens: torch.Tensor, masked: int, mask_id: int, generator: torch.Generator) -> tuple[Any, Any]:
    order = torch.rand(len(tokens), BLOCK, generator=generator).argsort(-1)
    mask, inputs = order < masked, tokens.clone()
    inputs[:, CONTEXT:].masked_fill_(mask, mask_id)
    return inputs, mask


def _step(
    backbone: Any, head: Any, name: str, found: torch.Tensor, tokens: Any, mask: Any, generator: torch.Generator
) -> Callable[[], Any]:
    rows, everything = torch.arange(len(tokens)), torch.ones_like(mask)
    counts = mask.sum(-1) if name.endswith("all") else torch.full((len(tokens),), STEP_TOKENS)
    view = View(tokens, mask, mask, counts, found, found, everything)
    rule = Rule(sampling="any_order" if name.startswith("any order") else "latent")
    randomness = Randomness(len(tokens), generator=generator, seeds=None, device=tokens.device)
    return lambda: propose(Models(backbone, head), view, rows, rule, randomness)


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds, and the share by which a head's step is longer than one without a head."""
    medians = {(r["batch_size"], r["masked"], r["what"]): r["seconds"]["median"] for r in rows}
    lines = [["batch", "masked", "what", "seconds", "least-most", "over the step without", "over the cached one"]]
    for row in rows:
        batch_size, masked, seconds, shares = row["batch_size"], row["masked"], row["seconds"], ["", ""]
        if HEADS.get(row["what"]) is not None:
            none = medians[batch_size, masked, "none"]
            bases = (medians[batch_size, masked, of] + none for of in ("backbone", "cached"))
            shares = [f"{(seconds['median'] - none) / base:.1%}" for base in bases]
        spread = f"{seconds['least']:.3f}-{seconds['most']:.3f}"
        lines.append([f"{batch_size}", f"{masked}", row["what"], f"{seconds['median']:.3f}", spread, *shares])
    return tables.aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=6, help="turns at batch 1; half as many at larger ones")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    results = measure(options)
    print(f"{results['parameters'] / 1e6:.0f} million parameters, {results['embedding_share']:.0%} of them embeddings")
    print(table(results["steps"]))
    suffix = "_reduced" if options.reduced else ""
    path = record.write(f"overhead_language{suffix}", results, seed=options.seed, folder=options.out)
    print(f"wrote {path.name}; peak memory {results['peak_memory_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
