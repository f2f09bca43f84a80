"""The text that heads are trained on, as JSON lines: `python -m benchmarks.reproduce.data gsm8k --out data`."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pcircuits_diffusion.corpus import split_of

VALID_SHARE = 0.02


class Dataset(NamedTuple):
    """A data set of the hub, and the fields that make a document, joined by line breaks."""

    name: str
    config: str | None
    fields: tuple[str, str]


DATASETS = {
    "mathinstruct": Dataset("TIGER-Lab/MathInstruct", None, ("instruction", "output")),
    "gsm8k": Dataset("openai/gsm8k", "main", ("question", "answer")),
}


def main(arguments: list[str] | None = None) -> None:
    """Downloads a training set and writes `train.jsonl` and `valid.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    from datasets import load_dataset

    chosen = DATASETS[options.dataset]
    rows = load_dataset(chosen.name, chosen.config, split="train")
    print(write(rows, chosen.fields, options.out))


def write(rows: Iterable[Mapping[str, str]], fields: tuple[str, ...], folder: Path) -> dict[str, int]:
    """Documents by split; a hash of a document's text decides, so that repeated ones stay on one side."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "valid": []}
    for row in rows:
        text = "\n".join(row[field] for field in fields)
        lines[split_of(text, {"valid": VALID_SHARE})].append(json.dumps({"text": text}, ensure_ascii=False))
    for split, found in lines.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    return {split: len(found) for split, found in lines.items()}


if __name__ == "__main__":
    main()
