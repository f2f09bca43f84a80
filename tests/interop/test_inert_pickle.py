"""Nothing in a `.jpc` file is executed: programs that unpickling would run, and programs that would exhaust memory."""

import builtins
import copyreg
import functools
import io
import itertools
import operator
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.interop.inert_pickle import Global, read_pickle
from tests.interop.jpc_writer import write
from tests.interop.test_jpc import FOLDER, two_leaves


@pytest.fixture(autouse=True, scope="module")
def _as_users_run_it() -> Iterator[None]:
    """Without the type checks that tests switch on: the reader's own checks must do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
    | st.binary(max_size=300)
)
DATA = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("protocol", [4, 5])
@settings(max_examples=40)
@given(value=DATA)
def test_plain_data_is_read_as_pickle_reads_it(protocol: int, value: Any) -> None:
    assert read_pickle(pickle.dumps(value, protocol), ()) == value


def test_what_is_shared_stays_shared() -> None:
    row = [1]
    first, second = read_pickle(pickle.dumps([row, row]), ())
    assert first is second


class Reduced:
    """Pickled as a call of anything, with any state."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.reduction = (function, args, state) if state is not None else (function, args)

    def __reduce__(self) -> tuple:
        return self.reduction


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda run: Reduced(os.system, run),
    "subprocess": lambda run: Reduced(subprocess.call, run.split()),
    "eval": lambda run: Reduced(builtins.eval, f"__import__('os').system({run!r})"),
    "exec": lambda run: Reduced(builtins.exec, f"import os; os.system({run!r})"),
    "getattr": lambda run: Reduced(builtins.getattr, 1, "real"),
    "partial": lambda run: Reduced(functools.partial(os.system, run)),
    "attrgetter": lambda run: Reduced(operator.attrgetter("system"), 1),
    "nested": lambda run: Reduced(pickle.loads, pickle.dumps(Reduced(os.system, run))),
    "reconstructor": lambda run: Reduced(copyreg._reconstructor, os._wrap_close, object, None),  # type: ignore[attr-defined]
    "state": lambda run: Reduced(io.BytesIO, b"", state=(b"", 0, {"x": Reduced(os.system, run)})),
    "numpy.load": lambda run: Reduced(np.load, run),
    "numpy.f2py": lambda run: Reduced(np.fromfile, run),
    "torch.load": lambda run: Reduced(torch.load, run),
    "torch.storage": lambda run: Reduced(torch.storage._load_from_bytes, pickle.dumps(Reduced(os.system, run))),
    "torch tensor": lambda run: torch.zeros(2),
    "object array": lambda run: np.array([Reduced(os.system, run)], dtype=object),
    "field array": lambda run: np.zeros(2, dtype=[("a", "f4")]),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_programs_are_refused_and_not_run(name: str, protocol: int, tmp_path: Path) -> None:
    attack = ATTACKS[name](f"touch {tmp_path / 'ran'}")
    content = pickle.dumps(attack, protocol)
    nodes = two_leaves()
    places: list[Any] = [attack, [attack]]
    places += [[node | {key: attack} for node in nodes] for key in ("type", "params", "edge_ids", "scope", "chs")]
    places += [[node | {key: content} for node in nodes] for key in ("dist", "external_params", "params")]
    for n, place in enumerate(places):
        with pytest.raises(pc.FormatError):
            pc.interop.read_jpc(write(tmp_path / f"{n}.jpc", place, protocol))
    with pytest.raises(pc.FormatError):
        pc.interop.read_jpc(write(tmp_path / "unread.jpc", [*nodes, attack], protocol))
    assert not (tmp_path / "ran").exists()


def test_the_same_program_runs_when_it_is_unpickled(tmp_path: Path) -> None:
    """Without which the test above could not fail."""
    for name in ("os.system", "eval", "exec", "nested"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(ATTACKS[name](f"touch {marker}")))
        assert marker.exists()


def test_what_is_named_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "absent_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(pc.FormatError, match=r"names 'absent_module\.thing', which is refused"):
            read_pickle(program(text("absent_module"), text("thing"), b"\x93"), ())
        named = program(text("absent_module"), text("thing"), b"\x93")
        assert read_pickle(named, {Global("absent_module", "thing")}) == Global("absent_module", "thing")
    finally:
        sys.path.remove(str(tmp_path))
    assert "absent_module" not in sys.modules and not (tmp_path / "ran").exists()


def program(*steps: bytes) -> bytes:
    return b"\x80\x04" + b"".join(steps) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


OPCODES = {
    "GLOBAL": b"cos\nsystem\n",
    "INST": b"(ios\nsystem\n",
    "OBJ": b"(N" + b"o",
    "NEWOBJ_EX": b"N)}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pid\n",
    "BINPERSID": b"NQ",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"N\x98",
    "LONG4": b"\x8b\x01\x00\x00\x00\x01",
    "STRING": b"S'a'\n",
    "EMPTY_SET": b"\x8f",
    "DUP": b"N2",
    "POP": b"NN0",
    "number 255": b"\xff",
}


