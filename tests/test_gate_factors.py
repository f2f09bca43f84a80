"""Gates given by factors of low rank, beside the same gates given one by one."""

import pytest
import torch

import pcircuits as pc
from pcircuits import structures, testing

BATCH, UNITS, RANK = 3, 4, 2


def example(structure: str) -> tuple[pc.Circuit, torch.Tensor, torch.Tensor]:
    """A circuit, values, and factors of which some exclude a weight."""
    circuit = testing.example_circuit(structure, "cp-t", num_units=UNITS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(3, (BATCH, 4), generator=generator)
    factors = torch.randn(BATCH, 4, 2, RANK, UNITS, generator=generator, dtype=torch.float64)
    factors[0, 0, 1, :, 1] = -torch.inf
    return circuit, values, factors


def one_by_one(factors: torch.Tensor) -> torch.Tensor:
    left, right = factors.unbind(2)
    return torch.einsum("bdro,bdrj->bdoj", left.exp(), right.exp()).log()


@pytest.mark.parametrize("structure", ["hmm", "binary_tree"])
def test_the_same_as_the_gates_that_they_make(structure: str) -> None:
    circuit, values, factors = example(structure)
    observed = torch.tensor([True, False, True, False]).expand(BATCH, 4)
    factored, dense = (
        pc.Evidence(values, observed=observed, **gates)
        for gates in ({"gate_factors": factors}, {"gates": one_by_one(factors)})
    )
    ours, theirs = circuit.condition(factored), circuit.condition(dense)
    torch.testing.assert_close(ours.log_evidence, theirs.log_evidence)
    torch.testing.assert_close(ours.marginals(), theirs.marginals())
    assert torch.equal(ours.mpe().values, theirs.mpe().values)
    torch.testing.assert_close(circuit.statistics(factored).counts, circuit.statistics(dense).counts)
    assert bool((ours.log_evidence != circuit.condition(pc.Evidence(values, observed=observed)).log_evidence).any())


def test_beside_gates_of_blocks_both_count() -> None:
    circuit, values, factors = example("hmm")
    blocks = torch.randn(BATCH, 4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = pc.Evidence(values, gates=blocks, gate_factors=factors)
    each = one_by_one(factors) + blocks.repeat_interleave(2, -1).repeat_interleave(2, -2)
    found = circuit.condition(both).log_evidence
    torch.testing.assert_close(found, circuit.condition(pc.Evidence(values, gates=each)).log_evidence)
    torch.testing.assert_close(found[1:], circuit.condition(both.rows(torch.tensor([1, 2]))).log_evidence)


def test_gradients_in_the_factors() -> None:
    circuit, values, factors = example("hmm")
    factors = factors.nan_to_num(neginf=-3.0).requires_grad_()

    def score(f: torch.Tensor) -> torch.Tensor:
        return circuit.requires_grad_(False).condition(pc.Evidence(values, gate_factors=f)).log_evidence

    assert torch.autograd.gradcheck(score, (factors,))
    assert torch.autograd.gradgradcheck(score, (factors,))


def test_factors_that_do_not_fit() -> None:
    circuit, values, factors = example("hmm")
    with pytest.raises(pc.EvidenceError, match="`gate_factors` has NaN"):
        pc.Evidence(values, gate_factors=factors.fill_(torch.nan))
    with pytest.raises(pc.ShapeError, match="`gate_factors` covers 3 units, this circuit has 4"):
        circuit.condition(pc.Evidence(values, gate_factors=torch.zeros(BATCH, 4, 2, RANK, 3)))
    tucker = pc.Circuit(structures.binary_tree(4), pc.Categorical(3), num_units=UNITS, layer="tucker")
    with pytest.raises(pc.StructureError, match="tucker"):
        tucker.condition(pc.Evidence(values, gate_factors=torch.zeros(BATCH, 4, 2, RANK, UNITS)))
