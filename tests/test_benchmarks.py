"""The machinery of the benchmarks: statistics, workers, adapters, report. No timing is asserted."""

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pcircuits as pc
from benchmarks import comparison, figures, report, run, workloads
from benchmarks.bounds import BARE, OURS, bound
from benchmarks.growth import Point, to_record
from benchmarks.layers import workload as layer_workload
from benchmarks.peers import bare, log_layer, ours_built, ours_circuit, ours_hmm, ours_layer
from benchmarks.peers import hmmlearn as hmmlearn_side
from benchmarks.side import Side, SideError, agree, race
from benchmarks.spread import Spread, exponent, plain, ratio
from benchmarks.worker import Worker, serve

TINY_HMM = workloads.hmm_workload("tiny", num_states=3, num_categories=4, length=5, batch=6, seed=0)


def tiny_circuit(layer: str = "cp", seed: int = 1):
    graph = pc.structures.quad_graph(2, 3)
    return workloads.circuit_workload("tiny", graph, num_categories=3, num_units=4, layer=layer, batch=7, seed=seed)


def test_spread_and_ratio() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0, 4)
    assert Spread.of([0.123456, 0.2]).to_json() == {"median": 0.1617, "least": 0.1235, "most": 0.2, "count": 2}
    assert [plain(x) for x in (0.01234, 3.0, 99.96, 1234.5)] == ["0.0123", "3", "100", "1,234"]
    assert ratio([4.0, 6.0, 8.0], [2.0, 2.0]) == (3.0, 2.0, 3.0, 2)
    assert ratio([4.0, 6.0], [4.0, 2.0]) == (5.0 / 3.0, 1.0, 3.0, 2)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_exponent_is_the_slope_of_the_large_end(power: float) -> None:
    sizes = [2.0**n for n in range(8)]
    costs = [7.0 + 3 * size**power if size < 10 else 3 * size**power for size in sizes]  # small sizes cost more
    assert exponent(sizes, costs) == pytest.approx(power)
    assert exponent(sizes[::-1], costs[::-1]) == pytest.approx(power)


def test_bounds_point_the_right_way() -> None:
    at_most = bound("w1, K=32", "forward", BARE)
    at_least = bound("w1, K=32", "forward", "cirkit")
    assert at_most is not None and at_most.holds(2.5) and not at_most.holds(2.51) and str(at_most) == "at most 2.5"
    assert at_least is not None and at_least.holds(4.0) and not at_least.holds(3.99) and str(at_least) == "at least 4"
    assert bound("anything", "forward", "a peer") == (1.0, False) and bound("anything", "forward", BARE) is None


def test_sides_must_agree() -> None:
    numbers = {"a": np.array([1.0, -100.0]), "b": np.array([1.0, -100.01])}
    assert agree(numbers, relative=1e-3) == pytest.approx(1e-4)
    with pytest.raises(SideError, match=r"b and a compute different numbers: they differ by 0.0001"):
        agree(numbers, relative=1e-5)
    with pytest.raises(SideError, match="different numbers"):
        agree({**numbers, "b": np.array([np.nan, -100.0])}, relative=1e-3)
    with pytest.raises(SideError, match=r"shape \(1,\)"):
        agree({**numbers, "b": np.array([1.0])}, relative=1e-3)


@pytest.mark.parametrize("layer", ["cp", "cp-t", "tucker"])
def test_a_workload_says_all_about_its_circuit(layer: str) -> None:
    work = tiny_circuit(layer)
    stored = [array for name, array in work.arrays.items() if name.startswith(("sum:", "input:"))]
    assert sum(array.size for array in stored) == work.options["num_parameters"]
    for _, part, group, row in work.options["rows"]:
        kind = "input" if group.startswith("input") else "sum"
        assert row < len(work.arrays[f"{kind}:{group}"]), (part, group)
    mixing = sum(a.size for name, a in work.arrays.items() if name.startswith("sum:") and a.shape[-1] == 2)
    products = sum(int(np.prod(shape)) for shape in work.options["products"])
    inputs = sum(a.size for name, a in work.arrays.items() if name.startswith("input:"))
    assert products + mixing + inputs == work.options["num_parameters"]
    actions = ours_circuit.prepare(work.arrays, work.options)
    circuit = pc.Circuit(pc.structures.quad_graph(2, 3), pc.Categorical(3), num_units=4, layer=layer, seed=1)
    assert actions["forward"]().tolist() == pytest.approx(circuit.log_prob(_x(work)).tolist())
    assert set(bare.prepare(work.arrays, work.options)) == {"forward", "train"}


def _x(work):
    import torch

    return torch.from_numpy(work.arrays["x"])


