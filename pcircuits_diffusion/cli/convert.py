"""`pcd convert`: a head that the authors of the method released, as one of ours."""

from pathlib import Path
from typing import Annotated

import typer

import pcircuits as pc


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The released .jpc file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the head is written to.", show_default=False)],
    backbone_name: Annotated[
        str, typer.Option(help="Hub id of the backbone that the head was trained on.", show_default=False)
    ],
) -> None:
    """Convert a released .jpc head.

    When: you want to use a head published with the paper's code. The file's pickle is read by a reader that executes
    nothing; what it does not know is refused.

    Example:

    pcd convert head.jpc -o llada_head --backbone-name GSAI-ML/LLaDA-8B-Base
    """
    import pcircuits_diffusion as pcd

    convert_head = getattr(pcd, "convert_head", None)
    if convert_head is None:
        raise pc.ParameterError("this version of the package cannot read .jpc files")
    if not checkpoint.is_file():
        raise pc.DataError(f"there is no file {checkpoint}")
    convert_head(checkpoint, out, backbone_name=backbone_name)
    typer.echo(f"wrote {out}", err=True)
