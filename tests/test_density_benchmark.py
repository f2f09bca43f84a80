"""The density benchmark on tiny data: it resumes, collects what is there, chooses by validation rows and says what is
missing.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pcircuits as pc
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


def test_a_run_of_some_sets_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "density.json"
    first = {"sets": {"dna": {"ours": {"a": 1}}, "nltcs": {"ours": {}}}, "missing": ["dna, HCLT, seed 1", "nltcs, A"]}
    assert density.with_earlier(first, path)["missing"] == first["missing"]
    stored = {"commit": "abc", "date": "2020-01-01T00:00:00", "results": first}
    path.write_text(json.dumps(stored), encoding="utf-8")
    found = density.with_earlier({"sets": {"dna": {"ours": {"a": 2}}}, "missing": ["dna, HCLT, seed 2"]}, path)
    assert list(found["sets"]) == ["nltcs", "dna"] and found["missing"] == ["nltcs, A", "dna, HCLT, seed 2"]
    assert found["sets"]["dna"]["ours"] == {"a": 2} and found["sets"]["nltcs"]["commit"] == "abc"
    assert "nltcs: commit abc, 2020-01-01; dna: commit" in density_tables.origins(found["sets"])
    same = {name: {**of, "commit": "abc", "date": "2020"} for name, of in found["sets"].items()}
    assert density_tables.origins(same) == ""


def test_a_bag_is_the_mixture_of_its_circuits(folder: Path) -> None:
    data = debd.load("nltcs")
    bag = density_models.cutset(data, 0, max_depth=1, bags=3)
    each = torch.stack([circuit.log_prob(data.test) for circuit in bag.circuits])
    assert torch.allclose(bag.log_prob(data.test), each.exp().mean(0).log(), atol=1e-10)
    assert len(bag.circuits) == 3 and bag.num_parameters == sum(c.num_parameters for c in bag.circuits)


def test_a_mixture_of_trees_finds_clusters_and_their_dependences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bits copy a coin; the next two copy it or its opposite, as the last four say: no single tree has that."""
    patterns = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]])[:, [0, 0, 1, 1, 2, 2, 2, 2]]
    generator = torch.Generator().manual_seed(0)
    clean = patterns[torch.randint(4, (600,), generator=generator)]
    x = clean ^ (torch.rand(clean.shape, generator=generator) < 0.05).long()
    data = debd.Data(x[:300], x[300:], x[300:])
    clusters = density_models.tree_clusters(data.train, 2, seed=0)
    assert torch.allclose(clusters.sum(1), torch.ones(300, dtype=torch.float64))
    agree = float((clusters.argmax(1) == clean[:300, -1]).double().mean())
    assert max(agree, 1 - agree) > 0.95

    states = torch.cartesian_prod(*[torch.arange(2)] * 8)
    distances = (states.unsqueeze(1) != patterns).sum(2)
    truth = (0.05**distances * 0.95 ** (8 - distances)).double().mean(1).log()
    entropies = pc.structures.mutual_information(states, weights=truth.exp()).diagonal()
    tree = pc.structures.chow_liu_tree(states, weights=truth.exp())
    best_of_a_tree = sum(of["weight"] for *_, of in tree.edges(data=True)) - float(entropies.sum())

    monkeypatch.setattr(density_models, "_TREE_STEPS", 3)
    monkeypatch.setattr(density_models, "_STAGES", ((0.5, 30, 6), (0.1, 300, 2)))
    fitted = density_models.hclt_mixture(data, 0, components=2, num_units=2, pseudocount=1e-3)
    assert float(fitted.log_prob(states).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    expected = float((truth.exp() * truth).sum())
    assert (expected + best_of_a_tree) / 2 < float((truth.exp() * fitted.log_prob(states)).sum()) <= expected + 1e-6


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
