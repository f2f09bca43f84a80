"""Backbones on a device of their own: same answers, where the tokens are, and no capability that is not there."""

import pytest
import torch

from pcircuits_diffusion import Backbone
from pcircuits_diffusion.on_device import OnDevice
from tests.diffusion.tiny_models import table_backbone, transformer


def test_answers_are_the_backbone_s() -> None:
    backbone = transformer()
    there = OnDevice(backbone, "cpu")
    tokens = torch.tensor([[1, 7, 3, 7], [0, 2, 7, 7]])
    valid = torch.tensor([[True] * 4, [False, True, True, True]])
    for name in ("log_marginals", "hidden"):
        expected = getattr(backbone, name)(tokens, valid=valid, span=slice(1, 4))
        assert torch.equal(getattr(there, name)(tokens, valid=valid, span=slice(1, 4)), expected)
    assert isinstance(there, Backbone) and there.config is backbone.config
    assert not hasattr(OnDevice(table_backbone(), "cpu"), "hidden")


class Elsewhere:
    """A backbone whose answers have shapes only, on the device that it was asked on."""

    vocab_size, mask_id = 7, 7

    def log_marginals(self, tokens: torch.Tensor, *, valid=None, span=None, cache=None) -> torch.Tensor:
        self.asked_on = tokens.device.type
        return torch.empty(*tokens.shape, self.vocab_size, device=tokens.device)


def test_tokens_go_there_and_answers_come_back() -> None:
    """Answers cannot come back from the meta device, which has shapes only."""
    backbone = Elsewhere()
    there = OnDevice(backbone, "meta")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        there.log_marginals(torch.tensor([[1, 7]]))
    assert backbone.asked_on == "meta"
    found = there.log_marginals(torch.tensor([[1, 7]], device="meta"))
    assert found.device.type == "meta" and found.shape == (1, 2, 7)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    backbone = transformer()
    tokens = torch.tensor([[1, 7, 3, 7]])
    expected = backbone.log_marginals(tokens)
    found = OnDevice(backbone.to("cuda"), "cuda").log_marginals(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
