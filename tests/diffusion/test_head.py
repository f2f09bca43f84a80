"""What a head refuses, and marginals that it cannot reach."""

import pytest
import torch

import pcircuits as pc
from pcircuits import testing
from pcircuits_diffusion.coupling import COUPLINGS
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.joint_training import train_jointly
from pcircuits_diffusion.training import Objective, train_head
from tests.diffusion.tiny_models import LENGTH, VOCAB, hmm, transformer

TOKENS = torch.zeros(2, LENGTH, dtype=torch.long)
MASK = torch.tensor([[True, False, True, True], [True] * LENGTH])
LOGITS = torch.zeros(2, LENGTH, VOCAB)


def spoilt(value: float) -> torch.Tensor:
    """At one masked position of the second row."""
    logits = LOGITS.clone()
    logits[1, 2, slice(None) if value == -torch.inf else 0] = value
    return logits


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"logits": torch.zeros(2, LENGTH, 5)},
            pc.ShapeError,
            r"\(B, 4, 3\) for this head's block.*5\)",
        ),
        (
            {"logits": torch.zeros(2, 6, VOCAB)},
            pc.ShapeError,
            r"\(B, 4, 3\) for this head's block.*6, 3",
        ),
        ({"logits": torch.zeros(LENGTH, VOCAB)}, pc.ShapeError, "`logits` must have shape"),
        ({"tokens": TOKENS[:1]}, pc.ShapeError, r"`tokens` must have shape \(2, 4\), got \(1, 4\)"),
        ({"mask": MASK[:, :3]}, pc.ShapeError, r"`mask` must have shape \(2, 4\), got \(2, 3\)"),
        ({"mask": MASK.long()}, pc.ShapeError, "`mask` must be bool"),
        ({"logits": spoilt(torch.nan)}, pc.EvidenceError, r"NaN, \+inf, or exclude every token .* rows \[1\]"),
        ({"logits": spoilt(torch.inf)}, pc.EvidenceError, r"NaN, \+inf, or exclude every token .* rows \[1\]"),
        ({"logits": spoilt(-torch.inf)}, pc.EvidenceError, r"NaN, \+inf, or exclude every token .* rows \[1\]"),
    ],
)
def test_bad_input_is_refused(coupling: str, change: dict, error: type[Exception], message: str) -> None:
    inputs = {"logits": LOGITS, "hidden_states": None, "tokens": TOKENS, "mask": MASK, **change}
    with pytest.raises(error, match=message):
        CoupledHead(hmm(), coupling=coupling)(**inputs)


def test_what_is_not_masked_is_not_read() -> None:
    logits = LOGITS.clone()
    logits[0, 1] = torch.nan
    tokens = torch.where(MASK, -7, TOKENS)
    found = CoupledHead(hmm())(logits, None, tokens, MASK).marginals()
    assert torch.equal(found, CoupledHead(hmm())(LOGITS, None, TOKENS, MASK).marginals())


@pytest.mark.parametrize("kind", ["hmm", "tree"])
def test_marginals_that_the_support_excludes_are_refused_where_they_are_to_be_reached(kind: str) -> None:
    """The last token is impossible everywhere, and likely for the backbone."""
    if kind == "hmm":
        emission = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]])
        prior: pc.Circuit = pc.HMM.from_probs(torch.full((2,), 0.5), torch.full((2, 2), 0.5), emission, length=LENGTH)
    else:
        prior = testing.example_circuit("hclt", "cp-t", num_variables=LENGTH, num_units=2)
        for _, group in prior.named_groups():
            if hasattr(group, "family"):
                shape = group.get_parameter("logits").shape
                group.restrict((torch.arange(VOCAB) != 2).expand(shape).clone())
    logits = LOGITS.clone()
    logits[..., 2] = 1.0
    with pytest.raises(pc.EvidenceError, match="excludes in batch rows"):
        CoupledHead(prior, tolerance=1e-4, sweeps=50)(logits, None, TOKENS, MASK)
    found = CoupledHead(prior)(logits, None, TOKENS, MASK)
    assert (found.marginals()[MASK][:, 2] == 0).all() and found.marginal_gap().min() > 0.4, "one sweep gives it up"


@pytest.mark.parametrize("jointly", [False, True])
def test_conditioned_training_resumes_bit_by_bit(jointly: bool, tmp_path) -> None:
    windows = hmm(length=LENGTH + 2).sample(64, generator=torch.Generator().manual_seed(1))
    stop_at: list[int] = []

    def run(folder, **options) -> list[torch.Tensor]:
        backbone = transformer(VOCAB, LENGTH)
        torch.manual_seed(0)
        head = CoupledHead(
            hmm().float(),
            coupling="corrected",
            modulation="parameter",
            hidden_size=16,
            modulation_options={"blocks": 2},
        )
        train = train_jointly if jointly else train_head
        common = {"checkpoint": folder, "checkpoint_every": 1, "batch_size": 16, "epochs": 2, "seed": 4}
        train(head, backbone, windows, progress=False, **common, **options)
        return [p.detach() for p in (*head.parameters(), *backbone.parameters())]

    original = Objective.of

    def counted(self, distribution, tokens):
        if stop_at and stop_at.append(1) is None and len(stop_at) == 5:
            raise KeyboardInterrupt
        return original(self, distribution, tokens)

    expected = run(tmp_path / "whole")
    stop_at.append(0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "of", counted)
        run(tmp_path / "part")
    found = run(tmp_path / "part", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
