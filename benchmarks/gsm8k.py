"""Reader of GSM8K: grade-school problems with annotated solutions (MIT licence, openai/grade-school-math)."""

import gzip
import json
import os
from pathlib import Path

from pcircuits_diffusion.corpus import Document, split_of

FOLDER_VARIABLE = "PCIRCUITS_GSM8K"
_DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k"
_VALID_SHARE = 0.05


def load(split: str, folder: str | Path | None = None) -> list[Document]:
    """Documents "problem\\nsolution"; a solution keeps its `<<48/2=24>>` annotations and ends in "#### answer".

    "valid" is the part of the published training file, about 5 %, that a hash of each problem's index holds out.
    `folder` holds `train.jsonl.gz` and `test.jsonl.gz`; default: the environment variable `PCIRCUITS_GSM8K`, else
    `../shared/data/gsm8k` seen from the repository.
    """
    if split not in ("train", "valid", "test"):
        raise ValueError(f"split must be 'train', 'valid' or 'test', got {split!r}")
    if split == "test":
        return _read("test", folder)
    shares = {"valid": _VALID_SHARE}
    return [document for document in _read("train", folder) if split_of(document.name, shares) == split]


def _read(name: str, folder: str | Path | None) -> list[Document]:
    folder = Path(folder or os.environ.get(FOLDER_VARIABLE) or _DEFAULT_FOLDER)
    path = folder / f"{name}.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"GSM8K is not at {path}; pass its folder or set {FOLDER_VARIABLE}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    return [Document(f"{name}/{i}", f"{item['question']}\n{item['answer']}") for i, item in enumerate(items)]
