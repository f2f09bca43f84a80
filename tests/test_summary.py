"""What `print` says of every kind of circuit."""

import re

import pytest
import torch

import pcircuits as pc
from pcircuits import learning, structures, testing

CIRCUITS = {
    "mixed": lambda: testing.example_circuit("rat", "cp", "mixed", num_variables=6),
    "hmm": lambda: pc.HMM(3, 4, 5, seed=0),
    "chow_liu": lambda: testing.example_circuit("chow_liu", "cp-t"),
    "square": lambda: pc.square(pc.SignedCircuit(structures.factorized(2), pc.Gaussian(), num_units=3, seed=0)),
    "signed": lambda: pc.SignedCircuit(structures.factorized(2), pc.Gaussian(), num_units=3, seed=0),
    "marginal": lambda: pc.marginalize(pc.HMM(3, 4, 5, seed=0), [1, 3]),
}


@pytest.mark.parametrize("name", CIRCUITS)
def test_lines_are_aligned_and_true(name: str) -> None:
    circuit = CIRCUITS[name]()
    title, *lines = str(circuit).splitlines()
    assert title == type(circuit).__name__ and len(lines) in (5, 6)
    assert len({re.match(r"  \w+ +", line).end() for line in lines}) == 1  # type: ignore[union-attr]
    assert f"{circuit.num_parameters:,} in {str(circuit.dtype)[6:]} on cpu" in str(circuit)
    assert f"variables   {circuit.num_variables}: " in str(circuit)
    assert f"{len(circuit.graph.regions)} regions" in str(circuit)
    structured = "not structured-decomposable" in str(circuit)
    assert structured != pc.check(circuit).structured_decomposable


def test_determinism_is_what_check_says_or_left_to_it() -> None:
    assert ", deterministic" in str(CIRCUITS["chow_liu"]())
    assert "not deterministic" in str(CIRCUITS["hmm"]())
    for left in (CIRCUITS["mixed"](), pc.HMM(600, 2, 2, seed=0)):
        assert "determinism: see pcircuits.check" in str(left)


def test_masks_and_memory() -> None:
    hmm = pc.HMM(8, 4, 6, seed=0)
    assert "416 B" in str(hmm) and "masks" not in str(hmm)
    found = learning.prune(hmm, hmm.sample(50, generator=torch.Generator().manual_seed(0)), share=0.5)
    left = found.kept / (found.kept + found.removed)
    assert f"with masks, which leave {left:.0%} of what they cover" in str(hmm)


def test_what_a_kind_adds() -> None:
    assert "steps       5 of 3 states and 4 values" in str(CIRCUITS["hmm"]())
    assert "from SignedCircuit, sharing all parameters" in str(CIRCUITS["square"]())
    assert "no distribution" in str(CIRCUITS["signed"]())
    many = [pc.Categorical(n) for n in range(2, 9)]
    assert "and 3 of other families" in str(pc.Circuit(structures.chain(7), many, num_units=2, seed=0))
