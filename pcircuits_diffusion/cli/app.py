"""The command line's one entry: its commands, and how errors are told."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import pcircuits as pc
from pcircuits_diffusion.cli.convert import convert
from pcircuits_diffusion.cli.evaluate import evaluate
from pcircuits_diffusion.cli.generate import generate
from pcircuits_diffusion.cli.info import info
from pcircuits_diffusion.cli.train import train

MISUSED, INTERRUPTED = 2, 130
COMMANDS = (train, generate, evaluate, convert, info)


class Commands(TyperGroup):
    """Tells what a user can mend in one line, without a traceback; `--debug` raises it as it is."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            sys.stderr.close()  # `pcd generate ... | head`: whoever read the text has enough of it
            raise typer.Exit(0) from None
        except KeyboardInterrupt as interruption:
            typer.echo(f"interrupted. {_one_line(interruption)}".rstrip(), err=True)
            raise typer.Exit(INTERRUPTED) from interruption
        except (pc.PCircuitsError, ValueError, OSError, ModuleNotFoundError) as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"pcd: {_one_line(error)}", err=True)
            raise typer.Exit(MISUSED) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"pcircuits {pc.__version__}")
        raise typer.Exit()
    return asked


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


@app.callback()
def main(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error: pcd --debug train ...")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Coupled heads for discrete diffusion language models.

    A masked diffusion model draws the tokens of a step independently of each other. A head, a probabilistic circuit
    over the block, draws them jointly.

    Try it, nothing is downloaded:

    pcd generate "Return the number of items in the" --steps 8
    """


for command in COMMANDS:
    app.command(no_args_is_help=command is not info)(command)
