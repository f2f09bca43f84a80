"""Whatever a folder holds, `load` gives a circuit that answers queries or raises FormatError."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.io import folder as io_folder
from pcircuits.testing import example_circuit
from tests.json_schema import fits
from tests.test_circuit_schema import SCHEMA

DESCRIPTION = "circuit.json"
CIRCUITS = {
    "hmm": lambda: pc.HMM(2, 3, 3, seed=0),
    "mixed": lambda: example_circuit("rat", "cp", "mixed", num_variables=4, num_units=2),
    "sparse": lambda: example_circuit("rat", "sparse", weights="sparse", num_variables=4, num_units=1),
    "chow_liu": lambda: example_circuit("chow_liu", "cp-t", num_variables=3),
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from([10**6, 2**63, 10**30])
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One valid save of each circuit; tests put every file back that they change."""
    parent = tmp_path_factory.mktemp("valid")
    for name, make in CIRCUITS.items():
        pc.save(make(), parent / name)
    return {name: parent / name for name in CIRCUITS}


@pytest.fixture(autouse=True, scope="module")
def _as_users_run_it() -> Iterator[None]:
    """Without the type checks that tests switch on: the loader's own checks must do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def load_changed(path: Path, content: bytes) -> pc.Circuit | None:
    """What the folder gives with one file's content changed; None if that was refused."""
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        return pc.load(path.parent)
    except pc.FormatError as error:
        assert str(path.parent) in str(error)
        return None
    finally:
        path.write_bytes(before)


def assert_answers(circuit: pc.Circuit) -> None:
    posterior = circuit.condition(pc.Evidence.nothing(2, circuit.num_variables))
    assert posterior.log_evidence.abs().max() < 1e-4
    posterior.marginals()
    assert circuit.log_prob(posterior.sample(3)[:, 0]).shape == (3,)


@settings(max_examples=150)
@given(st.sampled_from(list(CIRCUITS)), st.booleans(), st.data())
def test_changed_bytes_are_noticed(folders: dict[str, Path], name: str, tensors: bool, data: st.DataObject) -> None:
    path = next(folders[name].glob("*.safetensors" if tensors else DESCRIPTION))
    before = path.read_bytes()
    start = data.draw(st.integers(0, len(before) - 1))
    removed = data.draw(st.integers(0, 8))
    content = before[:start] + data.draw(st.binary(max_size=8)) + before[start + removed :]
    loaded = load_changed(path, content)
    if loaded is None or content == before:
        return
    assert not tensors and json.loads(content) == json.loads(before)  # white space at most: it is the same circuit


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each entry of a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in entries for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


def signed(stored: Any) -> bytes:
    checksum = {"checksum": io_folder._checksum(stored)}
    return json.dumps(stored | checksum if isinstance(stored, dict) else stored).encode()


def with_a_field_replaced(path: Path, where: int, new: Any, by_another_field: bool) -> bytes:
    """A description with `new`, or another of its own fields, in a place; signed again."""
    stored = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "checksum"}
    found = [place for place in places(stored) if place[:1] != ("library",)]
    if by_another_field:
        new = stored
        for key in found[(where * 31) % len(found)]:
            new = new[key]
    return signed(replaced(stored, found[where % len(found)], new))


@settings(max_examples=300)
@given(st.sampled_from(list(CIRCUITS)), st.integers(0, 2**16), JSON, st.booleans())
@example("mixed", 0, [], False)
def test_any_field_may_hold_anything(
    folders: dict[str, Path], name: str, where: int, new: Any, by_another_field: bool
) -> None:
    """Signed again, so that nothing but the loader's own checks stand in the way."""
    path = folders[name] / DESCRIPTION
    content = with_a_field_replaced(path, where, new, by_another_field)
    loaded = load_changed(path, content)
    if loaded is not None:
        assert fits(json.loads(content), SCHEMA, SCHEMA)
        with torch.no_grad():
            assert_answers(loaded)


@pytest.mark.parametrize("name", CIRCUITS)
def test_each_key_removed_doubled_or_nulled(folders: dict[str, Path], name: str) -> None:
    path = folders[name] / DESCRIPTION
    stored = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "checksum"}
    for key, value in stored.items():
        assert load_changed(path, signed({k: v for k, v in stored.items() if k != key})) is None
        assert load_changed(path, signed(stored | {key: None})) is None
        assert load_changed(path, signed(stored | {key + key: value})) is None
    assert load_changed(path, signed(stored)) is not None


def test_a_folder_of_two_saves_is_refused(folders: dict[str, Path]) -> None:
    """The description of one circuit with the tensors of another."""
    one, other = (json.loads((folders[name] / DESCRIPTION).read_bytes()) for name in ("hmm", "mixed"))
    del one["checksum"]
    path = folders["mixed"] / DESCRIPTION
    assert load_changed(path, signed(one)) is None
    assert load_changed(path, signed(one | {"tensors": other["tensors"]})) is None
