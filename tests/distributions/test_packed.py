"""Conditionals of the unobserved samples alone, packed side by side, are those of all samples."""

import pytest
import torch

import pcircuits as pc
from pcircuits.distributions import discrete, packed
from pcircuits.distributions.packed import pack, spread_packed
from pcircuits.workspace import Fresh


@pytest.mark.parametrize("part", [1, 700, 1 << 20])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_what_is_packed_is_spread_and_all_else_is_zero(
    share: float, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_PART", part)
    generator = torch.Generator().manual_seed(0)
    flows, table = torch.rand(5, 7, 3, generator=generator), torch.rand(5, 11, 3, generator=generator)
    weights, missing = torch.rand(5, 7, generator=generator), torch.rand(5, 7, generator=generator) < share
    out = torch.full((5, 7, 11), torch.nan)
    done = list(spread_packed(flows, weights, table, pack(missing), Fresh(), out))
    assert [row for s in done for row in range(s.start, s.stop)] == list(range(5))
    expected = torch.einsum("fb,fbk,fvk->fbv", weights * missing, flows, table)
    torch.testing.assert_close(out, expected)


def test_places_are_counted_from_one() -> None:
    places, samples = pack(torch.tensor([[True, False, True], [False, False, True]]))
    assert places.tolist() == [[1, 0, 2], [0, 0, 1]]
    assert samples[0].tolist() == [0, 2] and samples[1, 0] == 2


@pytest.mark.parametrize("observed", [0.25, 0.5, 0.7])
def test_marginals_are_the_same_packed_or_not(observed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = pc.structures.quad_graph(4, 4)
    circuit = pc.Circuit(graph, pc.Categorical(12), num_units=20, layer="cp", seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(12, (40, 16), generator=generator)
    seen = torch.rand(x.shape, generator=generator) < observed
    seen[:16] |= torch.eye(16, dtype=torch.bool)
    packings = []
    monkeypatch.setattr(discrete, "_PACKED", 0.1)
    monkeypatch.setattr(discrete, "pack", lambda missing: packings.append(pack(missing)) or packings[-1])
    with torch.no_grad():
        posterior = circuit.condition(pc.Evidence(x, observed=seen))
        found = posterior.marginals()
        assert len(packings) == 1
        torch.testing.assert_close(posterior.marginals(), found)
        monkeypatch.setattr(discrete, "_PACKED", 2.0)
        torch.testing.assert_close(posterior.marginals(), found)
        assert len(packings) == 2
    double = circuit.double().condition(pc.Evidence(x, observed=seen)).marginals()
    assert isinstance(double, torch.Tensor)
    torch.testing.assert_close(found.double(), double.detach(), rtol=1e-4, atol=1e-6)
