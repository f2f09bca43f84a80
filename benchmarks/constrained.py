"""Whether constrained text always matches: `python -m benchmarks.constrained [--reduced]`.

The embedded model continues prompts under a pattern, keywords and a JSON schema, and without them as a control. What is
written is checked by `re`, by searching and by `json`, not by the automata that it was drawn with.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

import pcircuits_diffusion as pcd
from benchmarks import record
from pcircuits_diffusion import constraints
from pcircuits_diffusion.embedded import Embedded
from pcircuits_diffusion.evaluate import tables

PROMPTS = (
    "Return the length of a string. For example, ",
    "The following example shows how to call this function:\n\n",
    "Return True if the object is an instance of the class. ",
    "This module provides access to the operating system. ",
)
PATTERN = r"len\([a-z_]{1,12}\) (is|returns) [0-9]{1,3}\."
KEYWORDS = ("length", "string")
KINDS = ("list", "string", "tuple")
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": list(KINDS)}, "length": {"type": "integer"}, "mutable": {"type": "boolean"}},
    "required": ["kind", "length", "mutable"],
}
CONTROL = "no constraint"


class Task(NamedTuple):
    """A constraint, and an independent check of a text."""

    build: Callable[[Tokenizer], constraints.TokenAutomaton]
    matches: Callable[[str], bool]


def is_valid_json(text: str) -> bool:
    """Whether a text is JSON that `SCHEMA` allows."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    if not isinstance(found, dict) or set(found) != {"kind", "length", "mutable"}:
        return False
    return found["kind"] in KINDS and type(found["length"]) is int and type(found["mutable"]) is bool


TASKS = {
    "regex": Task(
        lambda tokenizer: constraints.regex(PATTERN, tokenizer), lambda text: bool(re.fullmatch(PATTERN, text))
    ),
    "keywords": Task(
        lambda tokenizer: constraints.must_contain(KEYWORDS, tokenizer),
        lambda text: all(word in text for word in KEYWORDS),
    ),
    "json": Task(lambda tokenizer: constraints.json_schema(SCHEMA, tokenizer), is_valid_json),
}


class Batch(NamedTuple):
    """Which outputs of which task (or of the control), and what came out; `seconds` are those of the processor."""

    task: str
    first: int
    texts: list[str]
    seconds: float


def generate(model: Embedded, task: str, first: int, options: argparse.Namespace) -> Batch:
    """Outputs `first`, `first + 1`, ... of a task; their draws depend on the seed and on `first` alone."""
    count = min(options.batch, options.count - first)
    prompts = [torch.tensor(model.tokenizer.encode(PROMPTS[(first + i) % len(PROMPTS)]).ids) for i in range(count)]
    assert model.model.head is not None
    blocks = -(-options.tokens // model.model.head.block_length)
    settings: dict[str, Any] = {"max_new_tokens": options.tokens, "steps": options.steps * blocks}
    if task != CONTROL:
        settings["constraint"] = TASKS[task].build(model.tokenizer)
    start = time.process_time()
    generator = torch.Generator().manual_seed(options.seed + first)
    eos_id = model.tokenizer.token_to_id("<eos>")
    found = model.model.generate(prompts, generator=generator, eos_id=eos_id, **settings)
    seconds = time.process_time() - start
    texts = [model.tokenizer.decode(row.tolist()) for row in found.rows]
    return Batch(task, first, texts, seconds)


def collect(options: argparse.Namespace) -> list[Batch]:
    """All batches; those in the work file are not drawn again."""
    settings = {name: getattr(options, name) for name in ("count", "tokens", "steps", "batch", "seed")}
    done = _read(options.work, settings)
    model = pcd.embedded.load()
    wanted = [(task, first) for first in range(0, options.count, options.batch) for task in (*TASKS, CONTROL)]
    for key in tqdm([] if options.partial else wanted, "batches", mininterval=10.0):
        if key not in done:
            done[key] = generate(model, *key, options)
            if options.work is not None:
                with options.work.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"settings": settings, "batch": done[key]}) + "\n")
    return [done[key] for key in wanted if key in done]


def _read(path: Path | None, settings: dict[str, Any]) -> dict[tuple[str, int], Batch]:
    if path is None or not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    batches = [Batch(*line["batch"]) for line in lines if line["settings"] == settings]
    return {batch[:2]: batch for batch in batches}


def summary(batches: list[Batch]) -> dict[str, dict[str, Any]]:
    """By task, for the constrained outputs and for the control."""
    return {
        task: {
            "constrained": _outcome([batch for batch in batches if batch.task == task], parts.matches),
            "control": _outcome([batch for batch in batches if batch.task == CONTROL], parts.matches),
        }
        for task, parts in TASKS.items()
    }


def _outcome(batches: list[Batch], matches: Callable[[str], bool]) -> dict[str, Any]:
    texts = [text for batch in batches for text in batch.texts]
    return {
        "count": len(texts),
        "matches": sum(map(matches, texts)),
        "different": len(set(texts)),
        "seconds_per_output": sum(batch.seconds for batch in batches) / len(texts),
        "examples": texts[:3],
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [["constraint", "", "matches", "different", "processor seconds an output"]]
    for task, kinds in found.items():
        for kind, values in kinds.items():
            shares = [f"{values['matches']} of {values['count']}", str(values["different"])]
            lines.append([task, kind, *shares, f"{values['seconds_per_output']:.3f}"])
    return tables.aligned(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where an output breaks its constraint."""
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    found = summary(collect(options))
    print(table(found))
    suffix = "_reduced" if options.reduced else ""
    tokenizer = pcd.embedded.load().tokenizer
    settings: dict[str, Any] = {
        name: getattr(options, name) for name in ("tokens", "steps", "batch", "reduced", "partial")
    }
    settings |= {"pattern": PATTERN, "keywords": KEYWORDS, "schema": SCHEMA, "prompts": PROMPTS}
    settings["automata"] = {name: repr(task.build(tokenizer)) for name, task in TASKS.items()}
    path = record.write(f"constrained{suffix}", {**settings, "tasks": found}, seed=options.seed, folder=options.out)
    print(f"wrote {path.name}")
    return int(any(task["constrained"]["matches"] < task["constrained"]["count"] for task in found.values()))


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reduced", action="store_true")
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    parser.add_argument("--count", type=int, default=None, help="outputs of each constraint; default: 1000, reduced 16")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens, at most")
    parser.add_argument("--steps", type=int, default=1, help="of a block")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--partial", action="store_true", help="draw nothing: results of what the work file has")
    parser.add_argument("--work", type=Path, help="file of the batches drawn so far, to go on from")
    options = parser.parse_args(arguments)
    options.count = options.count or (16 if options.reduced else 1000)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
