"""Files are written whole or not at all, and what is not whole is not read."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

import pcircuits as pc
from pcircuits import files


def test_tensors_and_text_come_back(tmp_path: Path) -> None:
    x = torch.arange(12.0).view(3, 4)
    tensors = {"x": x, "transposed": x.T, "number": torch.tensor(2), "none": torch.zeros(0, 3)}
    tensors |= {"complex": torch.complex(x, -x).T.conj(), "one": torch.tensor(2j)}
    sha256 = files.write_safetensors(tmp_path / "new" / "x.safetensors", tensors, {"a": "b"})
    found = files.read_safetensors(tmp_path / "new" / "x.safetensors", sha256=sha256)
    assert found.metadata == {"a": "b"} and found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_what_is_not_whole_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.write_safetensors(path, {"x": torch.ones(5)})
    content = path.read_bytes()
    for size in (0, 4, 8, 30, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(pc.FormatError, match="not a whole safetensors file"):
            files.read_safetensors(path)
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(pc.FormatError, match="SHA-256"):
        files.read_safetensors(path, sha256="0" * 64)
    with pytest.raises(pc.FormatError, match="cannot be read"):
        files.read_safetensors(tmp_path / "absent")


@pytest.mark.parametrize("pairs", ["5", "null", '"x"', "[[1]]", '["absent"]', '["x"]', "{"])
def test_complex_tensors_are_named_pairs_of_numbers(pairs: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"x": torch.ones(3)}, path, {"complex": pairs})
    with pytest.raises(pc.FormatError, match="not a whole safetensors file"):
        files.read_safetensors(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write_atomically(path, b"old")

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
