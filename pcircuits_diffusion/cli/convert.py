"""`pcd convert`: a head that the authors of the method released, as one of ours."""

from pathlib import Path
from typing import Annotated

import typer

import pcircuits as pc
from pcircuits_diffusion.cli import options


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The released .jpc file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the head is written to.", show_default=False)],
    backbone_name: Annotated[
        str, typer.Option(help="Hub id of the backbone that the head was trained on.", show_default=False)
    ],
    backbone_revision: options.Revision = None,
    mask_id: Annotated[
        int | None, typer.Option(help="Of the backbone. Default: not checked on loading.", show_default=False)
    ] = None,
    sharpen: Annotated[float, typer.Option(help="The released code's pc_temperature, 0.1 or 0.2.")] = 1.0,
    gamma: Annotated[
        float | None,
        typer.Option(help="Mask ratio up to which the head is used, its pc_frac. Default: always.", show_default=False),
    ] = None,
) -> None:
    """Convert a released .jpc head.

    When: you want to use a head published with the paper's code. The file's pickle is read by a reader that executes
    nothing; what it does not know is refused.

    Example:

    pcd convert head.jpc -o new --backbone-name GSAI-ML/LLaDA-8B-Base --sharpen 0.1
    """
    import pcircuits_diffusion as pcd

    convert_head = getattr(pcd, "convert_head", None)
    if convert_head is None:
        raise pc.ParameterError("this version of the package cannot read .jpc files")
    if not checkpoint.is_file():
        raise pc.DataError(f"there is no file {checkpoint}")
    given = {"backbone_revision": backbone_revision, "mask_id": mask_id, "gamma": gamma}
    chosen = {name: value for name, value in given.items() if value is not None}
    convert_head(checkpoint, out, backbone_name=backbone_name, sharpen=sharpen, **chosen)
    typer.echo(f"wrote {out}", err=True)
