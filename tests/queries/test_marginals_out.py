"""Marginals that are written over what an earlier call returned."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.distributions import discrete


@pytest.mark.parametrize("kind", ["observed", "missing", "hard", "mixed", "spread"])
@pytest.mark.parametrize("structure", ["rat", "quad_graph", "hmm", "chow_liu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_they_are_those_of_new_memory(structure: str, kind: str, dtype: torch.dtype) -> None:
    circuit = testing.example_circuit(structure, "cp-t", "categorical", weights="peaked", dtype=dtype, seed=1)
    evidence = testing.example_evidence(circuit, kind, batch=20, seed=2)
    posterior = circuit.condition(evidence)
    want = posterior.marginals()
    as_returned = circuit.condition(evidence).marginals()
    contiguous = torch.empty(as_returned.shape, dtype=as_returned.dtype)
    for room in (as_returned, contiguous):
        room.fill_(torch.nan)
        found = posterior.marginals(out=room)
        assert found.data_ptr() == room.data_ptr() and torch.equal(found, want)


@torch.no_grad()
def test_products_are_written_there_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = testing.example_circuit("binary_tree", "cp", "categorical", seed=0)
    evidence = testing.example_evidence(circuit, "hard", batch=2, seed=2)
    room = circuit.condition(evidence).marginals()
    written = []
    product = discrete.dense_sum.linear_sum

    def watched(weights, values, *, out):
        written.append(out.data_ptr())
        return product(weights, values, out=out)

    posterior = circuit.condition(evidence)
    monkeypatch.setattr(discrete.dense_sum, "linear_sum", watched)
    posterior.marginals(out=room)
    assert room.data_ptr() in written


def test_squares_write_theirs_too() -> None:
    signed = pc.SignedCircuit(pc.structures.binary_tree(3), pc.Categorical(2), num_units=2, seed=0)
    square = pc.square(signed)
    evidence = pc.Evidence(torch.zeros(2, 3, dtype=torch.long), observed=torch.tensor([[True, False, False]] * 2))
    with torch.no_grad():
        want = square.condition(evidence).marginals()
        room = torch.full_like(want, torch.nan)
        assert square.condition(evidence).marginals(out=room).data_ptr() == room.data_ptr()
    assert torch.equal(room, want)


@pytest.mark.parametrize(
    "room",
    [
        torch.empty(2, 4, 2),
        torch.empty(2, 4, 3, dtype=torch.float64),
        torch.empty(2, 4, 3, device="meta"),
    ],
    ids=["shape", "dtype", "device"],
)
def test_room_that_does_not_fit_is_refused(room: torch.Tensor) -> None:
    circuit = testing.example_circuit("binary_tree", "cp", "categorical", seed=0).requires_grad_(False)
    evidence = testing.example_evidence(circuit, "hard", batch=2)
    with pytest.raises(pc.ShapeError, match=r"`out` must be \(2, 4, 3\) of torch.float32 on cpu"):
        circuit.condition(evidence).marginals(out=room)


def test_gradients_and_lists_are_refused() -> None:
    circuit = testing.example_circuit("binary_tree", "cp", "categorical", seed=0)
    evidence = testing.example_evidence(circuit, "hard", batch=2)
    with pytest.raises(pc.StructureError, match="gradient"):
        circuit.condition(evidence).marginals(out=torch.empty(2, 4, 3))
    mixed = testing.example_circuit("binary_tree", "cp", "mixed", seed=0).requires_grad_(False)
    with pytest.raises(pc.StructureError, match="equally many values"):
        mixed.condition(testing.example_evidence(mixed, "hard", batch=2)).marginals(out=torch.empty(2, 4, 3))
