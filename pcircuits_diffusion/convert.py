"""Heads that others released, as heads of ours."""

import os
from pathlib import Path

import torch

import pcircuits as pc
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.pretrained import BackboneInfo, save_head


def convert_head(
    jpc_path: str | os.PathLike,
    out_folder: str | os.PathLike,
    *,
    backbone_name: str,
    backbone_revision: str | None = None,
    mask_id: int | None = None,
    sharpen: float = 1.0,
    gamma: float | None = None,
    dtype: torch.dtype | None = None,
) -> CoupledHead:
    """Saves the circuit of a `.jpc` file, as CoDD's release has it, as a head with the paper's coupling "product".

    Nothing in the file is executed (see `pc.interop.read_jpc`).

    Args:
        out_folder: for `CoupledDiffusion.from_pretrained`.
        backbone_name: on which the head was trained, for `load_backbone`; the file does not say.
        backbone_revision: its branch, tag or commit.
        mask_id: the backbone's; None leaves it unchecked when the head is loaded.
        sharpen: CoDD's `pc_temperature`, see `CoupledHead`.
        gamma: the mask ratio up to which the head is used, see there.
        dtype: `torch.float16` halves the files.

    Raises:
        pc.FormatError: a file that is malformed, or holds what has no counterpart here. pc.StructureError: variables
            that are not tokens of one vocabulary. pc.ParameterError: arguments out of range.
    """
    if not isinstance(backbone_name, str) or not backbone_name:
        raise pc.ParameterError(f"`backbone_name` must be a name for load_backbone, got {backbone_name!r}")
    if Path(out_folder).is_file():
        raise pc.ParameterError(f"`out_folder` must be a folder, {out_folder} is a file")
    head = CoupledHead(pc.interop.read_jpc(jpc_path), coupling="product", sharpen=sharpen, gamma=gamma)
    save_head(head, out_folder, BackboneInfo(backbone_name, head.vocab_size, mask_id, backbone_revision), dtype)
    return head
