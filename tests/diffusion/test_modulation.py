"""Heads conditioned on hidden states: still exact distributions, equal to the unconditioned head at their start."""

import itertools

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits_diffusion.backbone import Prediction
from pcircuits_diffusion.coupling import COUPLINGS
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.joint_training import train_jointly
from pcircuits_diffusion.model import CoupledDiffusion
from pcircuits_diffusion.modulation import MODULATIONS
from pcircuits_diffusion.training import Objective, train_head
from tests.diffusion.tiny_models import LENGTH, MASK, VOCAB, all_blocks, table_backbone, transformer, uniform_prior
from tests.diffusion.tiny_models import hmm as tiny_hmm

HIDDEN = 5
CASES = list(itertools.product(COUPLINGS, [name for name in MODULATIONS if name != "none"], ["hmm", "tree"]))


def prior_of(kind: str) -> pc.Circuit:
    if kind == "hmm":
        return tiny_hmm(num_states=4)
    return testing.example_circuit("hclt", "cp-t", num_variables=LENGTH, num_units=4, dtype=torch.float64)


def head_of(kind: str, coupling: str, modulation: str, *, disturbed: bool) -> CoupledHead:
    """Disturbed: with potentials of several nats."""
    head = CoupledHead(
        prior_of(kind),
        coupling=coupling,
        modulation=modulation,
        hidden_size=HIDDEN,
        modulation_options={"width": 8, "blocks": 2},
    )
    if disturbed:
        assert head.modulation is not None
        torch.manual_seed(1)
        torch.nn.init.normal_(head.modulation.contract.weight, std=2.0)
        torch.nn.init.normal_(head.modulation.contract.bias, std=1.0)
    return head.double().requires_grad_(False)


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, hidden states, tokens and a mask; the last row is fully masked."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, LENGTH, VOCAB, generator=generator, dtype=torch.float64)
    hidden = torch.randn(batch, LENGTH, HIDDEN, generator=generator, dtype=torch.float64)
    tokens = torch.randint(VOCAB, (batch, LENGTH), generator=generator)
    mask = torch.rand(batch, LENGTH, generator=generator) < 0.6
    mask[-1], mask[0, 0], mask[0, 1] = True, True, False
    return logits, hidden, tokens, mask


def law(head: CoupledHead, *arguments: torch.Tensor) -> torch.Tensor:
    """(B, V^L) probabilities of all blocks."""
    blocks = all_blocks()
    with torch.no_grad():
        posterior = head(*arguments).posterior
        return posterior.log_prob(blocks.unsqueeze(1).expand(-1, len(arguments[0]), -1)).exp().T


@pytest.mark.parametrize(("coupling", "modulation", "kind"), CASES)
def test_a_new_head_is_the_unconditioned_one(coupling: str, modulation: str, kind: str) -> None:
    plain = CoupledHead(prior_of(kind), coupling=coupling).double()
    found = law(head_of(kind, coupling, modulation, disturbed=False), *inputs())
    assert torch.allclose(found, law(plain, *inputs()), atol=1e-12)


@pytest.mark.parametrize(("coupling", "modulation", "kind"), CASES)
def test_it_is_a_distribution_and_its_samples_follow_it(coupling: str, modulation: str, kind: str) -> None:
    head = head_of(kind, coupling, modulation, disturbed=True)
    found = law(head, *inputs())
    assert torch.allclose(found.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-10)
    plain = law(CoupledHead(prior_of(kind), coupling=coupling).double(), *inputs())
    assert (found - plain).abs().sum(-1).max() > 0.01, "the hidden states say something"
    posterior = head(*inputs())
    oracle = testing.Enumeration(head.prior, posterior.evidence)
    assert torch.allclose(found, oracle.probabilities, atol=1e-10)
    samples = posterior.sample(2000, generator=torch.Generator().manual_seed(0))
    assert min(testing.sample_p_values(samples, oracle)) > 1e-4


