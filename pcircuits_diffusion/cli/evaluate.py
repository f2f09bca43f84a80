"""`pcd evaluate`: exact likelihoods of a held-out text, with and without the head."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import pcircuits as pc
from pcircuits import files
from pcircuits_diffusion import corpus, resolve
from pcircuits_diffusion import evaluate as evaluation
from pcircuits_diffusion.cli import options
from pcircuits_diffusion.documents import encode_documents, read_documents
from pcircuits_diffusion.evaluate import tables
from pcircuits_diffusion.evaluate.curves import dump
from pcircuits_diffusion.evaluate.orders import RATIOS
from pcircuits_diffusion.head import CoupledHead

NAME, CONTROL = "coupled", "prior alone"


def evaluate(  # noqa: PLR0913 - one command holds all that a user may choose
    texts: options.Texts,
    head: options.HeadFolder = None,
    backbone: options.BackboneName = None,
    ratio: Annotated[list[float], typer.Option(help="Share of a block that is masked; repeat it.")] = list(RATIOS),  # noqa: B006
    steps: Annotated[
        list[int] | None,
        typer.Option(help="Steps to sample a block in; repeat it. Default: powers of two.", show_default=False),
    ] = None,
    windows: Annotated[int, typer.Option(help="Windows of text, at most.", min=1)] = 64,
    orders: Annotated[int, typer.Option(help="Random orders a window.", min=1)] = 2,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window. Default: the backbone's longest.", show_default=False, min=1)
    ] = None,
    block_length: Annotated[
        int | None, typer.Option(help="Tokens of a block, without a head.", show_default=False, min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Windows a batch.", min=1)] = 64,
    field: options.Fields = ["text"],  # noqa: B006 - typer reads it, nothing changes it
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers with intervals here.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Folder for two figures; needs matplotlib.", show_default=False)
    ] = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device: options.Device = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measure how much of the one-step gap a head closes on a text.

    When: a head is trained, on text that it has not seen. Prints the perplexity of masked tokens one at a time, in one
    step, and in one step with the head, and the likelihood of sampling in T steps; intervals are over documents.

    Examples:

    pcd evaluate held_out.txt --head my_head --windows 128

    pcd evaluate test.jsonl --head my_head --json result.json --plot figures
    """
    source = resolve.find_source(backbone, head, revision, trust_remote_code, device)
    loaded = resolve.load_model(source, head)
    model = loaded.model
    length = (
        model.head.block_length if model.head is not None else block_length or resolve.default_block(model.backbone)
    )
    if block_length not in (None, length):
        raise pc.ParameterError(f"--block-length is {block_length}, the head's prior covers {length} tokens")
    generator = torch.Generator().manual_seed(seed)
    encoded = encode_documents(
        loaded.tokenizer.encode, read_documents(texts, fields=field), vocab_size=model.backbone.vocab_size
    )
    width = window or resolve.default_window(model.backbone, length)
    found = corpus.windows(encoded, width, generator=generator, count=windows)
    by_document = len(found.document.unique()) > 1
    study = evaluation.study(
        model.backbone,
        {} if model.head is None else {NAME: model.head},
        found.tokens.to(device or "cpu"),
        found.document if by_document else torch.arange(len(found.tokens)),
        block_length=length,
        controls={CONTROL: evaluation.prior_alone(model.head.prior)} if isinstance(model.head, CoupledHead) else {},
        setting=evaluation.Setting(tuple(ratio), tuple(steps) if steps else None, orders, batch_size, not quiet),
        generator=generator,
    )
    bootstrap = evaluation.DocumentBootstrap(study.ratios.documents, generator=generator)
    tell(study, bootstrap, by_document)
    if json_file is not None:
        results = {"backbone": source.name, "head": head, "seed": seed, **as_json(study, bootstrap)}
        files.write_atomically(json_file, dump(results).encode())
    if plot is not None:
        draw(study, bootstrap, plot, "One step, with and without coupling")


def tell(study: evaluation.Study, bootstrap: evaluation.DocumentBootstrap, by_document: bool) -> None:
    unit = "documents" if by_document else "windows of one document, which are not independent"
    sizes = f"{len(study.ratios.documents)} windows; 95% intervals over {bootstrap.num_documents} {unit}"
    typer.echo(f"Perplexity of masked tokens ({sizes})\n{tables.ratio_table(study.ratios, bootstrap)}")
    typer.echo(f"\nNats a token of sampling a block in T steps\n{tables.step_table(study.steps, bootstrap)}")


def as_json(study: evaluation.Study, bootstrap: evaluation.DocumentBootstrap) -> dict[str, Any]:
    return {"mask_ratios": study.ratios.to_json(bootstrap), "steps": study.steps.to_json(bootstrap)}


def draw(study: evaluation.Study, bootstrap: evaluation.DocumentBootstrap, folder: Path, title: str) -> None:
    """Writes `mask_ratios.png` and `steps.png`."""
    from pcircuits_diffusion import plot

    folder.mkdir(parents=True, exist_ok=True)
    plot.plot_mask_ratios(study.ratios, bootstrap, title=title).savefig(folder / "mask_ratios.png", dpi=150)
    plot.plot_steps(study.steps, bootstrap, title="Sampling in few steps").savefig(folder / "steps.png", dpi=150)
