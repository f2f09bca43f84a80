"""The head's time a generation step over the backbone's: `python -m benchmarks.overhead [--reduced]`."""

import argparse

import torch

from benchmarks import record, trained
from benchmarks.coupling import all_heads
from pcircuits_diffusion import corpus, evaluate
from pcircuits_diffusion.evaluate import tables

BATCH_SIZES = (1, 16, 64)


def measure(loaded: trained.Trained, options: argparse.Namespace) -> dict[str, list[evaluate.Overhead]]:
    """Each head by turns with the backbone, in one process."""
    generator = torch.Generator().manual_seed(options.seed)
    documents = corpus.encode(loaded.tokenizer, corpus.python_docs("test"))
    tokens = corpus.windows(documents, loaded.window_length, count=max(BATCH_SIZES), generator=generator).tokens
    return {
        name: evaluate.head_overhead(
            loaded.backbone,
            head,
            tokens,
            block_length=loaded.block_length,
            batch_sizes=BATCH_SIZES,
            repeats=options.repeats,
            generator=generator,
        )
        for name, head in all_heads(loaded, loaded.head.prior, None).items()
    }


def table(found: dict[str, list[evaluate.Overhead]]) -> str:
    rows = [["head", "batch", "backbone ms", "head ms", "head / backbone"]]
    for name, measured in found.items():
        rows += [
            [name, f"{o.batch_size}", f"{o.backbone_ms:.2f}", f"{o.head_ms:.2f}", f"{o.over_backbone:.0%}"]
            for o in measured
        ]
    return tables.aligned(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = trained.parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=None, help="default: 25, reduced 5")
    options = parser.parse_args(arguments)
    options.repeats = options.repeats or (5 if options.reduced else 25)
    torch.set_num_threads(options.threads)
    found = measure(trained.load(options.weights), options)
    print("Median milliseconds of a generation step, half of the block masked\n" + table(found))
    rows = {
        name: [o._asdict() | {"over_backbone": o.over_backbone} for o in measured] for name, measured in found.items()
    }
    results = {"repeats": options.repeats, "reduced": options.reduced, "heads": rows}
    suffix = "_reduced" if options.reduced else ""
    print(f"wrote {record.write(f'overhead{suffix}', results, seed=options.seed, folder=options.out).name}")


if __name__ == "__main__":
    main()
