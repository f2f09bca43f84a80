"""`pc.plot` draws what it is given, gives the axes back, and says what is missing where matplotlib is."""

import builtins
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits import plot
from pcircuits.testing import STRUCTURES, example_circuit, example_graph

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_draws_every_region_and_partition(name: str) -> None:
    graph = example_graph(name, 5)
    ax = plot.structure(graph)
    squares, sums, inputs = (len(points.get_offsets()) for points in ax.collections)
    assert (squares - 1, sums + inputs) == (graph.num_partitions, len(graph.regions))  # and one unseen, at NaN
    assert sorted(text.get_text() for text in ax.texts) == sorted(
        str(r.variables[0]) for r in graph.regions if r.is_input
    )
    ax.figure.canvas.draw()


def test_structure_of_a_circuit_on_given_axes() -> None:
    _, ax = plt.subplots()
    assert plot.structure(example_circuit(), ax=ax) is ax
    plot.structure(pc.structures.factorized(1)).figure.canvas.draw()
    assert not plot.structure(pc.structures.factorized(100)).texts  # no room for so many names


def test_regions_of_one_height_do_not_overlap() -> None:
    ax = plot.structure(pc.structures.rat(8, 3, num_repetitions=4, seed=0))
    points = [tuple(p) for c in ax.collections[1:] for p in c.get_offsets().tolist()]
    for height in {y for _, y in points}:
        level = sorted(x for x, y in points if y == height)
        assert all(b - a > 0.99 for a, b in itertools.pairwise(level))


@pytest.mark.parametrize("name", STRUCTURES)
def test_dot_has_the_nodes_and_edges_of_the_region_graph(name: str) -> None:
    graph = example_graph(name, 5)
    first, *lines, last = plot.dot(graph).split("\n")
    assert (first, last) == ("digraph {", "}")
    edges = [tuple(line[3:-2].split('" -> "')) for line in lines if "->" in line]
    nodes = {line[3 : line.index('"', 3)]: line for line in lines if "->" not in line}
    wanted = graph.to_networkx()

    def named(node: Any) -> str:
        return "{}.{}".format(*node) if isinstance(node, tuple) else str(node)

    assert set(nodes) == {named(node) for node in wanted} and len(nodes) + len(edges) == len(lines)
    assert sorted(edges) == sorted((named(a), named(b)) for a, b in wanted.edges)
    for number, region in enumerate(graph.regions):
        label = f"x{region.variables[0]}" if region.is_input else "+"
        assert f'label="{label}"' in nodes[str(number)]


def test_dot_of_a_circuit_names_its_families() -> None:
    shown = plot.dot(pc.Circuit(pc.structures.factorized(2), [pc.Gaussian(), pc.Categorical(3)], num_units=2))
    assert r'label="x0\nGaussian(' in shown and r'label="x1\nCategorical(num_categories=3)"' in shown
    pairs = pc.structures.grouped(pc.structures.factorized(1), [[0, 1]])
    assert 'label="x0, x1"' in plot.dot(pairs)
    with pytest.raises((pc.StructureError, TypeError), match="RegionGraph"):
        plot.dot("a circuit")


def test_samples_as_rows_and_as_images() -> None:
    circuit = example_circuit(num_variables=6)
    assert plot.samples(circuit, 5, generator=torch.Generator().manual_seed(0)).images[0].get_array().shape == (5, 6)
    images = plot.samples(values := circuit.sample(7), shape=(2, 3)).images[0].get_array()
    assert images.shape == (3 * 2 + 2, 3 * 3 + 2)
    assert torch.equal(
        torch.tensor(images[:2, 4:7].tolist()), values[1].view(2, 3).float()
    )  # the second of the first row
    with pytest.raises(pc.ShapeError, match="6 variables"):
        plot.samples(values, shape=(2, 2))
    with pytest.raises(pc.ShapeError, match=r"\(N, D\)"):
        plot.samples(values[0])


def test_marginals_of_posteriors_circuits_and_tensors() -> None:
    circuit = example_circuit()
    x = circuit.sample(3)
    posterior = circuit.condition(pc.Evidence(x, observed=torch.arange(4).expand(3, 4) < 2))
    image = plot.marginals(posterior, row=1).images[0].get_array()
    assert image.shape == (3, 4)
    assert image[int(x[1, 0]), 0] == 1
    with torch.no_grad():
        same = plot.marginals(posterior.marginals(), row=1).images[0].get_array()
        assert (same == image).all()
        plot.marginals(circuit.marginals())
    plot.marginals(circuit).figure.canvas.draw()
    for wrong, words in (((posterior, 3), "3 rows"), ((posterior, -4), "3 rows"), ((x, 0), "probabilities")):
        with pytest.raises(pc.ShapeError, match=words):
            plot.marginals(wrong[0], row=wrong[1])


def test_continuous_marginals_are_error_bars() -> None:
    mixed = plot.marginals(example_circuit(inputs="mixed"))
    assert mixed.images[0].get_array().shape == (3, 4)
    assert [len(ax.containers) for ax in mixed.figure.axes] == [0, 0, 1]  # heat map, its colours, means
    continuous = plot.marginals(example_circuit(inputs="gaussian"))
    assert len(continuous.containers) == 1 and not continuous.images


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r"pcircuits\[plot\]"):
        plot.structure(example_graph("chain", 3))


def test_conditional_curves_are_conditional_distributions() -> None:
    circuit = example_circuit("binary_tree", "cp", "mixed", num_variables=4, dtype=torch.float64)  # 1 is Gaussian
    ax = plot.conditionals(circuit, 1, 0)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]
    for value, line in enumerate(ax.lines):
        x, density = (torch.tensor(part) for part in line.get_data())
        assert float(torch.trapezoid(density, x)) == pytest.approx(1.0, abs=2e-2)
        row = torch.tensor([[float(value), 0.0, 0.0, 0.0]], dtype=torch.float64)
        known = torch.tensor([[True, False, False, False]])
        point = row.clone()
        point[0, 1] = x[70]
        both = circuit.condition(pc.Evidence(point, observed=torch.tensor([[True, True, False, False]])))
        wanted = both.log_evidence - circuit.condition(pc.Evidence(row, observed=known)).log_evidence
        assert density[70].item() == pytest.approx(wanted.exp().item(), rel=1e-9)
    bars = plot.conditionals(circuit, 0, 1, values=[-1.0, 2.0])
    assert len(bars.lines) == 2 and all(sum(line.get_ydata()) == pytest.approx(1.0) for line in bars.lines)
    seen = torch.tensor([[False, False, True, True]])
    evidence = pc.Evidence(torch.ones(1, 4, dtype=torch.float64), observed=seen)
    _, mine = plt.subplots()
    assert plot.conditionals(circuit, 0, 1, evidence=evidence, ax=mine) is mine and len(mine.lines) == 5
    mine.figure.canvas.draw()
    for variables in ((0, 0), (0, 9)):
        with pytest.raises(pc.ShapeError, match="two variables"):
            plot.conditionals(circuit, *variables)
    with pytest.raises(pc.ShapeError, match="single row"):
        plot.conditionals(circuit, 0, 1, evidence=pc.Evidence.nothing(2, 4))
    with pytest.raises(pc.EvidenceError, match="variable 0"):
        plot.conditionals(circuit, 1, 0, values=[7])
