"""Files of derived and signed circuits: how they come of others, whose parameters are written once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import structures, testing
from pcircuits.operations.signed import SignedFunction
from tests.test_io_fuzz import JSON, load_changed, signed, with_a_field_replaced

DESCRIPTION = "circuit.json"


def hmm(seed: int) -> pc.HMM:
    return pc.HMM(3, 4, 4, seed=seed)


def signed_circuit(inputs: pc.InputFamily | None = None, **options: Any) -> pc.SignedCircuit:
    return pc.SignedCircuit(structures.binary_tree(3), inputs or pc.Categorical(3), num_units=2, seed=0, **options)


def gaussian() -> pc.Circuit:
    return pc.Circuit(structures.binary_tree(3), pc.Gaussian(), num_units=2, seed=0, dtype=torch.float64)


def shared_product() -> pc.Circuit:
    base = hmm(0)
    return pc.multiply(base, hmm(1), base)


CIRCUITS = {
    "product": lambda: pc.multiply(hmm(0), hmm(1)),
    "square": lambda: pc.square(hmm(2)),
    "shared": shared_product,
    "signed": signed_circuit,
    "signed square": lambda: pc.square(signed_circuit(pc.Gaussian())),
    "complex": lambda: signed_circuit(dtype=torch.complex128),
    "complex square": lambda: pc.square(signed_circuit(pc.Gaussian(), dtype=torch.complex64)),
    "square of polynomials": lambda: pc.square(signed_circuit(pc.Monomial(-1.0, 2.0))),
    "conjugate": lambda: pc.conjugate(signed_circuit(dtype=torch.complex128)),
    "mixture of complex squares": lambda: pc.mixture(
        [pc.square(signed_circuit(dtype=torch.complex128)), pc.square(signed_circuit())]
    ),
    "signed product": lambda: pc.multiply(signed_circuit(), pc.square(signed_circuit(layer="cp"))),
    "marginal": lambda: pc.marginalize(hmm(3), [2, 0]),
    "conditional": lambda: pc.condition(
        testing.example_circuit("rat", "cp", "mixed", num_variables=5), {1: 0.123, 0: 2}
    ),
    "marginal of a product": lambda: pc.marginalize(pc.multiply(hmm(0), hmm(1)), [1, 3]),
    "conditional of a conditional": lambda: pc.condition(pc.condition(hmm(1), {1: 2}), {0: 3}),
    "derivative": lambda: pc.differentiate(gaussian(), 1),
    "second derivative": lambda: pc.differentiate(pc.differentiate(signed_circuit(pc.Monomial()), 0), 1),
    "third derivative": lambda: pc.differentiate(pc.square(signed_circuit(pc.Gaussian())), 2, order=3),
    "mixture of squares": lambda: pc.mixture(
        [pc.square(signed_circuit()), pc.square(signed_circuit(layer="cp-t"))], [1.0, 2.0]
    ),
    "mixture": lambda: pc.mixture([hmm(0), pc.mixture([hmm(1), hmm(2)]), hmm(3)], [1.0, 3.0, 0.0]),
}


def answers(circuit: pc.Circuit) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    base = circuit
    while isinstance(base, pc.DerivedCircuit) and base.num_variables == base.sources[0].num_variables:
        base = base.sources[0]  # type: ignore[assignment]
    columns = [testing.examples.example_column(f, 6, 1.0, generator) for f in base.inputs]
    discrete = all(family.is_discrete for family in base.inputs)
    x = torch.stack([c.to(torch.long if discrete else circuit.dtype.to_real()) for c in columns], 1)
    with torch.no_grad():
        return torch.cat(circuit.value(x)) if isinstance(circuit, SignedFunction) else circuit.log_prob(x)


@pytest.mark.parametrize("name", CIRCUITS)
def test_comes_back_with_equal_answers(name: str, tmp_path: Path) -> None:
    circuit = CIRCUITS[name]()
    pc.save(circuit, tmp_path)
    loaded = pc.load(tmp_path)
    assert type(loaded) is type(circuit) and loaded.dtype == circuit.dtype and loaded.graph == circuit.graph
    assert torch.equal(answers(loaded), answers(circuit)) and answers(loaded).isfinite().any()
    with torch.no_grad():
        assert torch.equal(loaded.log_partition(), circuit.log_partition())
    pc.save(loaded, tmp_path / "again")
    one, two = (json.loads((folder / DESCRIPTION).read_text()) for folder in (tmp_path, tmp_path / "again"))
    assert one == two


def test_shared_parameters_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    pc.save(shared_product(), tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    names = safetensors.torch.load_file(file)
    assert {name.split(".")[1] for name in names} == {"0", "1"} and len(names) == 6
    loaded = pc.load(tmp_path)
    assert isinstance(loaded, pc.ProductCircuit) and loaded.num_parameters == 2 * hmm(0).num_parameters
    pc.fit(loaded, torch.randint(0, 4, (30, 4)), learner="adam", epochs=2, progress=False)
    assert loaded.log_prob(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()


def test_half_precision(tmp_path: Path) -> None:
    circuit = pc.square(hmm(0))
    pc.save(circuit, tmp_path, dtype=torch.float16)
    loaded = pc.load(tmp_path)
    assert loaded.dtype == torch.float32 and torch.allclose(answers(loaded), answers(circuit), rtol=1e-2)


def test_complex_weights_in_half_precision(tmp_path: Path) -> None:
    circuit = signed_circuit(dtype=torch.complex64)
    pc.save(circuit, tmp_path, dtype=torch.float16)
    loaded = pc.load(tmp_path)
    assert loaded.dtype == torch.complex64 and torch.allclose(answers(loaded), answers(circuit), atol=1e-2)


def test_complex_weights_of_a_plain_circuit_are_refused(tmp_path: Path) -> None:
    pc.save(hmm(0), tmp_path)
    path = tmp_path / DESCRIPTION
    stored = {key: value for key, value in json.loads(path.read_text()).items() if key != "checksum"}
    path.write_bytes(signed(stored | {"dtype": "complex64"}))
    with pytest.raises(pc.FormatError, match=r"torch\.float32 or torch\.float64, got torch\.complex64"):
        pc.load(tmp_path)


def test_replaces_a_plain_circuit_and_back(tmp_path: Path) -> None:
    for circuit in (hmm(0), pc.square(hmm(0)), hmm(1)):
        pc.save(circuit, tmp_path)
        assert type(pc.load(tmp_path)) is type(circuit) and len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pc.save(pc.marginalize(pc.multiply(hmm(0), hmm(1)), [1, 3]), tmp_path)
    return tmp_path / DESCRIPTION


STEP = {"operation": "multiply", "sources": [0, 1]}
WRONG = {
    "no step": ([], "must not be empty"),
    "unknown": ([{"operation": "add", "sources": [0, 1]}], "must be one of multiply"),
    "later source": ([{"operation": "multiply", "sources": [0, 2]}], "must count what comes before, 2"),
    "one source": ([{"operation": "multiply", "sources": [0]}], "2 sources"),
    "more keys": ([STEP | {"keep": [0]}], "has operation, sources and 2 sources"),
    "no variable": ([STEP, {"operation": "marginalize", "sources": [2], "keep": [9]}], r"variables are 0\.\.3, got 9"),
    "not a list": ([STEP, {"operation": "marginalize", "sources": [2], "keep": "all"}], "must list variables"),
    "bad value": ([{"operation": "condition", "sources": [0], "values": [[0, 9]]}], r"0\.\.3, got 9"),
    "no pair": ([{"operation": "condition", "sources": [0], "values": [0, 1]}], "pairs of a variable and its value"),
    "discrete": ([{"operation": "differentiate", "sources": [0], "variable": 0}], "Gaussian"),
    "no shares": ([{"operation": "mixture", "sources": [0, 1], "log_shares": [None, None]}], "'log_shares' must list"),
    "too few shares": ([{"operation": "mixture", "sources": [0, 1], "log_shares": [0.0]}], "'log_shares' must list"),
    "nothing mixed": ([{"operation": "mixture", "sources": [], "log_shares": []}], "'log_shares' must list"),
    "too many": ([STEP] * 65, "at most 64 steps"),
    "too large": ([STEP, *({"operation": "multiply", "sources": [n, n]} for n in (2, 3, 4, 5))], "units a region"),
}


@pytest.mark.parametrize("name", WRONG)
def test_steps_that_do_not_apply(name: str, saved: Path) -> None:
    steps, message = WRONG[name]
    stored = {key: value for key, value in json.loads(saved.read_text()).items() if key != "checksum"}
    saved.write_bytes(signed(stored | {"steps": steps}))
    with pytest.raises(pc.FormatError, match=message):
        pc.load(saved.parent)


def test_tensors_of_no_part_are_refused(saved: Path) -> None:
    stored = {key: value for key, value in json.loads(saved.read_text()).items() if key != "checksum"}
    saved.write_bytes(
        signed(stored | {"parts": stored["parts"][:1], "steps": [{"operation": "multiply", "sources": [0, 0]}]})
    )
    with pytest.raises(pc.FormatError, match="do not belong here"):
        pc.load(saved.parent)


@pytest.fixture
def _as_users_run_it() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("derived")
    for name in ("marginal of a product", "conditional", "signed", "complex square"):
        pc.save(CIRCUITS[name](), parent / name)
    return {path.name: path for path in parent.iterdir()}


@pytest.mark.usefixtures("_as_users_run_it")
@settings(max_examples=80)
@given(
    st.sampled_from(["marginal of a product", "conditional", "signed", "complex square"]),
    st.integers(0, 2**16),
    JSON,
    st.booleans(),
)
def test_any_field_may_hold_anything(
    folders: dict[str, Path], name: str, where: int, new: Any, by_another_field: bool
) -> None:
    """A FormatError or a circuit that answers."""
    path = folders[name] / DESCRIPTION
    loaded = load_changed(path, with_a_field_replaced(path, where, new, by_another_field))
    if loaded is not None and not isinstance(loaded, SignedFunction):
        assert not loaded.condition(pc.Evidence.nothing(1, loaded.num_variables)).log_evidence.isnan().any()


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    class Mine(pc.Circuit):
        pass

    with pytest.raises(pc.ParameterError, match=r"save writes Circuit, HMM, SignedCircuit, got a .*Mine"):
        pc.save(Mine(structures.chain(2), pc.Bernoulli(), num_units=2), tmp_path)
    mixed = pc.multiply(gaussian(), pc.Circuit(structures.binary_tree(3), pc.Gaussian(), num_units=2, seed=1))
    with pytest.raises(pc.ParameterError, match="dtypes equal"):
        pc.save(mixed, tmp_path)
