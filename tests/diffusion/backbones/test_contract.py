"""What holds for every backbone."""

import pytest
import torch

import pcircuits as pc
from pcircuits_diffusion import Backbone
from pcircuits_diffusion.backbone import predict
from tests.diffusion.backbones.conftest import LENGTH, PROMPT, Case

TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}


def test_rows_are_distributions_over_real_tokens(case: Case, tokens: torch.Tensor) -> None:
    marginals = case.backbone.log_marginals(tokens)
    assert isinstance(case.backbone, Backbone) and marginals.dtype == torch.float32
    assert marginals.shape == (3, LENGTH, case.backbone.vocab_size)
    torch.testing.assert_close(marginals.exp().sum(-1), torch.ones(3, LENGTH))
    is_never = torch.zeros(case.backbone.vocab_size, dtype=torch.bool)
    is_never[list(case.never)] = True
    assert (marginals == -torch.inf).eq(is_never).all()


def test_span_equals_part_of_all(case: Case, tokens: torch.Tensor) -> None:
    whole = case.backbone.log_marginals(tokens)
    for span in (slice(PROMPT, LENGTH), slice(6, 7), slice(0, LENGTH), slice(-3, None), slice(0, 1)):
        torch.testing.assert_close(case.backbone.log_marginals(tokens, span=span), whole[:, span], **TOLERANCE)


def test_predictions_depend_on_the_context(case: Case, tokens: torch.Tensor) -> None:
    changed = tokens.clone()
    changed[:, 2] = (tokens[:, 2] - 3) % 6 + 4
    before, after = (case.backbone.log_marginals(t, span=slice(PROMPT, LENGTH)) for t in (tokens, changed))
    assert ((before - after).nan_to_num().abs().amax((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("padding", [1, 4])
@pytest.mark.parametrize("span", [None, slice(PROMPT, LENGTH)])
def test_row_alone_equals_row_in_left_padded_batch(
    case: Case, tokens: torch.Tensor, padding: int, span: slice | None
) -> None:
    if hasattr(case.backbone, "prompt_length"):  # guidance tells the prompt by its columns
        case.backbone.prompt_length = PROMPT
    tokens[1, :padding] = 7
    valid = torch.arange(LENGTH).expand(3, LENGTH) >= torch.tensor([[0], [padding], [0]])
    batch = case.backbone.log_marginals(tokens, valid=valid, span=span)
    first = padding if span is None else PROMPT
    if hasattr(case.backbone, "prompt_length"):
        case.backbone.prompt_length = PROMPT - padding
    alone = case.backbone.log_marginals(tokens[1:2, padding:])[0, first - padding :]
    torch.testing.assert_close(batch[1, -len(alone) :], alone, **TOLERANCE)
    if hasattr(case.backbone, "prompt_length"):
        case.backbone.prompt_length = PROMPT
    others = case.backbone.log_marginals(tokens[[0, 2]], span=span)
    torch.testing.assert_close(batch[[0, 2]], others, **TOLERANCE)
    torch.testing.assert_close(batch.exp().sum(-1), torch.ones(batch.shape[:2]))


def test_hidden_states_are_what_predictions_are_made_of(case: Case, tokens: torch.Tensor) -> None:
    if not hasattr(case.backbone, "hidden"):
        pytest.skip("this family has no hidden states")
    hidden = case.backbone.hidden(tokens)
    assert hidden.shape[:2] == (3, LENGTH) and hidden.ndim == 3
    span = slice(6, 8)
    torch.testing.assert_close(case.backbone.hidden(tokens, span=span), hidden[:, span], **TOLERANCE)
    valid = torch.arange(LENGTH).expand(3, LENGTH) >= torch.tensor([[0], [2], [0]])
    padded = case.backbone.hidden(tokens, valid=valid, span=slice(PROMPT, LENGTH))
    torch.testing.assert_close(padded[1:2], case.backbone.hidden(tokens[1:2, 2:])[:, PROMPT - 2 :], **TOLERANCE)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("span", [None, slice(6, 8)])
def test_one_call_gives_log_marginals_and_hidden_states(
    case: Case, tokens: torch.Tensor, padding: int, span: slice | None
) -> None:
    if not hasattr(case.backbone, "hidden"):
        assert not hasattr(case.backbone, "predict")
        return
    valid = torch.arange(LENGTH).expand(3, LENGTH) >= torch.tensor([[0], [padding], [0]]) if padding else None
    expected = case.backbone.log_marginals(tokens, valid=valid, span=span)
    states = case.backbone.hidden(tokens, valid=valid, span=span)
    calls, inner = [], getattr(case.backbone, "backbone", case.backbone)
    handle = getattr(inner, "module", inner).register_forward_hook(
        lambda module, args, output: calls.append(len(calls))
    )
    found = predict(case.backbone, tokens, hidden=True, valid=valid, span=span)
    handle.remove()
    torch.testing.assert_close(found.log_marginals, expected, **TOLERANCE)
    torch.testing.assert_close(found.hidden, states, **TOLERANCE)
    groups = 1 if getattr(inner, "pads", True) or not padding else 2  # rows of different length run one after another
    assert len(calls) == groups * (2 if inner is not case.backbone else 1), "guidance needs a second call"
    if valid is not None and span is None and hasattr(inner, "module"):
        assert (states[1, :padding] == 0).all()


def test_only_the_logits_of_the_span_are_computed(case: Case, tokens: torch.Tensor) -> None:
    layer = getattr(getattr(case.backbone, "backbone", case.backbone), "output_layer", None)
    if layer is None:
        pytest.skip("this family computes all logits")
    widths: list[int] = []
    handle = layer.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    case.backbone.log_marginals(tokens, span=slice(6, 8))
    case.backbone.hidden(tokens)
    handle.remove()
    assert set(widths[:-1]) == {2} and widths[-1] == 0


def test_logits_that_are_not_finite_are_refused(case: Case, tokens: torch.Tensor) -> None:
    inner = getattr(case.backbone, "backbone", case.backbone)
    with torch.no_grad():
        for parameter in getattr(inner, "module", inner).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(pc.EvidenceError, match=r"NaN, \+inf or all -inf in batch rows \[0, 1, 2"):
        case.backbone.log_marginals(tokens, span=slice(PROMPT, LENGTH))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tokens": torch.zeros(3)}, pc.ShapeError, r"int64 \(B, L\), got torch.float32 of shape \(3,\)"),
        (
            {"valid": torch.ones(3, 4, dtype=torch.bool)},
            pc.ShapeError,
            r"bool of shape \(3, 9\), got torch.bool \(3, 4\)",
        ),
        ({"valid": torch.ones(3, LENGTH)}, pc.ShapeError, r"bool of shape \(3, 9\), got torch.float32"),
        ({"valid": torch.zeros(3, LENGTH, dtype=torch.bool)}, pc.DataError, "rows .* nothing but padding"),
        ({"span": slice(5, 5)}, pc.ShapeError, "consecutive positions of 9"),
        ({"span": slice(0, 9, 2)}, pc.ShapeError, "consecutive positions of 9"),
        ({"tokens": torch.full((1, LENGTH), 99)}, pc.DataError, r"rows \[0.* hold ids outside"),
        ({"tokens": torch.full((1, LENGTH), -1)}, pc.DataError, r"rows \[0.* hold ids outside"),
    ],
)
def test_bad_input_is_refused(case: Case, tokens: torch.Tensor, change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        case.backbone.log_marginals(**{"tokens": tokens, **change})
