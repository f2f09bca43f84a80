"""What is counted in generated solutions: their calculations, their diversity, and what a judge says of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from benchmarks import trained
from benchmarks.annotations import Annotation, annotations
from pcircuits_diffusion.evaluate import DocumentBootstrap, GenerationMetrics, Interval, generation


class Cell(NamedTuple):
    """One way to decode: the annotations of each problem's sample, the diversity of all tokens, what a judge says."""

    annotations: list[list[Annotation]]
    distinct_2: float
    entropy: float
    judged: GenerationMetrics | None = None

    def counts(self, field: str) -> torch.Tensor:
        """(N,) how many annotations of each sample have the property, or its sum."""
        return torch.tensor([float(sum(getattr(a, field) for a in sample)) for sample in self.annotations]).double()

    @property
    def number(self) -> torch.Tensor:
        return torch.tensor([float(len(sample)) for sample in self.annotations]).double()


def examine(loaded: trained.Trained, prompts: Sequence[list[int]], rows: Sequence[list[int]], limit: int) -> Cell:
    """Finds the annotations of each sample; one that the limit of new tokens cuts off is left out."""
    texts = loaded.tokenizer.decode_batch([list(row) for row in rows])
    found = [annotations(text, complete=len(row) < limit) for text, row in zip(texts, rows, strict=True)]
    pairs = {pair for row in rows for pair in pairwise(row)}
    bigrams = sum(max(len(row) - 1, 0) for row in rows)
    entropy = generation.token_entropy(torch.tensor([[token for row in rows for token in row] or [0]]))
    return Cell(found, len(pairs) / max(bigrams, 1), entropy, judge(loaded, prompts, rows))


def judge(loaded: trained.Trained, prompts: Sequence[list[int]], rows: Sequence[list[int]]) -> GenerationMetrics | None:
    """The first blocks of samples that fill one, after prompts that fill the context; None without a judge."""
    block = loaded.block_length
    context = loaded.window_length - block
    pairs = [(p[-context:], r[:block]) for p, r in zip(prompts, rows, strict=True) if len(p) >= context]
    full = [(prompt, row) for prompt, row in pairs if len(row) == block]
    if loaded.judge is None or not full:
        return None
    before, after = (torch.tensor(column) for column in zip(*full, strict=True))
    return generation.generation_metrics(after, loaded.judge, prompts=before)


def summary(cell: Cell, known: set[str], bootstrap: DocumentBootstrap) -> dict[str, Any]:
    """Shares with intervals over problems, and what keeps them honest."""
    flat = [annotation for sample in cell.annotations for annotation in sample]
    new = [annotation for annotation in flat if annotation.text not in known]
    total = max(len(flat), 1)
    return {
        "well_formed": share(cell, "well_formed", bootstrap),
        "right": share(cell, "right", bootstrap),
        "right_among_new": sum(a.right for a in new) / max(len(new), 1),
        "annotations_a_sample": len(flat) / len(cell.annotations),
        "right_a_sample": sum(a.right for a in flat) / len(cell.annotations),
        "distinct": len({a.text for a in flat}),
        "copied_from_training": sum(a.text in known for a in flat) / total,
        "operators_an_annotation": sum(a.operators for a in flat) / total,
        "distinct_2": cell.distinct_2,
        "token_entropy": cell.entropy,
        "first_blocks_judged": None if cell.judged is None else cell.judged._asdict(),
    }


def share(cell: Cell, field: str, bootstrap: DocumentBootstrap) -> Interval:
    """Annotations with the property over all annotations."""
    return bootstrap.intervals(_ratio(cell, field, bootstrap))[0]


def gain(cell: Cell, over: Cell, field: str, bootstrap: DocumentBootstrap) -> Interval:
    """Difference of two shares on the same problems, paired."""
    return bootstrap.intervals(_ratio(cell, field, bootstrap) - _ratio(over, field, bootstrap))[0]


def _ratio(cell: Cell, field: str, bootstrap: DocumentBootstrap) -> torch.Tensor:
    totals = bootstrap.totals(torch.stack([cell.counts(field), cell.number]))
    return (totals[:, 0] / totals[:, 1]).unsqueeze(-1)
