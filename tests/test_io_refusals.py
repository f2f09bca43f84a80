"""What `save` keeps and refuses, and every kind of folder that `load` refuses, by name."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.distributions import FAMILIES
from pcircuits.io import folder as io_folder
from pcircuits.testing import INPUTS, LAYERS, STRUCTURES, WEIGHTS, example_circuit, example_evidence
from pcircuits.types import Tensor

DESCRIPTION = "circuit.json"


def tensors_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of the description, None removes one, and sign it again."""
    stored = json.loads((folder / DESCRIPTION).read_text()) | changes
    stored = {key: value for key, value in stored.items() if value is not None}
    (folder / DESCRIPTION).write_text(json.dumps(stored | {"checksum": io_folder._checksum(stored)}))


def edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    """Change tensors, None removes one, and sign the file and the description again."""
    old, stored = tensors_of(folder), json.loads((folder / DESCRIPTION).read_text())["tensors"]
    tensors = safetensors.torch.load_file(old) | {f"groups.{name.replace('__', '.')}": t for name, t in changes.items()}
    content = safetensors.torch.save({name: t for name, t in tensors.items() if t is not None})
    old.unlink()
    digest = hashlib.sha256(content).hexdigest()
    (folder / f"circuit-{digest[:16]}.safetensors").write_bytes(content)
    edit(folder, tensors=stored | {"sha256": digest, "bytes": len(content)})


def assert_same(a: pc.Circuit, b: pc.Circuit) -> None:
    assert type(a) is type(b) and a.dtype == b.dtype
    assert (a.graph, a.inputs, a.num_units, a.layer, a.ties) == (b.graph, b.inputs, b.num_units, b.layer, b.ties)
    one, two = a.state_dict(), b.state_dict()
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pc.save(example_circuit(weights="sparse", layer="cp-t"), tmp_path / "circuit")
    return tmp_path / "circuit"


@pytest.fixture
def saved_hmm(tmp_path: Path) -> Path:
    pc.save(pc.HMM(3, 4, 5, seed=0), tmp_path / "hmm")
    return tmp_path / "hmm"


# what comes back


@given(
    structure=st.sampled_from(STRUCTURES),
    layer=st.sampled_from(LAYERS),
    inputs=st.sampled_from(INPUTS),
    weights=st.sampled_from(WEIGHTS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    num_variables=st.integers(1, 5),
)
def test_every_kind_of_circuit_comes_back(
    tmp_path_factory: pytest.TempPathFactory, structure: str, layer: str, inputs: str, **options: Any
) -> None:
    circuit = example_circuit(structure, layer, "categorical" if structure == "chow_liu" else inputs, **options)
    folder = tmp_path_factory.mktemp("round")
    pc.save(circuit, folder)
    loaded = pc.load(folder)
    assert_same(circuit, loaded)
    evidence = example_evidence(circuit, "hard", batch=4)
    with torch.no_grad():  # bit-identical
        assert torch.equal(circuit.condition(evidence).log_evidence, loaded.condition(evidence).log_evidence)


def test_hmm_comes_back_as_hmm(tmp_path: Path) -> None:
    initial, transition, emission = torch.tensor([1.0, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.eye(2)
    hmm = pc.HMM.from_probs(initial, transition, emission, length=4)
    pc.save(hmm, tmp_path)
    loaded = pc.load(tmp_path)
    assert isinstance(loaded, pc.HMM)
    assert_same(hmm, loaded)
    assert set(loaded.groups) == {"initial", "transition", "emission"}
    torch.testing.assert_close(loaded.with_length(7).transition, transition)
    x = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]])
    assert loaded.log_prob(x)[1].isneginf()  # exact zeros are still exact zeros
    assert torch.equal(loaded.log_prob(x), hmm.log_prob(x))


def test_tied_groups_are_stored_once(tmp_path: Path) -> None:
    pc.save(pc.HMM(3, 4, 50, seed=0), tmp_path)
    shapes = {name: tuple(t.shape) for name, t in safetensors.torch.load_file(tensors_of(tmp_path)).items()}
    assert shapes == {
        "groups.initial.log_weights": (1, 1, 3),
        "groups.transition.log_weights": (1, 3, 3),
        "groups.emission.logits": (1, 3, 4),
    }