@pytest.mark.parametrize(("coupling", "modulation"), list(itertools.product(COUPLINGS, ["latent", "parameter"])))
def test_a_uniform_circuit_reproduces_the_backbone(coupling: str, modulation: str) -> None:
    head = CoupledHead(
        uniform_prior(), coupling=coupling, modulation=modulation, hidden_size=HIDDEN, modulation_options={"blocks": 2}
    )
    assert head.modulation is not None
    torch.nn.init.normal_(head.modulation.contract.weight)
    logits, hidden, tokens, mask = inputs()
    marginals = head.double()(logits, hidden, tokens, mask).marginals()
    assert (marginals - logits.softmax(-1))[mask].abs().max() < 1e-6


@pytest.mark.parametrize(("modulation", "kind"), list(itertools.product(["latent", "parameter"], ["hmm", "tree"])))
def test_projected_to_convergence_has_the_backbones_marginals(modulation: str, kind: str) -> None:
    head = head_of(kind, "projected", modulation, disturbed=True)
    head.tolerance, head.sweeps = 1e-8, 400
    distribution = head(*inputs())
    assert distribution.marginal_gap().max() <= 1e-8
    head.tolerance, head.sweeps = 1e-12, 2
    with pytest.warns(UserWarning, match="stopped at its cap of 2 sweeps"):
        head(*inputs())


def test_exponents_follow_the_mask_ratio() -> None:
    head = CoupledHead(tiny_hmm(), coupling="product", learn_exponents=3)
    with torch.no_grad():
        head.exponents[0] = torch.tensor([0.5, 1.0, 3.0])
    logits, _, tokens, _ = inputs(1)
    for masked, exponent in {1: 0.75, 2: 1.0, 3: 2.0, 4: 3.0}.items():
        mask = torch.arange(LENGTH).unsqueeze(0) < masked
        found = head(logits, None, tokens, mask).posterior.evidence.log_weights[mask]
        assert torch.allclose(found, exponent * logits.log_softmax(-1)[mask], atol=1e-6)


# --- learning ---


class Announced(torch.nn.Module):
    """A backbone that knows frequencies alone, but whose hidden states say whether the block's tokens agree or differ:
    the first token of a window says it.
    """

    vocab_size, mask_id = VOCAB, MASK

    def predict(self, tokens: torch.Tensor, *, valid=None, span: slice) -> Prediction:
        said = torch.nn.functional.one_hot(tokens[:, 0], HIDDEN).float()
        shape = (len(tokens), span.stop - span.start)
        return Prediction(torch.full((*shape, VOCAB), 1 / VOCAB).log(), said.unsqueeze(1).expand(*shape, HIDDEN))

    def log_marginals(self, tokens: torch.Tensor, *, valid=None, span: slice) -> torch.Tensor:
        return self.predict(tokens, span=span).log_marginals


def announced_windows(count: int = 256) -> torch.Tensor:
    """0 and then one token four times, or 1 and then two tokens by turns."""
    generator = torch.Generator().manual_seed(0)
    kind, first = (torch.randint(2, (count,), generator=generator) for _ in range(2))
    steps = torch.arange(LENGTH)
    block = (first.unsqueeze(1) + kind.unsqueeze(1) * steps) % 2
    return torch.cat([kind.unsqueeze(1), block], 1)


@pytest.mark.parametrize("coupling", ["projected", "corrected"])
def test_hidden_states_tell_what_no_single_circuit_can(coupling: str) -> None:
    windows, losses = announced_windows(), {}
    for modulation in ("none", "parameter"):
        prior = pc.HMM.from_probs(
            torch.full((2,), 0.5),
            torch.full((2, 2), 0.5),
            torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]),
            length=LENGTH,
        )
        torch.manual_seed(0)
        head = CoupledHead(
            prior,
            coupling=coupling,
            modulation=modulation,
            hidden_size=HIDDEN if modulation != "none" else None,
            modulation_options={"blocks": 2, "width": 8} if modulation != "none" else None,
        )
        history = train_head(
            head,
            Announced(),
            windows,
            valid=windows[:64],
            seed=0,
            epochs=12,
            learner=pc.Adam(lr=0.1),
            objective=Objective(penalty=1e-4),
            progress=False,
        )
        losses[modulation] = history.valid_loss[-1]
    assert losses["parameter"] < losses["none"] - 0.1


