"""What Li et al. 2026 ran, and what they report: Tables 1 and 2, accuracy in percent; Table 3, overhead a sample."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A task of the lm-evaluation-harness: by name or in full, and where a sample's outcome stands."""

    name: str | dict[str, Any]
    metric: str
    filter: str = "none"
    unsafe_code: bool = False

    @property
    def label(self) -> str:
        return self.name if isinstance(self.name, str) else self.name["task"]


class Published(NamedTuple):
    """Accuracies by number of steps, and the paper's own with its head."""

    backbone: dict[int, float]
    coupled: dict[int, float]


@dataclass(frozen=True)
class Setup:
    """A backbone, how its head is made, how texts are decoded, and what of it was published.

    Attributes:
        training: options of `pcd train` beside backbone, text and folder.
        settings: options of decoding: the same for the backbone alone and with its head.
        steps: of a whole text; `length` is its tokens.
        window: tokens of held-out text around a block whose likelihood is measured.
    """

    backbone: str
    training: Mapping[str, Any]
    settings: Mapping[str, Any]
    tasks: Mapping[str, Task]
    published: Mapping[str, Published]
    overhead: str
    steps: tuple[int, ...] = (256, 128, 64)
    length: int = 512
    window: int = 128
    trust_remote_code: bool = True
    timed: Mapping[str, int] = field(default_factory=lambda: {"steps": 128, "samples": 8})

    @property
    def block_length(self) -> int:
        return self.training["block_length"]


TASKS = {
    "MATH500": Task("minerva_math500", "exact_match"),
    "GSM8K": Task("gsm8k_cot_zeroshot", "exact_match", "flexible-extract"),
    "GPQA": Task("gpqa_main_cot_zeroshot", "exact_match", "flexible-extract"),
    "MBPP": Task("mbpp", "pass_at_1", unsafe_code=True),
}
HEAD = {"states": 1024, "epochs": 3, "objective_epochs": 2, "window": 512, "dtype": "float16"}


def _table(*rows: tuple[str, tuple[float, ...], tuple[float, ...]]) -> dict[str, Published]:
    steps = (256, 128, 64)
    return {
        task: Published(dict(zip(steps, backbone, strict=True)), dict(zip(steps, coupled, strict=True)))
        for task, backbone, coupled in rows
    }


SETUPS = {
    "llada": Setup(
        backbone="GSAI-ML/LLaDA-8B-Instruct",
        training={**HEAD, "block_length": 32},
        settings={"remasking": "low_confidence", "see_ahead": True},
        tasks=TASKS,
        published=_table(
            ("MATH500", (36.0, 31.6, 12.6), (41.0, 33.8, 15.8)),
            ("GSM8K", (71.3, 64.2, 32.4), (72.6, 65.9, 34.7)),
            ("GPQA", (21.4, 17.9, 8.0), (24.6, 17.9, 9.2)),
            ("MBPP", (34.8, 17.0, 5.4), (34.0, 23.8, 7.2)),
        ),
        overhead="2.6-12.6%",
    ),
    "dream": Setup(
        backbone="Dream-org/Dream-v0-Instruct-7B",
        training={**HEAD, "block_length": 128},
        settings={"remasking": "entropy", "region": "canvas"},
        tasks=TASKS,
        published=_table(
            ("MATH500", (32.2, 21.8, 10.8), (36.8, 25.8, 18.2)),
            ("GSM8K", (71.3, 56.2, 34.0), (74.8, 67.0, 56.4)),
            ("GPQA", (24.3, 14.1, 8.0), (27.9, 18.1, 10.9)),
            ("MBPP", (47.2, 36.2, 24.2), (47.4, 36.6, 27.8)),
        ),
        overhead="3.8-5.3%",
        window=192,
    ),
}