def test_every_action_of_a_circuit_runs() -> None:
    work = tiny_circuit()
    actions = ours_circuit.prepare(work.arrays, work.options)
    for name, action in actions.items():
        assert np.isfinite(np.asarray(action())).all(), name
    assert actions["train"]() == pytest.approx(actions["forward"]().sum().item(), rel=1e-4)
    means, exact = np.asarray(actions["sample_means"]()), np.asarray(actions["exact_means"]())
    assert np.abs(means - exact).max() < 0.05


def test_our_hmm_and_hmmlearn_s_are_one_model() -> None:
    ours = ours_hmm.prepare(TINY_HMM.arrays, TINY_HMM.options)
    theirs = hmmlearn_side.prepare(TINY_HMM.arrays, TINY_HMM.options)
    for action, relative in (("forward_total", 1e-6), ("em_transition", 1e-4)):
        agree({"ours": np.asarray(ours[action]()), "theirs": np.asarray(theirs[action]())}, relative=relative)
    before = ours["forward"]().clone()
    ours["em"]()
    assert theirs["em"]()[0] == pytest.approx(before.sum().item(), rel=1e-5)
    assert ours["forward"]().tolist() == pytest.approx(before.tolist(), rel=1e-4)  # repetitions keep the parameters
    assert ours["transition_counts"]().sum().item() == pytest.approx(6 * 4, rel=1e-5)
    ours["gradient"]()
    for action in bare.prepare(TINY_HMM.arrays, TINY_HMM.options).values():
        action()


def test_a_layer_equals_log_einsum_exp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.layers.REGIONS", 5)
    monkeypatch.setattr("benchmarks.layers.BATCH", 6)
    work = layer_workload(4, 0)
    ours, theirs = (side.prepare(work.arrays, work.options) for side in (ours_layer, log_layer))
    for action in ("values", "counts"):
        agree({"ours": np.asarray(ours[action]()), "theirs": np.asarray(theirs[action]())}, relative=1e-5)


def test_a_worker_answers_and_survives_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", x=np.zeros((3, 1)))
    asked: list[dict[str, Any]] = [
        {"do": "prepare", "arrays": str(tmp_path / "arrays.npz"), "options": {"products": [[2, 3, 4]]}},
        {"do": "time", "action": "train", "calls": 2},
        {"do": "time", "action": "fly", "calls": 1},
        {"do": "peak", "action": "forward", "calls": 1},
    ]
    answers = io.StringIO()
    serve(Worker("benchmarks.peers.bare"), io.StringIO("".join(json.dumps(a) + "\n" for a in asked)), answers)
    prepared, timed, failed, peak = map(json.loads, answers.getvalue().splitlines())
    assert prepared["actions"] == ["forward", "train"] and timed["seconds"] > 0
    assert failed == {"error": "KeyError: 'fly'"} and peak["above_prepared"] >= 0


def test_processes_take_turns_and_missing_peers_are_named(tmp_path: Path) -> None:
    options = argparse.Namespace(threads=1, rounds=2, seconds=0.05, peers=tmp_path / "none", reduced=True)
    contestants = (
        comparison.Contestant(OURS, "ours_circuit", ("forward",), is_peer=False),
        comparison.Contestant(BARE, "bare", ("forward",), is_peer=False),
        comparison.Contestant("cirkit", "cirkit", ("forward",)),
    )
    checks = [comparison.Check("forward", (OURS, "cirkit"))]
    found = comparison.compare(
        tiny_circuit(), contestants, checks, ["forward"], options, checked_on=tiny_circuit(seed=2)
    )
    assert found["absent"] == {"cirkit": "not installed"} and found["largest_relative_difference"] == {}
    assert list(found["milliseconds"]["forward"]) == [OURS, BARE] and list(found["ratios"]["forward"]) == [BARE]
    assert {row[2] for row in comparison.table({"tiny": found})} == {"side", OURS, BARE}
    figures.bars({"tiny": found}, title="tiny").savefig(tmp_path / "tiny.png")


def test_a_side_that_fails_says_why() -> None:
    with pytest.raises(SideError, match=r"No module named .benchmarks\.peers\.nobody"):
        Side("nobody", "benchmarks.peers.nobody")


