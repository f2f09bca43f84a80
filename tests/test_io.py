"""Files: what is saved comes back bit by bit, and a damaged file is a clear error or a valid circuit, never anything
else.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import structures, testing

CIRCUITS = {
    "hmm": lambda: pc.HMM(3, 4, 4, seed=0),
    "sparse hmm": lambda: pc.HMM.from_probs(
        torch.tensor([1.0, 0.0]), torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.5]]), length=4
    ),
    "double": lambda: pc.Circuit(structures.binary_tree(4), pc.Bernoulli(), num_units=2, seed=0, dtype=torch.float64),
    "rat": lambda: testing.example_circuit("rat", "tucker"),
    "mixed": lambda: pc.Circuit(structures.binary_tree(2), [pc.Gaussian(), pc.Categorical(3)], num_units=2, seed=0),
    "chow_liu": lambda: testing.example_circuit("chow_liu", "cp-t"),
}


@pytest.fixture(params=CIRCUITS)
def circuit(request: pytest.FixtureRequest) -> pc.Circuit:
    return CIRCUITS[request.param]()


def some_values(circuit: pc.Circuit) -> torch.Tensor:
    return circuit.sample(20, generator=torch.Generator().manual_seed(0))


def test_round_trip_is_bit_identical(circuit: pc.Circuit, tmp_path: Path) -> None:
    pc.save(circuit, tmp_path / "circuit")
    loaded = pc.load(tmp_path / "circuit")
    x = some_values(circuit)
    assert type(loaded) is type(circuit) and loaded.dtype == circuit.dtype and loaded.graph == circuit.graph
    assert loaded.state_dict().keys() == circuit.state_dict().keys()
    assert torch.equal(loaded.log_prob(x), circuit.log_prob(x))


def test_half_precision_files_are_half_as_large_and_nearly_right(tmp_path: Path) -> None:
    hmm = pc.HMM(16, 64, 8, seed=0)
    for name, dtype in (("full", None), ("half", torch.float16)):
        pc.save(hmm, tmp_path / name, dtype=dtype)
    full, half = (sum(f.stat().st_size for f in (tmp_path / n).glob("*.safetensors")) for n in ("full", "half"))
    assert half < 0.6 * full
    x = some_values(hmm)
    assert torch.allclose(pc.load(tmp_path / "half").log_prob(x), hmm.log_prob(x), rtol=1e-2)


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for seed in (0, 1):
        pc.save(pc.HMM(2, 3, 3, seed=seed), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    x = torch.tensor([[0, 1, 2]])
    assert torch.equal(pc.load(tmp_path).log_prob(x), pc.HMM(2, 3, 3, seed=1).log_prob(x))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "circuit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
    "no folder": (lambda f: [x.unlink() for x in f.iterdir()], "circuit.json"),
    "no tensors": (lambda f: next(f.glob("*.safetensors")).unlink(), "missing"),
    "truncated tensors": (lambda f: next(f.glob("*.safetensors")).write_bytes(b"\x00" * 40), "40 bytes"),
    "truncated json": (lambda f: (f / "circuit.json").write_text('{"format"'), "JSON"),
    "newer version": (lambda f: edit(f, version=99), "version 99"),
    "another kind": (lambda f: edit(f, format="something else"), "something else"),
    "tampered json": (lambda f: edit(f, num_units=3), "changed after it was saved"),
    "wrong type": (lambda f: edit(f, num_units="two"), "num_units"),
    "unknown key": (lambda f: edit(f, surprise=1), "surprise"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(damage: str, tmp_path: Path) -> None:
    pc.save(pc.HMM(2, 3, 3, seed=0), tmp_path)
    harm, message = DAMAGE[damage]
    harm(tmp_path)
    with pytest.raises(pc.FormatError, match=message):
        pc.load(tmp_path)


def test_tampered_tensors_are_refused(tmp_path: Path) -> None:
    pc.save(pc.HMM(2, 3, 3, seed=0), tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(pc.FormatError):
        pc.load(tmp_path)


@settings(max_examples=60)
@given(data=st.data())
def test_any_byte_changed_gives_a_format_error_or_a_circuit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    pc.save(pc.HMM(2, 3, 3, seed=0), folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        loaded = pc.load(folder)
    except pc.FormatError:
        return
    assert loaded.log_prob(torch.tensor([[0, 1, 2]])).isfinite().all()
