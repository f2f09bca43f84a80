"""Every backbone under one name, for the tests of what holds for all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pcircuits_diffusion import Guided, ModuleBackbone, backbones, load_backbone
from tests.diffusion.backbones import native, stand_ins
from tests.diffusion.tiny_models import transformer

MASK = 3
LENGTH, PROMPT = 9, 5  # the last four positions are open


class Case(NamedTuple):
    """A backbone and what is known of it: ids that it never predicts, positions that it predicts."""

    backbone: Any
    never: tuple[int, ...]
    first: int = 0


def _inside(build: Callable[..., ModuleBackbone], module: Any, **options: Any) -> Case:
    """The mask is id 3 of ten tokens; the logits have two columns more."""
    output_layer = getattr(module, "ff_out", None) or module.lm_head
    backbone = build(module, vocab_size=10, mask_id=MASK, columns=12, output_layer=output_layer, **options)
    return Case(backbone, (MASK,), int(backbone.shift))


def _behind(build: Callable[..., ModuleBackbone], module: Any) -> Case:
    """The mask is the last of 12 columns."""
    return Case(build(module, vocab_size=11), ())


def _guided() -> Case:
    inner = _inside(backbones.llada, stand_ins.LLaDA())
    return Case(Guided(inner.backbone, scale=1.5, prompt_length=2), inner.never)


def _function() -> Case:
    return Case(ModuleBackbone(stand_ins.Function(), stand_ins.WIDTH, MASK), (MASK,))


STAND_INS: dict[str, Callable[[], Case]] = {
    "llada": lambda: _inside(backbones.llada, stand_ins.LLaDA()),
    "llada, padding ignored": lambda: _inside(backbones.llada, stand_ins.LLaDA("ignored")),
    "llada, padding causal": lambda: _inside(backbones.llada, stand_ins.LLaDA("causal")),
    "dream": lambda: _inside(backbones.dream, stand_ins.Dream()),
    "mdlm": lambda: _behind(backbones.mdlm, stand_ins.DIT()),
    "mdlm, hub": lambda: _behind(backbones.mdlm, stand_ins.MDLM()),
    "mdlm, with times": lambda: _behind(backbones.mdlm, stand_ins.DIT(time_conditioning=True)),
    "bd3lm": lambda: _behind(backbones.bd3lm, stand_ins.DIT(block_size=3)),
    "sedd": lambda: _behind(backbones.sedd, stand_ins.SEDD()),
    "guided": _guided,
    "function": _function,
    "ours": lambda: Case(transformer(vocab=11, max_length=LENGTH), ()),
}
NATIVE = [*native.CONFIGS, "diffusion_gemma"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder a native family."""
    torch.manual_seed(0)
    folders = {name: tmp_path_factory.mktemp(name) for name in NATIVE}
    for name in native.CONFIGS:
        native.save_masked_lm(name, folders[name])
    native.save_diffusion_gemma(folders["diffusion_gemma"])
    return folders


def build(name: str, folders: dict[str, Path]) -> Case:
    if name in STAND_INS:
        return STAND_INS[name]()
    backbone = load_backbone(folders[name])
    if name == "diffusion_gemma":
        return Case(backbone, (), PROMPT)
    never = [*range(4), *range(24, 30)] if name == "esm" else [0, MASK]
    return Case(backbone, tuple(never))


@pytest.fixture(params=[*STAND_INS, *NATIVE])
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Case:
    return build(request.param, folders)


@pytest.fixture
def tokens(case: Case) -> torch.Tensor:
    """Three rows, the last four positions open; the ids are tokens of every backbone here."""
    tokens = torch.randint(4, 10, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    tokens[:, PROMPT:] = case.backbone.mask_id
    return tokens
