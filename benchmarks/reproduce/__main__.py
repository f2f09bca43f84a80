"""Trains a head for LLaDA-8B or Dream-7B and runs the paper's tables with matched baselines; see docs/reproduce.md.

python -m benchmarks.reproduce llada --data data --out runs/llada --device cuda
python -m benchmarks.reproduce dream --dry-run --out runs/dry
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.reproduce import accuracy, dry, overhead
from benchmarks.reproduce.setups import SETUPS, Setup
from pcircuits_diffusion.cli.evaluate import evaluate
from pcircuits_diffusion.cli.train import train
from pcircuits_diffusion.documents import read_documents
from pcircuits_diffusion.pretrained import CONFIG_FILE
from pcircuits_diffusion.resolve import Loaded, Source, load_model

STAGES = ("train", "likelihood", "accuracy", "overhead")


def main(arguments: list[str] | None = None) -> None:
    """Runs the stages in order; a head that is there is not trained again."""
    options = parse(arguments)
    setup = SETUPS[options.setup]
    if options.dry_run:
        options.data, options.windows = options.out / "data", 4
        setup = dry.shrink(setup, options.out)
        dry.write_data(options.data)
    head = options.head or options.out / "head"
    if "train" in options.stages and not (head / CONFIG_FILE).is_file():
        fit(setup, head, options)
    if "likelihood" in options.stages:
        likelihood(setup, head, options)
    if not {"accuracy", "overhead"} & set(options.stages):
        return
    source = Source(setup.backbone, options.revision, setup.trust_remote_code, options.device)
    loaded = load_model(source, str(head))
    results = tables(setup, loaded, options)
    name = f"reproduce_{options.setup}{'_dry_run' if options.dry_run else ''}"
    print(f"wrote {record.write(name, results, seed=options.seed, folder=options.out).name}")


def fit(setup: Setup, head: Path, options: argparse.Namespace) -> None:
    """`pcd train` with the setup's options; goes on where it was interrupted."""
    train(
        [options.data / "train.jsonl"],
        head,
        setup.backbone,
        checkpoint=options.out / "checkpoint",
        cache=options.out / "cache",
        revision=options.revision,
        trust_remote_code=setup.trust_remote_code,
        device=options.device,
        seed=options.seed,
        **setup.training,
    )


def likelihood(setup: Setup, head: Path, options: argparse.Namespace) -> None:
    """`pcd evaluate` on held-out text: the paper's Fig. 1."""
    evaluate(
        [options.data / "valid.jsonl"],
        str(head),
        setup.backbone,
        windows=options.windows,
        window=setup.window,
        json_file=options.out / "likelihood.json",
        revision=options.revision,
        trust_remote_code=setup.trust_remote_code,
        device=options.device,
        seed=options.seed,
    )


def tables(setup: Setup, loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """Tables 1 or 2, and 3."""
    results: dict[str, Any] = {"backbone": setup.backbone, "settings": dict(setup.settings), "length": setup.length}
    if "accuracy" in options.stages:
        tasks = options.tasks or list(setup.tasks)
        steps = options.steps or setup.steps
        rows = accuracy.measure(setup, loaded, tasks, steps=steps, limit=options.limit, seed=options.seed)
        print(accuracy.table(rows))
        results["accuracy"] = rows
    if "overhead" in options.stages:
        texts = read_documents([options.data / "valid.jsonl"])[: setup.timed["samples"]]
        prompts = [loaded.tokenizer.encode(document.text.split("\n")[0]) for document in texts]
        results["overhead"] = overhead.measure(setup, loaded, prompts, seed=options.seed)
        print(overhead.line(results["overhead"]))
    return results


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("--out", type=Path, required=True, help="folder of the head, checkpoints and results")
    parser.add_argument("--data", type=Path, help="folder with train.jsonl and valid.jsonl (benchmarks.reproduce.data)")
    parser.add_argument("--head", type=Path, help="a head that is there already, such as a converted one")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--tasks", nargs="+", help="default: all of the setup")
    parser.add_argument("--steps", nargs="+", type=int, help="of a text; default: those of the paper")
    parser.add_argument("--limit", type=int, help="problems a task; default: all")
    parser.add_argument("--windows", type=int, default=256, help="of held-out text, for the likelihood")
    parser.add_argument("--revision", help="commit of the backbone")
    parser.add_argument("--device", help="such as cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="the whole recipe on tiny models, in seconds")
    options = parser.parse_args(arguments)
    if options.data is None and not options.dry_run:
        parser.error("--data is needed (or --dry-run)")
    return options


if __name__ == "__main__":
    main()
