"""Reader of the binary density estimation data (Lowd, Davis 2010; Van Haaren, Davis 2012), and what papers report on
it.
"""

import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pcircuits.types import Int, Tensor

NAMES = ("nltcs", "plants", "baudio", "jester", "dna", "accidents")
FOLDER_VARIABLE = "PCIRCUITS_DEBD"
_DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "debd"

PUBLISHED = {
    "HCLT": dict(zip(NAMES, (-5.99, -14.26, -39.77, -52.46, -79.05, -26.74), strict=True)),
    "EiNet": dict(zip(NAMES, (-6.02, -13.68, -39.88, -52.56, -96.09, -35.59), strict=True)),
    "RAT-SPN": dict(zip(NAMES, (-6.01, -13.44, -39.96, -52.97, -97.23, -35.49), strict=True)),
    "ID-SPN": dict(zip(NAMES, (-6.02, -12.54, -39.79, -52.86, -81.21, -26.98), strict=True)),
}
"""Average test log-likelihoods in nats, quoted from tables (Dang et al. 2020; Liu, Van den Broeck 2021; Peharz et al.
2020; Rooshenas, Lowd 2014); none was run here.
"""
ALONE = {"plants": "ID-SPN"}
"""Where one is far ahead of the other three, which are the mark then."""


class Data(NamedTuple):
    """The published split: rows of zeros and ones, (B, D)."""

    train: Int[Tensor, "B D"]
    valid: Int[Tensor, "B D"]
    test: Int[Tensor, "B D"]


def load(name: str, folder: str | Path | None = None, *, rows: int | None = None) -> Data:
    """A data set; the first `rows` of each part where given. `folder` holds `NAME.train.data.gz`, `.valid` and `.test`;
    default: the environment variable `PCIRCUITS_DEBD`, else `../shared/data/debd` seen from the repository.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}; got {name!r}")
    folder = Path(folder or os.environ.get(FOLDER_VARIABLE) or _DEFAULT_FOLDER)
    return Data(*(_read(folder / f"{name}.{part}.data.gz")[:rows] for part in Data._fields))


def mark(name: str) -> float:
    """The published log-likelihood to reach: the best of the four, but for one that is alone."""
    return max(of[name] for who, of in PUBLISHED.items() if who != ALONE.get(name))


def _read(path: Path) -> Int[Tensor, "B D"]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; pass its folder or set {FOLDER_VARIABLE}")
    lines = gzip.decompress(path.read_bytes()).split()
    digits = np.frombuffer(b"".join(lines).replace(b",", b""), dtype=np.uint8) - ord("0")
    return torch.from_numpy(digits.reshape(len(lines), -1).astype(np.int64))
