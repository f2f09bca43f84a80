"""The density benchmark on tiny data: it resumes, collects what is there, chooses by validation rows and says what is
missing.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import debd, density, density_models, density_tables
from benchmarks.density_cells import Outcome, Work, cell

ROWS = {"train": 40, "valid": 12, "test": 10}
CANDIDATES = {
    "nltcs": {
        "HCLT": [{"num_units": units, "pseudocount": 1e-2, "epochs": 2} for units in (1, 2)],
        "cutset networks, bagged": [{"max_depth": 1, "bags": 2}],
        "LearnSPN": [{"min_rows": 20}],
    }
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    for part, count in ROWS.items():
        coins = random.random((count, 1)) < 0.5
        rows = (coins ^ (random.random((count, 5)) < 0.1)).astype(int)
        text = "\n".join(",".join(map(str, row)) for row in rows) + "\n"
        (tmp_path / f"nltcs.{part}.data.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv(debd.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_the_reader(folder: Path) -> None:
    data = debd.load("nltcs")
    assert {part: tuple(getattr(data, part).shape) for part in ROWS} == {n: (rows, 5) for n, rows in ROWS.items()}
    assert set(data.train.unique().tolist()) == {0, 1}
    assert len(debd.load("nltcs", rows=3).test) == 3
    with pytest.raises(ValueError, match="name must be one of"):
        debd.load("mnist")
    with pytest.raises(FileNotFoundError, match=debd.FOLDER_VARIABLE):
        debd.load("dna")
    assert debd.mark("plants") == -13.44 and debd.mark("nltcs") == -5.99


def test_it_resumes_and_names_what_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, seeds = Work(tmp_path / "cells"), range(2)
    assert len(density.results(work, CANDIDATES, seeds, {})["missing"]) == 4 + 2  # no family has a best setting yet
    density.train(work, CANDIDATES, seeds, {})
    found = density.results(work, CANDIDATES, seeds, {})
    assert all("cirkit" in cell or "SPFlow" in cell for cell in found["missing"])
    ours = found["sets"]["nltcs"]["ours"]
    assert ours["HCLT"]["tried"] == 2 and ours["HCLT"]["seeds"] == [0, 1]
    assert found["sets"]["nltcs"]["chosen"] == max(ours, key=lambda family: ours[family]["mean_valid"])
    assert ours[density.MIXTURE]["mean_valid"] >= max(
        of["mean_valid"] for family, of in ours.items() if family != density.MIXTURE
    )
    monkeypatch.setattr("benchmarks.density_cells._train", lambda *_: pytest.fail("trained twice"))
    again = Work(tmp_path / "cells")
    density.train(again, CANDIDATES, seeds, {})
    assert density.results(again, CANDIDATES, seeds, {}) == found
    json.dumps(found)
    assert "mixture of all" in density_tables.plain(found["sets"])
    density_tables.plot(found["sets"]).savefig(tmp_path / "density.png")


def test_a_bag_is_the_mixture_of_its_circuits(folder: Path) -> None:
    data = debd.load("nltcs")
    bag = density_models.cutset(data, 0, max_depth=1, bags=3)
    each = torch.stack([circuit.log_prob(data.test) for circuit in bag.circuits])
    assert torch.allclose(bag.log_prob(data.test), each.exp().mean(0).log(), atol=1e-10)
    assert len(bag.circuits) == 3 and bag.num_parameters == sum(c.num_parameters for c in bag.circuits)


def test_shares_of_a_mixture_are_the_likeliest() -> None:
    each = torch.tensor([[0.9, 0.9, 0.1, 0.9], [0.1, 0.1, 0.9, 0.1]], dtype=torch.float64).log()
    shares = density_models.best_shares(each)
    best = float(density_models.mix(each, shares).mean())
    for first in torch.linspace(0.05, 0.95, 19, dtype=torch.float64):
        assert float(density_models.mix(each, torch.stack([first, 1 - first])).mean()) <= best + 1e-9


def test_cells_keep_apart(tmp_path: Path) -> None:
    work = Work(tmp_path)
    cells = [cell("nltcs", "HCLT", {"num_units": n}, seed) for n in (1, 2) for seed in (0, 1)]
    assert len({c.file_name for c in cells}) == 4 and cells[0].options == {"num_units": 1}
    work.known[cells[0]] = Outcome(torch.zeros(1), torch.zeros(1), 1, 1, 0.0)
    assert work.find(cells[0]) is not None and work.find(cells[1]) is None


def test_half_a_percent() -> None:
    assert density_tables.reaches(-10.04, -10.0) and not density_tables.reaches(-10.06, -10.0)
