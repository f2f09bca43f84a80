"""`docs/circuit.schema.json` describes what `save` writes, and no more than `load` reads."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.folding import LAYERS
from pcircuits.io.derivation import OPERATIONS
from pcircuits.io.description import CLASSES
from tests.json_schema import fits

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCHEMA, DERIVED = (json.loads((DOCS / f"{kind}.schema.json").read_text("utf-8")) for kind in ("circuit", "derived"))


def saved(circuit: pc.Circuit, folder: Path) -> dict[str, Any]:
    pc.save(circuit, folder)
    return json.loads((folder / "circuit.json").read_bytes())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("structure, inputs", [("rat", "mixed"), ("chow_liu", "categorical"), ("hmm", "categorical")])
def test_what_is_saved_follows_the_schema(tmp_path: Path, structure: str, layer: str, inputs: str) -> None:
    circuit = testing.example_circuit(structure, layer, inputs, weights="sparse", num_variables=4)
    assert fits(saved(circuit, tmp_path), SCHEMA, SCHEMA)


def test_joint_inputs_and_signed_circuits_follow_it(tmp_path: Path) -> None:
    graph = pc.structures.grouped(pc.structures.binary_tree(2), [[0, 2], [1, 3]])
    joint = pc.Circuit(graph, pc.MultivariateGaussian(2), num_units=2, seed=0)
    tree = pc.Circuit(graph, pc.ChowLiuTree((-1, 0), 3), num_units=2, seed=0)
    signed, other = (
        pc.SignedCircuit(pc.structures.chain(2), pc.PerSample(pc.Gaussian()), num_units=2, seed=0, dtype=dtype)
        for dtype in (torch.float64, torch.complex128)
    )
    for n, circuit in enumerate((joint, tree, signed, other)):
        assert fits(saved(circuit, tmp_path / str(n)), SCHEMA, SCHEMA)


def test_derived_circuits_follow_theirs(tmp_path: Path) -> None:
    hmm, gaussian = pc.HMM(2, 3, 3, seed=0), testing.example_circuit(inputs="gaussian")
    product = pc.multiply(hmm, pc.HMM(2, 3, 3, seed=1))
    made = [pc.marginalize(product, [2, 0]), pc.condition(hmm, {1: 2}), pc.differentiate(gaussian, 0), pc.square(hmm)]
    made.append(pc.mixture([hmm, product.sources[1]], [1.0, 0.0]))
    made.append(pc.square(pc.SignedCircuit(hmm.graph, pc.Categorical(3), num_units=2, seed=0, dtype=torch.complex64)))
    known = {key: value for key, value in SCHEMA.items() if key != "required"}
    for n, circuit in enumerate(made):
        stored = saved(circuit, tmp_path / str(n))
        assert fits(stored, DERIVED, DERIVED) and not fits(stored, SCHEMA, SCHEMA)
        assert all(fits(part, known, SCHEMA) for part in stored["parts"])
        for key, value in {"steps": [{"operation": "add", "sources": [0]}], "parts": [], "more": 1}.items():
            assert not fits(stored | {key: value}, DERIVED, DERIVED)
    assert DERIVED["properties"]["format"]["const"] == pc.io.folder.DERIVED
    assert [entry["$ref"].split("/")[-1] for entry in DERIVED["properties"]["steps"]["items"]["anyOf"]] == list(
        OPERATIONS
    )


def test_its_choices_are_the_librarys() -> None:
    fields = SCHEMA["properties"]
    assert fields["layer"]["enum"] == fields["graph"]["properties"]["default_layer"]["enum"] == list(LAYERS)
    assert fields["class"]["enum"] == list(CLASSES)
    assert fields["version"]["const"] == pc.io.folder.VERSION and fields["format"]["const"] == pc.io.folder.FORMAT


CHANGES = [
    ("version", 2), ("class", "Other"), ("dtype", "float16"), ("num_units", 0), ("num_units", True), ("layer", "dense"),
    ("families", []), ("families", [{}]), ("inputs", []), ("inputs", [-1]), ("inputs", [0.0]), ("ties", {"sum": {}}),
    ("ties", {"sum": {"a": [None]}, "input": {}}), ("graph", {}), ("tensors", {}), ("checksum", "0"), ("more", 1),
]  # fmt: skip


@pytest.mark.parametrize("key, value", CHANGES)
def test_what_load_refuses_the_schema_refuses(tmp_path: Path, key: str, value: Any) -> None:
    stored = saved(testing.example_circuit(num_variables=2), tmp_path)
    changed = copy.deepcopy(stored) | {key: value}
    assert fits(stored, SCHEMA, SCHEMA) and not fits(changed, SCHEMA, SCHEMA)
    changed["checksum"] = pc.io.folder._checksum({k: v for k, v in changed.items() if k != "checksum"})
    (tmp_path / "circuit.json").write_text(json.dumps(changed if key != "checksum" else changed | {key: value}))
    with pytest.raises(pc.FormatError):
        pc.load(tmp_path)
