"""Samples drawn a few at a time, so that memory grows with what is returned, are the same distribution."""

import sys

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits.testing.enumeration import Enumeration

MODULE = sys.modules["pcircuits.queries.sample"]


def test_samples_in_parts_fit_the_exact_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = testing.example_circuit("rat", "cp", weights="peaked", seed=3)
    evidence = testing.example_evidence(circuit, "mixed", seed=1)
    sizes = []
    together = MODULE._together

    def counted(evaluation, n, *rest):
        sizes.append(n)
        return together(evaluation, n, *rest)

    monkeypatch.setattr(MODULE, "_CHUNK_ELEMENTS", 10_000)
    monkeypatch.setattr(MODULE, "_together", counted)
    x = circuit.condition(evidence).sample(2001, generator=torch.Generator().manual_seed(0))
    assert len(sizes) > 3 and sum(sizes) == 2001 and x.shape == (2001, 3, 4)
    assert min(testing.sample_p_values(x, Enumeration(circuit, evidence))) > 1e-6


def test_the_temporaries_of_a_draw_are_bounded() -> None:
    """Whatever n, a part draws from no more child values than the bound, or than all units have."""
    circuit = pc.Circuit(pc.structures.binary_tree(16), pc.Categorical(3), num_units=8, layer="tucker", seed=0)
    plan = circuit.plan
    rows = max(level.num_rows for level in plan.levels[1:])
    assert MODULE._widest(plan, 1) == rows
    many = MODULE._CHUNK_ELEMENTS // (8 * 64)
    assert rows * 64 == MODULE._widest(plan, many) < MODULE._CHUNK_ELEMENTS
