"""A stand-in that is ready in seconds: an untrained backbone, sums for data, and a task of sums."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.reproduce import data
from benchmarks.reproduce.setups import Setup, Task
from pcircuits_diffusion import corpus
from pcircuits_diffusion.backbones import MaskedTransformer, TransformerConfig

BLOCK, LENGTH = 8, 16
PROBLEMS = [{"question": f"What is {a} and {b}?", "answer": f"It is {a + b}."} for a in range(12) for b in range(12)]


def shrink(setup: Setup, folder: Path) -> Setup:
    """The same recipe on tiny models: everything that is executed, nothing that is learned."""
    sizes = {"states": 4, "epochs": 1, "objective_epochs": 1, "window": 24, "block_length": BLOCK, "dtype": "float16"}
    return dataclasses.replace(
        setup,
        backbone=str(_backbone(folder / "backbone")),
        training=sizes,
        tasks={"GSM8K": Task(_task(), "exact_match")},
        steps=(8, 4),
        length=LENGTH,
        window=BLOCK,
        trust_remote_code=False,
        timed={"steps": 4, "samples": 2},
    )


def write_data(folder: Path) -> None:
    data.write(PROBLEMS, ("question", "answer"), folder)


def _backbone(folder: Path) -> Path:
    texts = [json.dumps(problem) for problem in PROBLEMS]
    tokenizer = corpus.train_tokenizer(texts, vocab_size=280)
    config = TransformerConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=8,
        num_layers=1,
        num_heads=2,
        max_length=48,
        block_length=BLOCK,
        eos_id=0,
    )
    torch.manual_seed(0)
    MaskedTransformer(config).save(folder)
    tokenizer.save(str(folder / corpus.TOKENIZER_FILE))
    return folder


def _rows(**options: Any) -> dict[str, Any]:
    from datasets import Dataset

    return {"test": Dataset.from_list(PROBLEMS[:6])}


def _task() -> dict[str, Any]:
    return {
        "task": "sums",
        "custom_dataset": _rows,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": ["?"]},
    }
