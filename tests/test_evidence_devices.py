"""Evidence on another device keeps all that it says."""

import torch

import pcircuits as pc
from pcircuits.learning.batches import as_source


def everything() -> pc.Evidence:
    values = torch.tensor([[0, 1, 1], [1, 0, 1]])
    low = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, 1.0, 0.0]])
    return pc.Evidence(
        values,
        observed=torch.tensor([[True, False, False], [False, False, True]]),
        latent=torch.zeros(2, 3, 4),
        gates=torch.zeros(2, 3, 2, 2),
        interval=(low, torch.full_like(low, torch.inf)),
        parameters={"inputs": torch.zeros(2, 3, 4, 2)},
    )


def test_every_field_moves() -> None:
    given = everything()
    moved = given.to("meta")
    assert moved.device.type == "meta"
    for name in ("values", "observed", "latent", "gates"):
        assert getattr(moved, name).is_meta and getattr(moved, name).shape == getattr(given, name).shape
    assert moved.interval is not None and moved.parameters is not None
    assert all(x.is_meta for x in (moved.interval, *moved.parameters.values()))


def test_batches_of_a_circuit_elsewhere_keep_latent_evidence() -> None:
    circuit = pc.Circuit(pc.structures.chain(3), inputs=pc.Categorical(2), num_units=4, seed=0).to("meta")
    (batch,) = as_source([everything()], circuit, likelihood=True, name="data").batches(0)
    assert batch is not None and isinstance(batch.data, pc.Evidence)
    assert batch.data.device.type == "meta" and batch.data.latent is not None and batch.data.gates is not None
