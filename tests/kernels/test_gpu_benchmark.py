"""The benchmark of the kernels is a whole program before there is a device to run it on."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import compiled, gpu, gpu_sides, record
from benchmarks.bounds import OURS
from benchmarks.gpu_kernels import kernels
from tests.kernels.test_ahead_of_time import kernels as kernel_names


def test_a_work_is_checked_timed_and_told() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = next(kernels(gpu_sides.DRY, gpu_sides.Draw(device, 0)))
    assert 0 < gpu.difference(work, "forward", work.actions["forward"]) < gpu.SAME
    timed = gpu.race(work.actions["forward"], device, 1)
    assert {len(seconds) for seconds in timed.values()} == {1} and min(timed[OURS]) > 0
    assert set(gpu.ratios(timed)) == set(work.actions["forward"]) - {OURS}


def test_other_numbers_stop_the_benchmark() -> None:
    work = gpu_sides.Work("w", {"forward": {OURS: lambda: torch.ones(2), gpu_sides.DEFINITION: lambda: torch.zeros(2)}})
    with pytest.raises(SystemExit, match="w, forward: ours and the definition differ"):
        gpu.difference(work, "forward", work.actions["forward"])


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main([])


@pytest.mark.campaign
def test_all_of_it_on_tiny_sizes(tmp_path: Path) -> None:
    gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_dry.json", "gpu_dry.png"}


def test_the_page_of_kernels_says_what_was_compiled() -> None:
    stored = json.loads((record.RESULTS / "compiled.json").read_text(encoding="utf-8"))
    page = compiled.PAGE.read_text(encoding="utf-8")
    assert compiled.rewrite(page, stored) == page
    assert set(stored["results"]["kernels"]) == kernel_names()