def test_head_and_backbone_train_together() -> None:
    torch.manual_seed(0)
    backbone = transformer(vocab=VOCAB, block_length=LENGTH)
    head = CoupledHead(
        tiny_hmm().float(), modulation="latent", hidden_size=16, coupling="corrected", modulation_options={"blocks": 1}
    )
    before = [p.clone() for p in backbone.parameters()]
    windows = announced_windows(128)
    history = train_jointly(
        head, backbone, windows, valid=windows[:32], seed=0, epochs=3, learner=pc.Adam(lr=0.01), progress=False
    )
    assert history.valid_loss[-1] < history.initial_valid_loss - 0.05
    assert any(not torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


def test_a_penalty_keeps_potentials_small() -> None:
    windows, sizes = announced_windows(128), []
    for penalty in (0.0, 10.0):
        torch.manual_seed(0)
        head = CoupledHead(
            tiny_hmm().float(), modulation="latent", hidden_size=HIDDEN, modulation_options={"blocks": 1}
        )
        options = {"seed": 0, "epochs": 4, "learner": pc.Adam(lr=0.05), "progress": False}
        train_head(head, Announced(), windows, objective=Objective(penalty=penalty), **options)
        found = Announced().predict(windows, span=slice(1, 1 + LENGTH))
        mask = torch.ones(len(windows), LENGTH, dtype=torch.bool)
        with torch.no_grad():
            sizes.append(head(*found, windows[:, 1:], mask).potentials.penalty().mean().item())
    assert sizes[1] < 0.5 * sizes[0]


# --- use ---


def test_a_modulated_model_generates_and_comes_back_as_it_was(tmp_path) -> None:
    backbone = transformer(vocab=VOCAB, block_length=LENGTH)
    head = CoupledHead(
        tiny_hmm().float(), modulation="parameter", hidden_size=16, modulation_options={"blocks": 2, "width": 4}
    )
    assert head.modulation is not None
    torch.nn.init.normal_(head.modulation.contract.weight)
    model = CoupledDiffusion(backbone, head)
    model.save_pretrained(tmp_path)
    again = CoupledDiffusion.from_pretrained(tmp_path, backbone=backbone)
    assert again.head is not None and again.head.options == head.options
    options = {"max_new_tokens": 2 * LENGTH, "steps": 4, "seeds": [3, 4]}
    tokens = model.generate([[1], [2, 0]], **options).tokens
    assert again.generate([[1], [2, 0]], **options).tokens.equal(tokens)
    alone = model.generate([[2, 0]], **{**options, "seeds": [4]}).tokens
    assert alone[0].equal(tokens[1]), "a row alone equals that row in the batch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modulation": "hidden"}, "`modulation` must be one of none, latent, parameter; got 'hidden'"),
        ({"modulation": "latent"}, "needs `hidden_size`"),
        ({"modulation": "parameter", "hidden_size": 4, "modulation_options": {"blocks": 3}}, "must divide"),
        ({"modulation": "latent", "hidden_size": 4, "modulation_options": {"width": 0}}, "`width` must be"),
        ({"tolerance": 0.0}, "`tolerance` must be positive"),
        ({"learn_exponents": -1}, "`learn_exponents`"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(pc.ParameterError, match=message):
        CoupledHead(tiny_hmm(num_states=4), **options)


def test_missing_or_misshapen_hidden_states_are_refused() -> None:
    head = head_of("hmm", "projected", "latent", disturbed=False)
    logits, hidden, tokens, mask = inputs()
    with pytest.raises(pc.ParameterError, match="give `hidden_states`"):
        head(logits, None, tokens, mask)
    with pytest.raises(pc.ShapeError, match=r"`hidden_states` must have shape \(3, 4, 5\), got \(3, 4, 4\)"):
        head(logits, hidden[..., :4], tokens, mask)


def test_a_backbone_without_hidden_states_is_refused() -> None:
    head = CoupledHead(tiny_hmm(), modulation="latent", hidden_size=4, modulation_options={"blocks": 1})
    with pytest.raises(pc.ParameterError, match="CallableBackbone has no hidden states"):
        CoupledDiffusion(table_backbone(), head).generate([1], max_new_tokens=4, steps=2)
    with pytest.raises(pc.ParameterError, match=r"`backbone` must be a torch\.nn\.Module"):
        train_jointly(head, table_backbone(), announced_windows(), seed=0)
