"""What holds for a head on every backbone, under every coupling and modulation."""

import itertools
from typing import NamedTuple

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits_diffusion.backbone import Prediction, predict
from pcircuits_diffusion.coupling import COUPLINGS, CoupledPosterior
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.modulation import MODULATIONS
from tests.diffusion.backbones.conftest import LENGTH, NATIVE, PROMPT, STAND_INS, Case, build

BLOCK = slice(PROMPT + 1, LENGTH)  # three positions, of which the middle one is observed in the first row
HIDDEN_OPTIONS = {"width": 8, "blocks": 2}
FAMILIES = [name for name in (*STAND_INS, *NATIVE) if "," not in name]  # without those that differ in padding or time
CASES = list(itertools.product(COUPLINGS, MODULATIONS))


class Asked(NamedTuple):
    """A backbone's predictions of a block, and every completion of its open positions, one list a row."""

    case: Case
    tokens: torch.Tensor
    mask: torch.Tensor
    predicted: Prediction
    worlds: list[torch.Tensor]

    @property
    def has_hidden(self) -> bool:
        return self.predicted.hidden is not None

    def law(self, distribution: CoupledPosterior, row: int) -> torch.Tensor:
        """Probabilities of all completions of a row."""
        worlds = self.worlds[row].unsqueeze(1).expand(-1, len(self.tokens), -1)
        return distribution.posterior.log_prob(worlds)[:, row].exp()


@pytest.fixture(scope="module", params=FAMILIES)
def asked(request: pytest.FixtureRequest, folders: dict) -> Asked:
    """Two rows: one with two open positions in the block, one with two others."""
    torch.manual_seed(0)
    case = build(request.param, folders)
    backbone = case.backbone
    tokens = torch.randint(4, 10, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, False, True], [False, True, True]])
    tokens[:, BLOCK] = torch.where(mask, backbone.mask_id, tokens[:, BLOCK])
    with torch.no_grad():
        predicted = predict(backbone, tokens, hidden=hasattr(backbone, "hidden"), span=BLOCK)
    values = torch.arange(backbone.vocab_size)
    worlds = []
    for row in range(2):
        pairs = torch.cartesian_prod(values, values)
        block = tokens[row, BLOCK].repeat(len(pairs), 1)
        block[:, mask[row]] = pairs
        worlds.append(block)
    return Asked(case, tokens[:, BLOCK], mask, Prediction(predicted.log_marginals.double(), predicted.hidden), worlds)


def prior(asked: Asked, *, uniform: bool = False) -> pc.HMM:
    size = asked.case.backbone.vocab_size
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4,), (4, 4), (4, size))]
    return pc.HMM.from_probs(*((0 * w if uniform else 2 * w).softmax(-1) for w in weights), length=3)


def head(asked: Asked, coupling: str, modulation: str, *, disturbed: bool, uniform: bool = False) -> CoupledHead:
    options = {}
    if modulation != "none":
        if not asked.has_hidden:
            pytest.skip("this family has no hidden states")
        size = asked.predicted.hidden.shape[-1]
        options = {"modulation": modulation, "hidden_size": size, "modulation_options": HIDDEN_OPTIONS}
    found = CoupledHead(prior(asked, uniform=uniform), coupling=coupling, **options).double()
    if disturbed and found.modulation is not None:
        generator = torch.Generator().manual_seed(2)
        torch.nn.init.normal_(found.modulation.contract.weight, std=2.0, generator=generator)
    return found.requires_grad_(False)


@pytest.mark.parametrize(("coupling", "modulation"), CASES)
def test_p_hat_sums_to_one_and_its_samples_follow_it(asked: Asked, coupling: str, modulation: str) -> None:
    distribution = head(asked, coupling, modulation, disturbed=True)(*asked.predicted, asked.tokens, asked.mask)
    drawn = distribution.sample(1000, generator=torch.Generator().manual_seed(0))
    assert (drawn == asked.tokens)[:, ~asked.mask].all()
    size = asked.case.backbone.vocab_size
    for row in range(2):
        law = asked.law(distribution, row)
        assert abs(float(law.sum()) - 1) < 1e-9
        first, second = drawn[:, row, asked.mask[row]].T
        counts = torch.bincount(first * size + second, minlength=size**2).double()
        assert testing.p_value(counts, law) > 1e-5
        assert testing.p_value(counts, asked.law(distribution, row).flip(0)) < 1e-5, "the test tells laws apart"
    for never in asked.case.never:
        assert not (drawn[:, asked.mask] == never).any()


@pytest.mark.parametrize(("coupling", "modulation"), CASES)
def test_a_uniform_circuit_reproduces_the_backbone(asked: Asked, coupling: str, modulation: str) -> None:
    coupled = head(asked, coupling, modulation, disturbed=True, uniform=True)
    distribution = coupled(*asked.predicted, asked.tokens, asked.mask)
    alone = asked.predicted.log_marginals.exp()
    assert (distribution.marginals() - alone)[asked.mask].abs().max() < 1e-6
    for row in range(2):
        first, second = alone[row, asked.mask[row]]
        assert (asked.law(distribution, row) - torch.outer(first, second).flatten()).abs().max() < 1e-6


@pytest.mark.parametrize(("coupling", "modulation"), [case for case in CASES if case[1] != "none"])
def test_a_new_modulation_is_none(asked: Asked, coupling: str, modulation: str) -> None:
    plain, new = (head(asked, coupling, kind, disturbed=False) for kind in ("none", modulation))
    for row in range(2):
        laws = [asked.law(h(*asked.predicted, asked.tokens, asked.mask), row) for h in (plain, new)]
        assert torch.allclose(*laws, atol=1e-12)


@pytest.mark.parametrize("modulation", list(MODULATIONS))
def test_projected_to_convergence_has_the_backbones_marginals(asked: Asked, modulation: str) -> None:
    coupled = head(asked, "projected", modulation, disturbed=True)
    coupled.tolerance, coupled.sweeps = 1e-4, 500
    distribution = coupled(*asked.predicted, asked.tokens, asked.mask)
    difference = distribution.marginals() - asked.predicted.log_marginals.exp()
    assert float(0.5 * difference.abs().sum(-1)[asked.mask].max()) <= 1e-4
    assert distribution.marginal_gap().max() <= 1e-4


def test_modulations_of_a_backbone_without_hidden_states_are_refused(asked: Asked) -> None:
    if asked.has_hidden:
        pytest.skip("this family has hidden states")
    with pytest.raises(pc.ParameterError, match="has no hidden states"):
        predict(asked.case.backbone, asked.tokens, hidden=True)
