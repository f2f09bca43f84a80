"""`docs/circuit.schema.json` describes what `save` writes, and no more than `load` reads."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import pcircuits as pc
from pcircuits import testing
from pcircuits.folding import LAYERS
from pcircuits.io.description import CLASSES
from tests.json_schema import fits

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "docs" / "circuit.schema.json").read_text(encoding="utf-8"))


def saved(circuit: pc.Circuit, folder: Path) -> dict[str, Any]:
    pc.save(circuit, folder)
    return json.loads((folder / "circuit.json").read_bytes())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("structure, inputs", [("rat", "mixed"), ("chow_liu", "categorical"), ("hmm", "categorical")])
def test_what_is_saved_follows_the_schema(tmp_path: Path, structure: str, layer: str, inputs: str) -> None:
    circuit = testing.example_circuit(structure, layer, inputs, weights="sparse", num_variables=4)
    assert fits(saved(circuit, tmp_path), SCHEMA, SCHEMA)


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