def test_learned_deterministic_tree_stays_deterministic(tmp_path: Path) -> None:
    x = torch.randint(0, 3, (60, 4))
    circuit = pc.Circuit(pc.structures.chow_liu(x, num_categories=3), pc.Categorical(3), seed=0)
    circuit.maximise(circuit.statistics(x))
    pc.save(circuit, tmp_path)
    loaded = pc.load(tmp_path)
    assert loaded.graph.observed_latents
    assert pc.check(loaded).deterministic
    assert torch.equal(loaded.log_prob(x), circuit.log_prob(x))


def test_ties_between_some_regions(tmp_path: Path) -> None:
    circuit = example_circuit("hmm", "cp-t", "mixed", num_variables=6)
    assert circuit.ties["sum"] and circuit.ties["input"]
    pc.save(circuit, tmp_path)
    assert_same(circuit, pc.load(tmp_path))


def test_float16_on_disk_is_float32_in_memory(tmp_path: Path) -> None:
    circuit = pc.HMM(32, 64, 8, seed=0)
    pc.save(circuit, tmp_path / "full")
    pc.save(circuit, tmp_path / "half", dtype=torch.float16)
    assert tensors_of(tmp_path / "half").stat().st_size < 0.55 * tensors_of(tmp_path / "full").stat().st_size
    loaded, x = pc.load(tmp_path / "half"), torch.randint(0, 64, (20, 8))
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.log_prob(x), circuit.log_prob(x), rtol=0, atol=0.02)
    pc.save(loaded, tmp_path / "half", dtype=torch.float16)
    assert_same(loaded, pc.load(tmp_path / "half"))  # what was rounded once is not rounded again


def test_loading_leaves_the_global_generator_as_it_is(saved: Path) -> None:
    before = torch.get_rng_state()
    pc.load(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_the_same_circuit_makes_the_same_files(saved: Path, tmp_path: Path) -> None:
    pc.save(pc.load(saved), tmp_path / "again")
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
    }


def test_saving_replaces_the_circuit_and_leaves_other_files(saved: Path) -> None:
    (saved / "circuit-notes.safetensors").write_text("mine")
    pc.save(other := pc.HMM(2, 3, 4, seed=1), saved)
    assert_same(pc.load(saved), other)
    assert len(list(saved.iterdir())) == 3


