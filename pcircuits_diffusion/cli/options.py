"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from pcircuits_diffusion.resolve import EMBEDDED

BACKBONE_HELP = f'"{EMBEDDED}" (comes with the package), a folder, or a hub id such as GSAI-ML/LLaDA-8B-Instruct.'

Texts = Annotated[
    list[Path],
    typer.Argument(help=".txt or .md files, .jsonl files (also .gz), or folders of them.", show_default=False),
]
Fields = Annotated[
    list[str], typer.Option("--field", help="Field of a JSON line that holds text; repeated: joined by line breaks.")
]
BackboneName = Annotated[str | None, typer.Option("--backbone", "-b", help=BACKBONE_HELP, show_default=False)]
HeadFolder = Annotated[
    str | None,
    typer.Option(
        "--head",
        help='Folder of a head, or "none" for the backbone alone. Default: the head beside the backbone.',
        show_default=False,
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a backbone on a hub.", show_default=False)]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that a backbone on a hub comes with.")
]
Device = Annotated[str | None, typer.Option(help="Such as cuda or cpu. Default: cpu.", show_default=False)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
