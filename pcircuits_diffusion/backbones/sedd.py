"""SEDD, absorbing (Lou et al. 2024): log ratios of probabilities instead of logits, and a noise level that is needed.

At a masked position the score of token v is p(x0 = v | the rest) * e^-s / (1 - e^-s): the same factor for every v, so
that normalising the first V columns gives the probabilities, whatever s was. The module itself reads s, though: it is
worked out from each row's own share of masks. The column of a position's own token is set to zero upstream; at a masked
position that is the mask's, which is cut off.
"""

from typing import Any

from pcircuits.types import Tensor
from pcircuits_diffusion.backbone import ModuleBackbone
from pcircuits_diffusion.backbones.mdlm import absorbing_sigma


def sedd(module: Any, *, vocab_size: int, **options: Any) -> ModuleBackbone:
    """`module(ids, sigma (B,))` -> log scores (B, L, V + 1); `options` are those of `ModuleBackbone`.

    The module writes at the positions of its inputs, so that all its scores are computed, and there is no `hidden`.
    """

    def call(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
        return module(tokens, absorbing_sigma(tokens, vocab_size))

    return ModuleBackbone(module, vocab_size, vocab_size, call=call, columns=vocab_size + 1, **options)
