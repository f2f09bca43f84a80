"""docs/features.md: every name in it exists and is tested where it says; what only takes a few lines, exactly."""

import importlib
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits import testing

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
NAME = re.compile(r"`((?:pc|pcircuits)\.[\w.]+)(?:\(([^)`]*)\))?`")


def rows() -> Iterator[tuple[str, str]]:
    """What each row of the tables with three columns names, and the files that hold it."""
    for line in PAGE.split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and cells[1] != "here":
            yield cells[1], cells[2]


ROWS = list(rows())


def resolve(name: str) -> object:
    """What a dotted name leads to, through modules and attributes."""
    first, *rest = name.split(".")
    found: object = pc
    path = "pcircuits"
    for part in rest:
        path += f".{part}"
        if not hasattr(found, part):
            importlib.import_module(path)
        found = getattr(found, part)
    assert first in ("pc", "pcircuits")
    return found


def names_of(cell: str) -> list[tuple[str, list[str]]]:
    """Dotted names and the keywords that stand in their parentheses."""
    return [(match[1], re.findall(r"(\w+)=", match[2] or "")) for match in NAME.finditer(cell)]


@pytest.mark.parametrize(("here", "files"), ROWS, ids=lambda cell: re.sub(r"\W+", "-", cell)[:40])
def test_every_row_names_what_exists_and_is_tested(here: str, files: str) -> None:
    assert re.fullmatch(r"`[\w/]+\.py`(, `[\w/]+\.py`)*", files), files
    texts = [(ROOT / "tests" / name).read_text(encoding="utf-8") for name in re.findall(r"`([^`]+)`", files)]
    found = names_of(here)
    assert found, f"no name in {here!r}"
    for name, keywords in found:
        thing = resolve(name)
        for keyword in keywords:
            assert keyword in inspect.signature(thing).parameters, f"{name} has no {keyword}"  # type: ignore[arg-type]
        for word in keywords or [name.split(".")[-1]]:
            assert any(re.search(rf"\b{word}\b", text) for text in texts), f"{files} do not mention {word}"


def test_the_laws_have_tests() -> None:
    found = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(found) >= 15
    for file, name in found:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_the_page_has_many_rows_and_says_what_is_missing() -> None:
    assert len(ROWS) > 60
    missing = PAGE[PAGE.index("## What is not here") :]
    for name in re.findall(r"`(\w+)`", missing):
        assert (
            any(hasattr(module, name) for module in (pc, pc.structures, pc.learning, pc.interop))
            or hasattr(pc.Posterior, name)
            or name == "value"
        ), name


def parameters(circuit: pc.Circuit, region: int, part: str = "") -> torch.Tensor:
    """The prepared values of one region: log tables (K, V) of an input, weights of a sum."""
    group, row = circuit.plan.rows[region, part]
    prepared = circuit.prepared()[group]
    return (prepared.log if circuit.graph.regions[region].is_input else prepared.linear)[row]


def test_a_masked_categorical_is_normalised_over_its_support_and_stays_there() -> None:
    circuit = pc.Circuit(pc.structures.factorized(2), pc.Categorical(4), num_units=2, seed=0, dtype=torch.float64)
    group, row = circuit.plan.rows[1, ""]
    support = torch.ones_like(circuit.group(group).logits, dtype=torch.bool)
    support[row, :, 2] = False
    before = parameters(circuit, 1).exp().detach()
    circuit.group(group).restrict(support)
    kept = before[:, [0, 1, 3]]
    with torch.no_grad():
        assert torch.allclose(parameters(circuit, 1).exp()[:, [0, 1, 3]], kept / kept.sum(1, keepdim=True), atol=1e-12)
    worlds = testing.worlds(circuit)
    allowed = worlds[:, 1] != 2
    for _ in range(2):
        log_prob = circuit.log_prob(worlds).detach()
        assert log_prob[~allowed].isneginf().all() and float(log_prob.logsumexp(0)) == pytest.approx(0, abs=1e-12)
        circuit.maximise(circuit.statistics(worlds[allowed][:5]), pseudocount=1.0)


