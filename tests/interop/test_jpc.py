"""`.jpc` files: those that PyJuice wrote, and random ones in its layout, against the sum over their units."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from tests.interop.jpc_writer import Builder, dist, log_prob, read, write

FOLDER = Path(__file__).with_name("jpc")
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
HMMS = {"hmm", "soft_evidence_hmm", "block_sparse_hmm", "zero_mask_hmm", "single_variable"}


def values(x: list[Any], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(x, dtype=dtype if isinstance(x[0][0], float) else torch.long)


def all_values(circuit: pc.Circuit) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(circuit.num_categories or 0), repeat=circuit.num_variables)))


@pytest.mark.parametrize("name", EXPECTED)
def test_what_pyjuice_wrote_has_its_likelihood(name: str) -> None:
    circuit = pc.interop.read_jpc(FOLDER / f"{name}.jpc", dtype=torch.float64)
    x, want = values(EXPECTED[name]["x"]), torch.tensor(EXPECTED[name]["log_prob"], dtype=torch.float64)
    assert torch.allclose(circuit.log_prob(x), want, rtol=0, atol=1e-12)
    assert type(circuit) is (pc.HMM if name in HMMS else pc.Circuit)
    assert circuit.condition(pc.Evidence.nothing(1, circuit.num_variables)).log_evidence.abs() < 1e-12
    single = pc.interop.read_jpc(FOLDER / f"{name}.jpc")
    assert single.dtype == torch.float32 and torch.allclose(single.log_prob(x.to(x.dtype)), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_evaluation_of_these_tests_agrees_with_pyjuices_nodes(name: str) -> None:
    nodes = read((FOLDER / f"{name}.jpc").read_bytes())
    found = [log_prob(nodes, x) for x in EXPECTED[name]["x"]]
    assert found == pytest.approx(EXPECTED[name]["log_prob"], abs=1e-12)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), num_variables=st.integers(1, 4), block_size=st.sampled_from([1, 2]))
def test_random_nodes_have_their_likelihood(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num_variables: int, block_size: int
) -> None:
    nodes = Builder(seed, num_variables, block_size).build()
    path = write(tmp_path_factory.getbasetemp() / "random.jpc", nodes, protocol=4 + seed % 2)
    circuit = pc.interop.read_jpc(path, dtype=torch.float64)
    x = all_values(circuit)
    want = torch.tensor([log_prob(nodes, row) for row in x.tolist()], dtype=torch.float64)
    assert torch.allclose(circuit.log_prob(x), want, rtol=0, atol=1e-10)
    assert circuit.log_prob(x).exp().sum().item() == pytest.approx(1.0, abs=1e-10)


def test_parameters_that_are_tied_stay_tied() -> None:
    hmm = pc.interop.read_jpc(FOLDER / "hmm.jpc")
    assert hmm.num_parameters == 4 + 4 * 4 + 4 * 6
    tied, untied = (pc.interop.read_jpc(FOLDER / f"{name}.jpc") for name in ("tied_hclt", "hclt"))
    assert len(set(tied.ties["input"].values())) == 1 and len(tied.ties["input"]) == 5
    assert not untied.ties["input"] and not untied.ties["sum"]
    assert pc.interop.read_jpc(FOLDER / "tied_pd.jpc").ties["sum"]


def test_zeros_stay_zeros_under_learning() -> None:
    hmm = pc.interop.read_jpc(FOLDER / "zero_mask_hmm.jpc")
    assert isinstance(hmm, pc.HMM)
    zeros = hmm.transition == 0
    assert zeros.sum() == 3
    hmm.maximise(hmm.statistics(hmm.sample(50)), pseudocount=1.0)
    assert hmm.transition[zeros].eq(0).all() and hmm.transition[~zeros].gt(0).all()


def test_a_converted_circuit_is_saved_and_takes_soft_evidence(tmp_path: Path) -> None:
    circuit = pc.interop.read_jpc(FOLDER / "pd.jpc", dtype=torch.float64)
    pc.save(circuit, tmp_path)
    x = all_values(circuit)
    assert pc.load(tmp_path).log_prob(x).equal(circuit.log_prob(x))
    weights = torch.randn(1, 4, 2, dtype=torch.float64)
    want = (circuit.log_prob(x) + weights[0].gather(1, x.T).sum(0)).logsumexp(0)
    assert circuit.condition(pc.Evidence(log_weights=weights)).log_evidence.item() == pytest.approx(want.item())


# --- refused ---


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("external_params", "node 3: it has external_params; sums with parameters per sample are not supported"),
        ("discrete_logistic", "node 0: it names .*DiscreteLogistic.* refused"),
        ("without_parameters", "node 0 has no parameters.*train"),
        ("contradicted_mask", "zero_param_mask"),
        ("missing", "cannot be read"),
    ],
)
def test_what_pyjuice_wrote_and_we_cannot_express_is_refused(name: str, message: str) -> None:
    with pytest.raises(pc.FormatError, match=rf"{name}\.jpc.*{message}"):
        pc.interop.read_jpc(FOLDER / f"{name}.jpc")


def test_another_dtype_is_refused() -> None:
    with pytest.raises(pc.ParameterError, match="float16"):
        pc.interop.read_jpc(FOLDER / "hmm.jpc", dtype=torch.float16)


ROWS = np.full((2, 3), 1 / 3, dtype=np.float32)


def two_leaves(**root: Any) -> list[dict[str, Any]]:
    """Inputs 0 and 1 of two units, their product, a sum of one."""
    nodes = [
        {"type": "Input", "num_node_blocks": 2, "block_size": 1, "chs": (), "scope": [v],
         "dist": dist("Categorical", num_cats=3), "params": ROWS.ravel()}
        for v in range(2)
    ]  # fmt: skip
    edges = np.array([[0, 0], [1, 1]])
    product = {"type": "Product", "num_node_blocks": 2, "block_size": 1, "chs": (0, 1), "edge_ids": edges}
    last = {"type": "Sum", "num_node_blocks": 1, "block_size": 1, "chs": (2,), "edge_ids": np.array([[0, 0], [0, 1]])}
    return [*nodes, product, last | {"params": np.full((2, 1, 1), 0.5, dtype=np.float32)} | root]


CHANGES: list[tuple[int, str, Any, str]] = [
    (0, "type", "Leaf", "node 0: its type is 'Leaf'"),
    (0, "type", 3, "'type' is a int"),
    (0, "scope", [0, 1], "not a single variable"),
    (0, "scope", [2], "variable 2"),
    (0, "scope", [1], "node 2|overlap|disjoint|variable 0|both"),
    (0, "params", ROWS.ravel()[:5], r"5 parameters do not fit 2 units of Categorical\(3\)"),
    (0, "params", ROWS.ravel() * 2, "not those of Categorical"),
    (0, "params", ROWS.ravel() * np.nan, "not those of Categorical"),
    (0, "params", [0.5, 0.5], "an array is not as numpy writes it"),
    (0, "params", np.array([1, 2], dtype=object), "an array is not as numpy writes it"),
    (0, "params", ROWS.ravel().astype(">f4"), "little-endian"),
    (0, "params", np.arange(6), "'params' has torch.int64"),
    (0, "dist", dist("Bernoulli"), "6 parameters do not fit 2 units of Bernoulli"),
    (0, "dist", dist("Gaussian"), "6 parameters do not fit 2 units of Gaussian"),
    (0, "dist", dist("Categorical", num_cats="3"), "no number of categories"),
    (0, "dist", "Categorical", "'dist' is a str"),
    (0, "num_node_blocks", 0, "positive"),
    (0, "num_node_blocks", True, "'num_node_blocks' is a bool"),
    (0, "block_size", 2**40, "below 2.31"),
    (0, "source_node", 9, "node 0 has no parameters"),
    (0, "source_node", 2, "node 0 has no parameters"),
    (0, "source_node", 3, "node 0 shares parameters with node 3"),
    (0, "external_params", b"cos\nsystem\n(S'true'\ntR.", "external_params"),
    (2, "chs", (0, 2), "not ids of nodes before it"),
    (2, "chs", (0, -1), "not ids of nodes before it"),
    (2, "chs", (), "not ids of nodes before it"),
    (2, "chs", [0, 1], "'chs' is a list"),
    (2, "edge_ids", np.array([[0, 0], [1, 2]]), "point beyond"),
    (2, "edge_ids", np.array([[0, 0], [-1, 1]]), "point beyond"),
    (2, "edge_ids", np.array([[0], [1]]), "one column a child"),
    (2, "edge_ids", np.array([[0, 0]]), "1 rows, expected 2"),
    (2, "block_size", 2, "another block_size"),
    (3, "chs", (0,), "child of the wrong kind"),
    (3, "edge_ids", np.array([[0, 0], [0, 2]]), "point beyond"),
    (3, "edge_ids", np.array([[0, 1], [0, 1]]), "point beyond"),
    (3, "edge_ids", np.array([0, 1]), "two rows"),
    (3, "params", np.ones((2, 1), dtype=np.float32), r"shape \(2, 1\), expected \(2, 1, 1\)"),
    (3, "params", -np.ones((2, 1, 1), dtype=np.float32), "not finite and at least 0"),
    (3, "params", np.full((2, 1, 1), np.inf, dtype=np.float32), "not finite and at least 0"),
    (3, "params", np.zeros((2, 1, 1), dtype=np.float32), "unit 0 of a sum has no weight"),
    (3, "params", None, "node 3 has no parameters"),
    (3, "zero_param_mask", np.ones((2, 1, 1), dtype=bool), "entries that are not zero"),
    (3, "zero_param_mask", np.zeros(2, dtype=bool), "zero_param_mask does not fit"),
    (3, "zero_param_mask", np.zeros((2, 1, 1)), "expected torch.bool"),
    (3, "num_node_blocks", 2, "some of its blocks have no edge"),
]


@pytest.mark.parametrize(("number", "key", "value", "message"), CHANGES)
def test_nodes_that_do_not_fit_are_refused(tmp_path: Path, number: int, key: str, value: Any, message: str) -> None:
    nodes = two_leaves()
    assert pc.interop.read_jpc(write(tmp_path / "right.jpc", nodes)).num_variables == 2
    nodes[number] = nodes[number] | {key: value}
    with pytest.raises(pc.FormatError, match=message):
        pc.interop.read_jpc(write(tmp_path / "wrong.jpc", nodes))


def test_inputs_of_one_variable_must_be_of_one_family(tmp_path: Path) -> None:
    nodes = two_leaves()
    product, root = nodes.pop(2), nodes.pop(2)
    other = nodes[0] | {"dist": dist("Bernoulli"), "params": np.full(2, 0.5, dtype=np.float32)}
    second = product | {"chs": (2, 1)}
    edges, params = np.array([[0] * 4, [0, 1, 2, 3]]), np.ones((4, 1, 1), dtype=np.float32)
    nodes += [other, product, second, root | {"chs": (3, 4), "edge_ids": edges, "params": params}]
    with pytest.raises(pc.FormatError, match="variable 0 has inputs"):
        pc.interop.read_jpc(write(tmp_path / "mixed.jpc", nodes))


@pytest.mark.parametrize("nodes", [[], {}, None, [1], 7, two_leaves()[:3], two_leaves()[:1]])
def test_what_is_no_circuit_is_refused(tmp_path: Path, nodes: Any) -> None:
    with pytest.raises(pc.FormatError, match=r"list of nodes|root is a"):
        pc.interop.read_jpc(write(tmp_path / "none.jpc", nodes))


def test_older_names_of_sizes_are_read(tmp_path: Path) -> None:
    want = pc.interop.read_jpc(write(tmp_path / "new.jpc", two_leaves())).log_prob(torch.tensor([[0, 1]]))
    names = {"num_node_blocks": "num_node_groups", "block_size": "group_size"}
    older = [{names.get(key, key): value for key, value in node.items()} for node in two_leaves()]
    oldest = [{"num_nodes": node["num_node_blocks"], **node} for node in two_leaves()]
    for node in oldest:
        del node["num_node_blocks"], node["block_size"]
    for nodes in (older, oldest):
        assert pc.interop.read_jpc(write(tmp_path / "old.jpc", nodes)).log_prob(torch.tensor([[0, 1]])).equal(want)


def test_a_file_that_would_expand_without_bound_is_refused(tmp_path: Path) -> None:
    """One entry a unit on disk, dense weights and a Kronecker product in memory."""
    nodes, size = two_leaves(), 4096
    diagonal = np.arange(size)
    rows = np.full((size, 3), 1 / 3, dtype=np.float32).ravel()
    nodes[0] |= {"num_node_blocks": size, "params": rows}
    nodes[1] |= {"num_node_blocks": size, "params": rows}
    nodes[2] |= {"num_node_blocks": size, "edge_ids": np.stack([diagonal] * 2, -1)}
    edges, ones = np.stack([diagonal, diagonal]), np.ones((size, 1, 1), dtype=np.float32)
    inner = nodes[3] | {"num_node_blocks": size, "edge_ids": edges, "params": ones}
    last = {"chs": (4,), "edge_ids": np.stack([diagonal * 0, diagonal]), "params": ones}
    again = nodes[2] | {"chs": (3,), "edge_ids": diagonal[:, None]}
    with pytest.raises(pc.FormatError, match="too sparse"):
        pc.interop.read_jpc(write(tmp_path / "sparse.jpc", [*nodes[:3], inner, again, nodes[3] | last]))