@pytest.mark.parametrize("name", OPCODES)
def test_instructions_that_data_does_not_need_are_refused(name: str) -> None:
    with pytest.raises(pc.FormatError, match=f"instruction {name} .*refused"):
        read_pickle(program(OPCODES[name]), {Global("os", "system")})


@pytest.mark.parametrize(
    "content",
    [
        program(),
        program(b"NN"),
        program(b"("),
        program(b"t"),
        program(b"a"),
        program(b"Na"),
        program(b"NNa"),
        program(b"(Ne"),
        program(b"}(Nu"),
        program(b"}(K\x01Nu"),
        program(b"}NNs"),
        program(b"N)R"),
        program(b"NNR"),
        program(b"N}b"),
        program(b"\x93"),
        program(b"NN\x93"),
        program(b"h\x00"),
        program(b"j\xff\xff\xff\xff"),
        program(b"\x94"),
        program(b"\x8c\x02\xff\xff"),
        program(b"N") + b"N",
        b"",
        b"N.",
        b"\x80\x04",
        b"\x80\x03N.",
        b"\x80\x06N.",
        b"PK\x03\x04",
    ],
)
def test_malformed_programs_are_refused(content: bytes) -> None:
    with pytest.raises(pc.FormatError):
        read_pickle(content, ())


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96", b"\x8d"])
@pytest.mark.parametrize("size", [2**62, 2**64 - 1, 2**40])
def test_sizes_beyond_the_file_are_refused_before_memory_is_taken(opcode: bytes, size: int) -> None:
    with pytest.raises(pc.FormatError, match="truncated"):
        read_pickle(program(opcode + struct.pack("<Q", size)), ())


def test_depth_and_cycles_are_only_data(tmp_path: Path) -> None:
    deep = program(b"N" + b"\x85" * 30_000)
    assert isinstance(read_pickle(deep, ()), tuple)
    keyed = program(b"}", b"N" + b"\x85" * 30_000, b"Ns")
    with pytest.raises(pc.FormatError, match="keys"):
        read_pickle(keyed, ())
    cycle: list[Any] = []
    cycle.append(cycle)
    bomb: list[Any] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    nodes = two_leaves()
    for value in (cycle, bomb, tuple(cycle), tuple(bomb)):
        for key in nodes[-1]:
            with pytest.raises(pc.FormatError):
                pc.interop.read_jpc(write(tmp_path / "cycle.jpc", [*nodes[:-1], nodes[-1] | {key: value}]))
        with pytest.raises(pc.FormatError):
            pc.interop.read_jpc(write(tmp_path / "cycle.jpc", value))


@pytest.mark.parametrize("name", ["hmm", "gaussian_hclt"])
def test_every_truncation_is_refused(name: str, tmp_path: Path) -> None:
    content, path = (FOLDER / f"{name}.jpc").read_bytes(), tmp_path / "cut.jpc"
    for size in range(0, len(content), 17):
        path.write_bytes(content[:size])
        with pytest.raises(pc.FormatError):
            pc.interop.read_jpc(path)


# --- fuzz: changed files give a circuit or FormatError, nothing else ---

FILES = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.jpc"))}
EDIT = st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "insert", "delete"]), st.binary(min_size=1, max_size=4))
JUNK = PLAIN | st.sampled_from([(), [], {}, (0,), [0], 2**31, 2**63, -1, np.zeros(3), np.zeros((2, 0)), np.float64(1)])


def answer(path: Path) -> None:
    try:
        circuit = pc.interop.read_jpc(path)
    except pc.FormatError as error:
        assert str(path) in str(error)
        return
    nothing = pc.Evidence.nothing(1, circuit.num_variables)
    assert circuit.condition(nothing).log_evidence.abs().max() < 1e-4


@settings(max_examples=100)
@given(
    st.sampled_from(list(FILES)),
    st.lists(EDIT, min_size=1, max_size=3),
)
@example("hmm", [(0, "delete", b"1234")])
def test_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, edits: list[tuple[int, str, bytes]]
) -> None:
    content = bytearray(FILES[name])
    for place, kind, new in edits:
        at = place % (len(content) + 1)
        if kind == "insert":
            content[at:at] = new
        else:
            content[at : at + len(new)] = new if kind == "set" else b""
    path = tmp_path_factory.getbasetemp() / "changed.jpc"
    path.write_bytes(content)
    answer(path)


@settings(max_examples=100)
@given(st.integers(0, 3), st.sampled_from(sorted({key for node in two_leaves() for key in node})), JUNK)
def test_changed_nodes(tmp_path_factory: pytest.TempPathFactory, number: int, key: str, value: Any) -> None:
    nodes = two_leaves()
    nodes[number] = nodes[number] | {key: value}
    answer(write(tmp_path_factory.getbasetemp() / "changed.jpc", nodes))


def test_every_node_in_every_place(tmp_path: Path) -> None:
    """Orders and repetitions of valid nodes: wrong children, several roots, loops, unused nodes."""
    nodes = two_leaves()
    for chosen in itertools.product(range(4), repeat=4):
        answer(write(tmp_path / "ordered.jpc", [nodes[n] for n in chosen]))