class Counting:
    """A side whose calls take as long as it says."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.taken, self.calls = name, seconds, []

    def seconds(self, action: str, calls: int = 1) -> float:
        self.calls.append(calls)
        return self.taken


def test_a_race_is_fair_and_ends() -> None:
    fast, slow, slowest = Counting("fast", 0.001), Counting("slow", 0.3), Counting("slowest", 9.0)
    found = race([fast, slow, slowest], "forward", rounds=5, seconds=1.0)  # type: ignore[list-item]
    assert [len(found[name]) for name in ("fast", "slow", "slowest")] == [5, 4, 1]
    assert fast.calls[2:] == [20] * 5 and slowest.calls == [1, 1]


def stored(name: str, results: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "a processor", "cores": 2, "memory_gib": 8.0}
    fixed = {"seed": 0, "date": "2026-01-02T03:04:05+00:00", "commit": "0123456789abcdef", "versions": {"torch": "2"}}
    return {**fixed, "machine": machine, "benchmark": name, "results": {"threads": 1, "peers": {}, **results}}


def comparison_results(ours: float) -> dict[str, Any]:
    seconds = {OURS: [ours] * 3, BARE: [1.0] * 3, "cirkit": [10.0] * 3}
    spreads = {side: Spread.of(s).to_json() for side, s in seconds.items()}
    found = {"milliseconds": {"forward": spreads}, "ratios": {"forward": comparison.ratios(seconds)}, "absent": {}}
    return {"workloads": {"w1, K=32": {**found, "largest_relative_difference": {"forward": 1e-7}}}}


def test_the_report_rewrites_what_is_marked() -> None:
    page = "a\n<!-- begin circuits -->\nold\n<!-- end circuits -->\nb\n<!-- begin losses -->\n<!-- end losses -->\nc\n"
    assert "Not measured yet: `python -m benchmarks.circuits`." in report.rewrite(page, {})
    good = report.rewrite(page, {"circuits": stored("circuits", comparison_results(2.0))})
    assert "| w1, K=32 | forward | cirkit | 10 | 10-10 | 5.00 x faster | at least 4 |" in good
    assert "old" not in good and "2026-01-02, commit 0123456789, 1 thread of 2 cores, a processor" in good
    assert good.startswith("a\n") and good.endswith("c\n") and "Nowhere" in good
    bad = report.rewrite(good, {"circuits": stored("circuits", comparison_results(5.0))})
    assert "- w1, K=32, forward: 5.00 times the bare products; asked: at most 2.5." in bad
    assert "- w1, K=32, forward: 2.00 times as fast as cirkit; asked: at least 4." in bad
    assert report.rewrite(bad, {"circuits": stored("circuits", comparison_results(5.0))}) == bad


def test_the_report_of_growth_and_memory(tmp_path: Path) -> None:
    points = [
        Point(n, n, n, {a: Spread.of([n**1.5]) for a in ("forward", "train", "build")}, n**1.0) for n in (2, 4, 8)
    ]
    axis = to_record(points, stated=1)
    large = {"num_parameters": 5, "build_seconds": 1.0, "peak_mib": 9000.0, "em_step_seconds": 1.0}
    results = {
        "scaling": stored("scaling", {"axes": {"batch": axis}}),
        "compile_time": stored("compile_time", {"axes": {"rat": axis}, "large": points[0].to_json()}),
        "memory": stored("memory", {"peak_mib": {"w2": {OURS: 6.0, "cirkit": 10.0}}, "large": large}),
    }
    page = "".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in (*results, "losses"))
    told = report.rewrite(page, results)
    for line in (
        "| batch | 2-8 | 1.50 (missed) | 1.50 (missed) | 1.00 | at most 1 + 0.15 |",
        "| w2 | cirkit | 10 | 0.60 | at most 0.5 (missed) |",
        "- forward against batch: exponent 1.50; asked: at most 1 + 0.15.",
        "- memory: 5 parameters: an EM step peaks at 9000 MiB and takes 1.0 s; asked: at most 8192 MiB (missed).",
    ):
        assert line in told
    figures.growth({"batch": axis}, title="tiny").savefig(tmp_path / "growth.png")
    figures.memory({"w2": {OURS: 6.0, "cirkit": 10.0}}).savefig(tmp_path / "memory.png")


def test_the_page_tells_the_committed_results() -> None:
    assert report.main(["--check"]) == 0, "run python -m benchmarks.report"


def test_circuits_of_any_size_are_built() -> None:
    options = {"structure": "chain", "arguments": {"num_variables": 3}, "num_categories": 2, "num_units": 2}
    actions = ours_built.prepare({}, {**options, "layer": "cp-t", "batch": 4, "seed": 0})
    assert actions["sizes"]() == [2 + 2 * 4 + 3 * 4, 6] and actions["forward"]().shape == (4,)
    actions["em"]()
    assert actions["build"]().num_variables == 3


def test_run_knows_every_benchmark() -> None:
    folder = Path(run.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in run.BENCHMARKS)
    assert run.split(["hmm", "--reduced"]) == (["hmm"], ["--reduced"])
    assert run.split(["--seed", "1"]) == (list(run.BENCHMARKS), ["--seed", "1"])
    with pytest.raises(SystemExit, match="no benchmark fly"):
        run.split(["fly"])