@pytest.mark.parametrize("writes", [0, 1])
def test_an_interruption_leaves_the_old_circuit(saved: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    old, done, write = pc.load(saved), [], io_folder.write_atomically

    def stop(path: Path, content: bytes) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write(path, content)

    monkeypatch.setattr(io_folder, "write_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        pc.save(pc.HMM(2, 3, 4, seed=1), saved)
    assert_same(old, pc.load(saved))
    monkeypatch.undo()
    pc.save(old, saved)
    assert len(list(saved.iterdir())) == 2  # nothing of the interrupted save remains


# what save refuses


class _OwnHMM(pc.HMM):
    pass


class _OwnFamily(pc.Categorical):
    name = "own"


def test_save_refuses_what_load_would_not_know(tmp_path: Path) -> None:
    with pytest.raises(pc.ParameterError, match="_OwnHMM"):
        pc.save(_OwnHMM(2, 3, 4, seed=0), tmp_path / "x")
    with pytest.raises(pc.ParameterError, match="FAMILIES"):
        pc.save(pc.Circuit(pc.structures.chain(2), _OwnFamily(2), num_units=2), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_family_that_is_registered_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "own", _OwnFamily)
    circuit = pc.Circuit(pc.structures.chain(2), _OwnFamily(2), num_units=2)
    pc.save(circuit, tmp_path)
    assert_same(circuit, pc.load(tmp_path))


def test_save_refuses_nan_and_what_float16_cannot_hold(tmp_path: Path) -> None:
    circuit = pc.Circuit(pc.structures.chain(2), pc.Gaussian(loc=1e6), num_units=2, seed=0)
    with pytest.raises(pc.ParameterError, match=r"groups\.input_0\.mean has values out of the range"):
        pc.save(circuit, tmp_path, dtype=torch.float16)
    with pytest.raises(pc.ParameterError, match="bfloat16"):
        pc.save(circuit, tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        circuit.groups["input_0"].get_parameter("mean")[0, 0] = torch.nan
    with pytest.raises(pc.ParameterError, match="NaN"):
        pc.save(circuit, tmp_path)
    assert not list(tmp_path.iterdir())


# what load refuses


def refuses(folder: Path, *words: str) -> None:
    with pytest.raises(pc.FormatError) as caught:
        pc.load(folder)
    message = str(caught.value)
    assert all(word in message for word in (str(folder), *words)), message


def test_missing(saved: Path, tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "circuit.json", "load needs a folder")
    refuses(saved / DESCRIPTION, "load needs a folder")  # a file, not its folder
    tensors_of(saved).unlink()
    refuses(saved, "is missing", "copy the folder again")


def test_truncated(saved: Path) -> None:
    path = tensors_of(saved)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    refuses(saved, path.name, f"has {len(content) - 7} bytes, expected {len(content)}")
    path.write_bytes(content)
    text = (saved / DESCRIPTION).read_bytes()
    (saved / DESCRIPTION).write_bytes(text[: len(text) // 2])
    refuses(saved, "not whole JSON")


def test_tampered(saved: Path) -> None:
    path = tensors_of(saved)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refuses(saved, path.name, "SHA-256")
    text = (saved / DESCRIPTION).read_text()
    (saved / DESCRIPTION).write_text(text.replace('"cp-t"', '"cp"', 1))
    refuses(saved, "was changed after it was saved")


def test_another_kind_and_a_newer_version(saved: Path) -> None:
    (saved / DESCRIPTION).write_text(json.dumps(json.loads((saved / DESCRIPTION).read_text()) | {"version": 2}))
    refuses(saved, "version 2", pc.__version__, "upgrade")
    for other in ('{"format": "pcircuits.fit"}', "[]", "null", '"pcircuits.circuit"', "{}"):
        (saved / DESCRIPTION).write_text(other)
        refuses(saved, "expected 'pcircuits.circuit'")
    for broken in ('{"format": NaN}', "[" * 100_000, "", "\x00", "1" * 5000):
        (saved / DESCRIPTION).write_text(broken)
        refuses(saved, "not whole JSON")


REGIONS = {
    "cycle": ([0, 1, [[0, 3]], [[2, 1]]], "cycle"),
    "overlap": ([0, 1, [[0, 1]], [[2, 0]]], "disjoint"),
    "out of order": ([[[1, 2]], 0, 1], "children first"),
    "no list": ([0, 1, {"children": [0, 1]}], "list of lists"),
    "no regions": ([], "non-empty"),
}


@pytest.mark.parametrize("case", REGIONS)
def test_invalid_graphs(saved: Path, case: str) -> None:
    regions, words = REGIONS[case]
    edit(saved, graph=json.loads((saved / DESCRIPTION).read_text())["graph"] | {"regions": regions})
    refuses(saved, words)


DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "key missing": ({"layer": None}, "'layer'"),
    "key unknown": ({"colour": "red"}, "'colour'"),
    "key of another type": ({"num_units": "3"}, "'num_units'"),
    "true is no number": ({"num_units": True}, "'num_units'"),
    "class": ({"class": "Sequential"}, "Sequential"),
    "an HMM that is none": ({"class": "HMM"}, "chain"),
    "layer": ({"layer": "dense"}, "dense"),
    "dtype": ({"dtype": "int8"}, "int8"),
    "other precision": ({"dtype": "float64"}, "float32"),
    "no units": ({"num_units": 0}, "shape"),
    "negative units": ({"num_units": -1}, "save the circuit again"),
    "more units than memory": ({"num_units": 10**6}, "shape"),
    "more units than numbers": ({"num_units": 10**30}, "sizes"),
    "family": ({"families": [{"family": "cauchy"}]}, "cauchy"),
    "family without name": ({"families": [3]}, "3"),
    "family's arguments": ({"families": [{"family": "categorical", "colour": 2}]}, "colour"),
    "family's sizes": ({"families": [{"family": "categorical", "num_categories": -2}]}, "positive"),
    "infinite loc": ({"families": [{"family": "gaussian", "loc": 10**400}]}, "gaussian"),
    "text as loc": ({"families": [{"family": "gaussian", "loc": "0"}]}, "gaussian"),
    "huge family": ({"families": [{"family": "categorical", "num_categories": 10**15}]}, "save the circuit again"),
    "input beyond the families": ({"inputs": [0, 0, 0, 1]}, "count into 1 families"),
    "too few inputs": ({"inputs": [0, 0, 0]}, "4 variables"),
    "ties": ({"ties": {"sum": {}}}, "input group"),
    "ties of no regions": ({"ties": {"sum": {"a": 3}, "input": {}}}, "sum group"),
    "ties of no ids": ({"ties": {"sum": {"a": ["3"]}, "input": {}}}, "region ids"),
    "unusable name": ({"ties": {"sum": {"a.b": [4]}, "input": {}}}, "a.b"),
    "tie that the tensors lack": ({"ties": {"sum": {"a": [4, 5]}, "input": {}}}, "groups.a.log_weights"),
    "path instead of a checksum": ({"tensors": {"sha256": "../../x", "bytes": 3, "dtype": "float32"}}, "SHA-256"),
    "no checksum": ({"tensors": {}}, "dtype"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_descriptions_that_make_no_circuit(saved: Path, case: str) -> None:
    changes, words = DESCRIPTIONS[case]
    edit(saved, **changes)
    refuses(saved, words)


HMMS: dict[str, dict[str, Any]] = {
    "ties": {"ties": {"sum": {"initial": [9], "transition": [5, 6, 7]}, "input": {"emission": [0, 1, 2, 3, 4]}}},
    "layer": {"layer": "tucker"},
    "inputs": {"families": [{"family": "gaussian", "loc": 0.0, "scale": 1.0, "min_std": 0.001}]},
}


@pytest.mark.parametrize("case", HMMS)
def test_descriptions_that_make_no_hmm(saved_hmm: Path, case: str) -> None:
    edit(saved_hmm, **HMMS[case])
    refuses(saved_hmm, "save the circuit again")


TENSORS: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "missing": ({"transition__log_weights": None}, "groups.transition.log_weights"),
    "unknown": ({"velocity": torch.zeros(1)}, "groups.velocity"),
    "shape": ({"emission__logits": torch.zeros(1, 3, 5)}, "(1, 3, 5)"),
    "dtype": ({"emission__logits": torch.zeros(1, 3, 4).half()}, "torch.float16"),
    "NaN": ({"emission__logits": torch.full((1, 3, 4), torch.nan)}, "NaN"),
    "mask's dtype": ({"emission__support": torch.ones(1, 3, 4)}, "bool"),
    "mask's shape": ({"emission__support": torch.ones(1, 2, 4, dtype=torch.bool)}, "(1, 3, 4)"),
    "mask's axes": ({"emission__support": torch.ones(3, 4, dtype=torch.bool)}, "(1, 3, 4)"),
    "empty mask": ({"emission__support": torch.zeros(1, 3, 4, dtype=torch.bool)}, "an entry for each unit"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit(saved_hmm: Path, case: str) -> None:
    changes, words = TENSORS[case]
    edit_tensors(saved_hmm, **changes)
    refuses(saved_hmm, words)


def test_what_is_no_safetensors_file(saved: Path) -> None:
    content = b"not tensors"
    digest = hashlib.sha256(content).hexdigest()
    (saved / f"circuit-{digest[:16]}.safetensors").write_bytes(content)
    edit(saved, tensors={"sha256": digest, "bytes": len(content), "dtype": "float32"})
    refuses(saved, "not a whole safetensors file")
