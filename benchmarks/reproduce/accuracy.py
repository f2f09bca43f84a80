"""Tables 1 and 2: accuracy with and without the head, from one decoding loop with the same settings and seeds."""

from collections.abc import Sequence
from typing import Any

import lm_eval
import torch
from lm_eval.tasks import TaskManager

from benchmarks.reproduce.setups import Setup, Task
from pcircuits_diffusion.evaluate import DocumentBootstrap, Interval
from pcircuits_diffusion.evaluate.tables import aligned
from pcircuits_diffusion.harness import CoupledDiffusionLM
from pcircuits_diffusion.model import CoupledDiffusion
from pcircuits_diffusion.resolve import Loaded

SYSTEMS = ("backbone", "coupled")


def measure(
    setup: Setup, loaded: Loaded, tasks: Sequence[str], *, steps: Sequence[int], limit: int | None, seed: int
) -> list[dict[str, Any]]:
    """One row for each task and number of steps."""
    return [_row(setup, loaded, task, count, limit, seed) for task in tasks for count in steps]


def _row(setup: Setup, loaded: Loaded, name: str, steps: int, limit: int | None, seed: int) -> dict[str, Any]:
    task = setup.tasks[name]
    answers = [outcomes(model, task, limit) for model in models(setup, loaded, steps, seed)]
    both = torch.stack([torch.tensor([found[doc] for doc in sorted(answers[0])]) for found in answers])
    generator = torch.Generator().manual_seed(seed)
    bootstrap = DocumentBootstrap(torch.arange(both.shape[1]), generator=generator)
    totals = 100 * bootstrap.totals(both.double()) / both.shape[1]
    shares: list[Interval] = bootstrap.intervals(totals)
    (gain,) = bootstrap.intervals((totals[:, 1] - totals[:, 0]).unsqueeze(-1))
    published = {system: getattr(setup.published[name], system).get(steps) for system in SYSTEMS}
    row = {"task": name, "steps": steps, "problems": both.shape[1], **dict(zip(SYSTEMS, shares, strict=True))}
    return {**row, "gain": gain, "published": published}


def models(setup: Setup, loaded: Loaded, steps: int, seed: int) -> list[CoupledDiffusionLM]:
    """The backbone alone, and with its head: nothing else differs."""
    blocks = -(-setup.length // setup.block_length)
    if steps % blocks:
        raise ValueError(f"{steps} steps do not spread evenly over {blocks} blocks of {setup.block_length} tokens")
    alone = loaded._replace(model=CoupledDiffusion(loaded.model.backbone))
    return [
        CoupledDiffusionLM(
            part,
            steps_per_block=steps // blocks,
            block_length=setup.block_length,
            max_gen_toks=setup.length,
            seed=seed,
            **setup.settings,
        )
        for part in (alone, loaded)
    ]


def outcomes(model: CoupledDiffusionLM, task: Task, limit: int | None) -> dict[int, float]:
    """What each problem of a task scores, by its number."""
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=[task.name],
        num_fewshot=0,
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=model.loaded.tokenizer.chat is not None,
        gen_kwargs={"max_gen_toks": model.max_gen_toks},
        task_manager=TaskManager(include_defaults=isinstance(task.name, str)),
        confirm_run_unsafe_code=task.unsafe_code,
    )
    samples = results["samples"][task.label]
    return {sample["doc_id"]: float(sample[task.metric]) for sample in samples if sample["filter"] == task.filter}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Percent, with paired 95% intervals of the gain, and the paper's figures beside."""
    header = ["task, steps", "backbone", "with head", "gain", "paper: backbone", "with head"]
    lines = []
    for row in rows:
        gain = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row["gain"])
        found = [f"{row[system].estimate:.1f}" for system in SYSTEMS]
        paper = ["-" if row["published"][system] is None else f"{row['published'][system]:.1f}" for system in SYSTEMS]
        lines.append([f"{row['task']}, {row['steps']}", *found, gain, *paper])
    return aligned([header, *lines])
