"""`pcd generate`: text, shown while it forms."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import pcircuits as pc
from pcircuits_diffusion import resolve
from pcircuits_diffusion.cli import options
from pcircuits_diffusion.cli.settings import settings_options
from pcircuits_diffusion.cli.views import Board, Prefix, Silent, View
from pcircuits_diffusion.model import DEFAULT_BLOCK, CoupledDiffusion

STDIN = "-"
TOKENS_A_STEP = 4  # unless --steps says otherwise


@settings_options
def generate(  # noqa: PLR0913 - one command holds all that a user may choose
    prompt: Annotated[
        str | None,
        typer.Argument(help='What the text begins with; "-" reads it from standard input.', show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.", show_default=False)
    ] = None,
    head: options.HeadFolder = None,
    backbone: options.BackboneName = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="Length of the text.", min=1)] = 64,
    steps: Annotated[
        int | None,
        typer.Option(help="Calls of the backbone. Default: a quarter of the new tokens.", show_default=False, min=1),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many texts; the n-th has seed + n.", min=1)] = 1,
    seed: options.Seed = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a message to an instruction-tuned model.")
    ] = False,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end of the text.")] = False,
    stream: Annotated[bool, typer.Option(help="Show text as its tokens are decided.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a text instead.")] = False,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device: options.Device = None,
    **settings: Any,
) -> None:
    """Generate text with a head, or with the backbone alone.

    When: to see what a head does. Fewer --steps decide more tokens at once; that is where a head helps. Compare with
    --head none. In a terminal undecided tokens show as dots; into a file or pipe goes the text that is decided.

    Examples:

    pcd generate "Return the number of items in the" --steps 8

    pcd generate --file prompt.txt --head my_head --samples 3 --seed 7

    pcd generate "def" --head none --remasking entropy --temperature 0
    """
    text = read_prompt(prompt, file)
    source = resolve.find_source(backbone, head, revision, trust_remote_code, device)
    loaded = resolve.load_model(source, head)
    if chat:
        text = as_message(loaded.tokenizer, text, source.name)
    if not ignore_eos and settings.get("eos_id") is None:
        settings["eos_id"] = loaded.tokenizer.eos_id
    ids = torch.tensor(loaded.tokenizer.encode(text), dtype=torch.long, device=device)
    seeds = [seed + sample for sample in range(samples)]
    if steps is None and settings.get("quota") is None:
        steps = default_steps(loaded.model, max_new_tokens, settings.get("block_length"))
    decoded = loaded.model.steps([ids] * samples, max_new_tokens=max_new_tokens, steps=steps, seeds=seeds, **settings)
    ends = (loaded.model.backbone.mask_id, settings.get("eos_id"))
    with choose_view(loaded.tokenizer, ends, stream and not as_json, samples) as view:
        for step in decoded:
            view.show(step.tokens)
    for number, (text, row_seed) in enumerate(zip(view.texts(), seeds, strict=True), 1):
        if as_json:
            typer.echo(json.dumps({"text": text, "seed": row_seed}, ensure_ascii=False))
        elif not view.shown:
            typer.echo(text if samples == 1 else f"--- sample {number} of {samples}, seed {row_seed}\n{text}")


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt, wherever it is.

    Raises:
        pc.ParameterError: none, or two. pc.DataError: a file that cannot be read.
    """
    if (prompt is None) == (file is None):
        raise pc.ParameterError('give one prompt: as an argument ("-" for standard input) or with --file')
    if prompt == STDIN:
        return sys.stdin.read()
    if file is None:
        return prompt or ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise pc.DataError(f"{file} cannot be read as UTF-8 text: {error}") from error


def default_steps(model: CoupledDiffusion, max_new_tokens: int, block_length: int | None) -> int:
    """One for every few tokens, at least one a block."""
    length = block_length or (DEFAULT_BLOCK if model.head is None else model.head.block_length)
    return max(-(-max_new_tokens // length), max_new_tokens // TOKENS_A_STEP)


def as_message(tokenizer: resolve.TextTokenizer, text: str, name: str) -> str:
    if tokenizer.chat is None:
        raise pc.ParameterError(f"the tokenizer of {name!r} has no chat template; leave out --chat")
    return tokenizer.chat([{"role": "user", "content": text}])


def choose_view(tokenizer: resolve.TextTokenizer, ends: tuple[int, int | None], stream: bool, samples: int) -> View:
    """All tokens where they stand in a terminal; else the decided beginning of a single text; else nothing."""
    if stream and sys.stdout.isatty():
        return Board(tokenizer.decode, *ends)
    return Prefix(tokenizer.decode, *ends) if stream and samples == 1 else Silent(tokenizer.decode, *ends)
