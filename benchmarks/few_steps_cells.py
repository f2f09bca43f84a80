"""Samples of one model under one decoding rule: drawn once, kept in a work file, and what is counted in them.

Axes: N problems.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks import samples, trained
from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.model import CoupledDiffusion

BATCH = 32


@dataclass(frozen=True)
class Rule:
    """A decoding rule, and the settings at which it takes many and few steps: steps a block, or bounds."""

    options: dict[str, Any]
    bounds: tuple[float, ...] = ()

    def settings(self, steps: Sequence[int]) -> Sequence[float]:
        return self.bounds or steps


RULES = {
    "random": Rule({"remasking": "random"}),
    "joint_confidence": Rule(
        {"quota": "joint_confidence", "remasking": "low_confidence", "confidence_from": "coupled"},
        bounds=(0.3, 1e-2, 1e-5, 1e-10, 1e-20),
    ),
    "low_confidence": Rule({"remasking": "low_confidence"}),
    "entropy_bounded": Rule({"quota": "entropy_bounded", "remasking": "entropy"}, bounds=(1.0, 5.0, 15.0, 40.0, 80.0)),
    "entropy": Rule({"remasking": "entropy"}),
}


class Spec(NamedTuple):
    """Which model, under which rule, at how many steps a block (or which bound)."""

    model: str
    rule: str
    setting: float


class Drawn(NamedTuple):
    """Token ids of each problem's sample, calls of the backbone that each took, and seconds for all of them."""

    rows: list[list[int]]
    calls: list[int]
    seconds: float


@dataclass(frozen=True)
class Work:
    """Samples drawn so far, one line of JSON each, so that an interrupted run goes on where it stopped.

    `settings`: what all cells share; lines of other settings are not read.
    """

    path: Path
    settings: dict[str, Any]
    cells: dict[Spec, Drawn] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            if found["settings"] == self.settings:
                self.cells[Spec(*found["spec"])] = Drawn(*found["drawn"])

    def add(self, spec: Spec, drawn: Drawn) -> None:
        self.cells[spec] = drawn
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"settings": self.settings, "spec": spec, "drawn": drawn}) + "\n")


def draw(
    model: CoupledDiffusion,
    prompts: Sequence[list[int]],
    spec: Spec,
    *,
    block_length: int,
    tokens: int,
    eos_id: int,
    temperature: float,
    seed: int,
) -> Drawn:
    """One continuation a prompt; batch b draws from seed + b, whatever the model."""
    rule = RULES[spec.rule]
    if rule.bounds:
        limit: dict[str, Any] = {"bound": spec.setting}
    else:
        limit = {"steps": int(spec.setting) * -(-tokens // block_length)}
    options = {
        **rule.options,
        **limit,
        "max_new_tokens": tokens,
        "block_length": block_length,
        "eos_id": eos_id,
        "temperature": temperature,
    }
    rows, calls, start = [], [], time.process_time()
    for batch, first in enumerate(range(0, len(prompts), BATCH)):
        part = [torch.tensor(prompt) for prompt in prompts[first : first + BATCH]]
        made = torch.zeros(len(part), dtype=torch.long)
        for step in model.steps(part, generator=torch.Generator().manual_seed(seed + batch), **options):
            made += step.committed.any(1)
        rows += [until(row, eos_id) for row in step.tokens.tolist()]
        calls += made.tolist()
    return Drawn(rows, calls, time.process_time() - start)


def until(row: list[int], eos_id: int) -> list[int]:
    """What comes before the end of text."""
    return row[: row.index(eos_id)] if eos_id in row else row


class Counted(NamedTuple):
    """Per problem (N,): annotations with a property, all of them, the judge's nats and the tokens that it judged.

    `steps`: calls of the backbone a block, on average.
    """

    well_formed: Tensor
    right: Tensor
    annotations: Tensor
    nats: Tensor
    judged: Tensor
    entropy: float
    distinct_2: float
    steps: float
    seconds: float


def count(
    loaded: trained.Trained, prompts: Sequence[list[int]], drawn: Drawn, limit: int, steps: float | None = None
) -> Counted:
    """Examines samples of at most `limit` tokens; without a judge its nats are NaN. `steps`: where they were set."""
    found = samples.examine(loaded._replace(judge=None), prompts, drawn.rows, limit)
    nats, judged = torch.full((len(prompts),), torch.nan).double(), torch.ones(len(prompts)).double()
    if loaded.judge is not None:
        nats, judged = judge(loaded.judge, prompts, drawn.rows, limit)
    blocks = sum(-(-min(len(row) + 1, limit) // loaded.block_length) for row in drawn.rows)
    taken = sum(drawn.calls) / blocks if steps is None else float(steps)
    well_formed, right = found.counts("well_formed"), found.counts("right")
    measured = (found.entropy, found.distinct_2, taken, drawn.seconds)
    return Counted(well_formed, right, found.number, nats, judged, *measured)


@torch.no_grad()
def judge(
    model: MaskedTransformer, prompts: Sequence[list[int]], rows: Sequence[list[int]], limit: int
) -> tuple[Tensor, Tensor]:
    """(N,) negative log likelihood of each sample after its prompt, nats, and (N,) tokens, the end of text included.

    The judge reads as much of a prompt as fits before the sample.
    """
    texts = [row if len(row) >= limit else [*row, model.config.eos_id] for row in rows]
    nats = torch.zeros(len(rows), dtype=torch.float64)
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        whole = torch.tensor([[*prompt, *text][-model.config.max_length :]])
        span = slice(whole.shape[1] - len(text), None)
        found = model.log_marginals(whole, span=span)
        nats[i] = -found[0].gather(-1, whole[0, span].unsqueeze(-1)).double().sum()
    return nats, torch.tensor([float(len(text)) for text in texts]).double()


def digest(circuit: pc.Circuit) -> str:
    """Of all parameters."""
    found = hashlib.sha256()
    for parameter in circuit.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()[:16]


def all_specs(models: Iterable[str], rules: Sequence[str], steps: Sequence[int]) -> list[Spec]:
    """Rule by rule, so that a run that is cut short has whole rules."""
    models = list(models)
    return [Spec(model, rule, setting) for rule in rules for setting in RULES[rule].settings(steps) for model in models]