def test_naive_bayes_is_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (60,), generator=generator)
    a, b = torch.randint(0, 2, (60,), generator=generator), y + torch.randn(60, generator=generator).double()
    x = torch.stack([y.double(), a.double(), b], 1)
    families = [pc.Indicator(3), pc.Categorical(2), pc.Gaussian()]
    model = pc.Circuit(
        pc.structures.factorized(3), families, num_units=3, layer="cp-t", seed=0, dtype=torch.float64
    ).requires_grad_(False)
    model.maximise(model.statistics(x))
    log = torch.zeros(3, dtype=torch.float64)
    point = torch.tensor([[0.0, 1.0, 0.7]], dtype=torch.float64)
    for k in range(3):
        mine = y == k
        normal = torch.distributions.Normal(b[mine].mean(), b[mine].std(correction=0))
        log[k] = mine.double().mean().log() + (a[mine] == 1).double().mean().log() + normal.log_prob(point[0, 2])
    posterior = model.condition(pc.Evidence(point, observed=torch.tensor([[False, True, True]])))
    assert float(posterior.log_evidence) == pytest.approx(float(log.logsumexp(0)), abs=1e-9)
    assert torch.allclose(posterior.marginals()[0][0], log.softmax(0), atol=1e-9)
    assert model.determinism() and posterior.mpe().values[0, 0] == log.argmax()


def test_signed_sums_over_indicators_are_tables_of_any_sign() -> None:
    circuit = pc.SignedCircuit(pc.structures.factorized(2), pc.Indicator(3), num_units=3, layer="cp", seed=0)
    with torch.no_grad():
        tables = [parameters(circuit, 2, f"_child{v}") for v in range(2)]  # (K, V): one value a unit and category
        above, worlds = parameters(circuit, 2)[0], testing.worlds(circuit)
        assert (tables[0] < 0).any() and (tables[0] > 0).any()
        exact = (above.unsqueeze(1) * tables[0][:, worlds[:, 0]] * tables[1][:, worlds[:, 1]]).sum(0)
        found, square = circuit.value(worlds), pc.square(circuit)
        assert torch.allclose(found.sign * found.log_abs.exp(), exact, atol=1e-12)
        assert torch.allclose(square.log_prob(worlds).exp(), exact.square() / exact.square().sum(), atol=1e-12)


def test_leaves_of_layer_cp_are_mixtures() -> None:
    circuit = pc.Circuit(pc.structures.factorized(2), pc.Gaussian(), num_units=3, layer="cp", seed=0)
    circuit = circuit.double().requires_grad_(False)
    x, leaves = torch.tensor([[0.3, -1.2]], dtype=torch.float64), []
    for v in range(2):
        group, row = circuit.plan.rows[v, ""]
        units = circuit.prepared()[group]
        density = torch.distributions.Normal(units.mean[row], units.std[row]).log_prob(x[0, v]).exp()
        leaves.append(parameters(circuit, 2, f"_child{v}") @ density)
    exact = (parameters(circuit, 2)[0] * leaves[0] * leaves[1]).sum()
    assert float(circuit.log_prob(x).exp()) == pytest.approx(float(exact), rel=1e-12)


def test_nan_is_a_missing_value() -> None:
    circuit = testing.example_circuit(inputs="mixed", dtype=torch.float64).requires_grad_(False)
    x = testing.example_evidence(circuit, "observed").values
    observed = torch.arange(x.numel()).view_as(x) % 3 > 0
    given = pc.Evidence.from_nan(x.masked_fill(~observed, torch.nan))
    exact = circuit.condition(pc.Evidence(x, observed=observed))
    assert torch.equal(circuit.condition(given).log_evidence, exact.log_evidence)


def test_softened_data_is_an_expectation_over_flips() -> None:
    """Each bit is what was seen with probability 0.9: E[p(x')] under independent flips."""
    circuit = testing.example_circuit("rat", inputs="bernoulli", num_variables=3, dtype=torch.float64)
    circuit.requires_grad_(False)
    worlds = testing.worlds(circuit)
    seen = torch.tensor([[1, 0, 1]])
    weights = torch.full((1, 3, 2), math.log(0.1), dtype=torch.float64).scatter(2, seen.unsqueeze(-1), math.log(0.9))
    posterior = circuit.condition(pc.Evidence(seen, observed=torch.zeros(1, 3).bool(), log_weights=weights))
    share = weights[0].gather(1, worlds.T).sum(0).exp()
    exact = (share * circuit.log_prob(worlds).exp()).sum()
    assert float(posterior.log_evidence.exp()) == pytest.approx(float(exact), rel=1e-12)
