"""`pcd train`: from a text to a head."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

import pcircuits as pc
from pcircuits import learning
from pcircuits.types import Int, Tensor
from pcircuits_diffusion import corpus, pretrained, resolve
from pcircuits_diffusion.backbone import Backbone
from pcircuits_diffusion.cli import options
from pcircuits_diffusion.cli.options import BACKBONE_HELP
from pcircuits_diffusion.documents import encode_documents, read_documents
from pcircuits_diffusion.head import CoupledHead
from pcircuits_diffusion.model import CoupledDiffusion
from pcircuits_diffusion.on_device import OnDevice
from pcircuits_diffusion.prior_start import em_start, split_blocks
from pcircuits_diffusion.training import train_head

CHECKPOINT_EVERY = 16  # batches
DTYPES = {"float32": None, "float16": torch.float16}
STARTS = ("hidden", "bigrams")


class Split(NamedTuple):
    """Windows (N, W) to learn from, and held-out ones; None: too few to hold any out."""

    train: Int[Tensor, "N W"]
    valid: Int[Tensor, "M W"] | None


def train(  # noqa: PLR0913 - one command holds all that a user may choose
    texts: options.Texts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that the head is written to.", show_default=False)],
    backbone: Annotated[str, typer.Option("--backbone", "-b", help=BACKBONE_HELP)] = resolve.EMBEDDED,
    states: Annotated[int, typer.Option(help="Hidden states of the prior; more are better and slower.", min=1)] = 256,
    epochs: Annotated[int, typer.Option(help="Of EM on the text.", min=0)] = 3,
    objective_epochs: Annotated[int, typer.Option(help="Of objective (7) through the backbone after EM.", min=0)] = 0,
    objective_windows: Annotated[int, typer.Option(help="Windows that objective (7) sees, at most.", min=1)] = 8192,
    lr: Annotated[float, typer.Option(help="Learning rate of objective (7).")] = 3e-3,
    start: Annotated[str, typer.Option(help="What states start from: hidden (the backbone's) or bigrams.")] = "hidden",
    coupling: Annotated[
        str, typer.Option(help="How prior and backbone meet: projected, corrected, product.")
    ] = "projected",
    sweeps: Annotated[int, typer.Option(help='Of the coupling "projected".', min=1)] = 1,
    sweep_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens a position that sweeps fit one by one. Default: all.", show_default=False, min=1),
    ] = None,
    block_length: Annotated[
        int | None, typer.Option(help="Tokens of a block. Default: the backbone's, else 32.", show_default=False, min=1)
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window. Default: the backbone's longest.", show_default=False, min=1)
    ] = None,
    valid_share: Annotated[
        float, typer.Option(help="Share of the text held out, from its end.", min=0, max=0.5)
    ] = 0.05,
    field: options.Fields = ["text"],  # noqa: B006 - typer reads it, nothing changes it
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the backbone's predictions. Default: memory.", show_default=False)
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder to go on from after an interruption.", show_default=False)
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the written weights: float32 or float16.")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a head in the folder.")] = False,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device: options.Device = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train a head on your own text.

    When: the backbone writes about your domain, and you want fewer steps. The backbone stays as it is. A prior is made
    by EM on the text (minutes), then, if asked for, trained through the backbone by objective (7). Interrupted? Run the
    same command with its --checkpoint again.

    Examples:

    pcd train notes.txt --out my_head --states 64

    pcd train data.jsonl --field question --field answer --out my_head --checkpoint run --objective-epochs 4

    Several processes share objective (7) and its predictions (EM on the text is repeated by each):

    torchrun --nproc-per-node 2 -m pcircuits_diffusion train text.txt --out my_head --cache kept --objective-epochs 4
    """
    first = learning.join().rank == 0
    quiet = quiet or not first
    for name, value, allowed in (("dtype", dtype, DTYPES), ("start", start, STARTS)):
        if value not in allowed:
            raise pc.ParameterError(f"--{name} must be one of {', '.join(allowed)}; got {value!r}")
    if (out / pretrained.CONFIG_FILE).exists() and not overwrite:
        raise pc.ParameterError(f"{out} already holds a head; choose another folder, or pass --overwrite")
    documents = read_documents(texts, fields=field)
    source = resolve.Source(backbone, revision, trust_remote_code, device)
    model = resolve.load_backbone(source)
    model = model if device is None else OnDevice(model, device)
    length = block_length or resolve.default_block(model)
    tokenizer = resolve.load_tokenizer(source, model)
    encoded = encode_documents(tokenizer.encode, documents, vocab_size=model.vocab_size)
    split = split_windows(
        encoded, window or resolve.default_window(model, length), length, tokenizer.eos_id, valid_share
    )
    told = Told(quiet, checkpoint)
    told.say(f"{len(documents)} documents, {split.train.numel()} tokens to learn from")
    prior = em_start(
        split.train,
        states,
        vocab_size=model.vocab_size,
        block_length=length,
        backbone=model if start == "hidden" else None,
        valid=None if split.valid is None else split_blocks(split.valid, length),
        epochs=epochs,
        seed=seed,
        **told.options("em", length),
    )
    head = CoupledHead(prior, coupling=coupling, sweeps=sweeps, sweep_tokens=sweep_tokens).to(device)
    if objective_epochs > 0:
        rows = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(seed))[:objective_windows]
        train_head(
            head,
            model,
            split.train[rows],
            valid=split.valid,
            cache=cache,
            epochs=objective_epochs,
            learner=pc.Adam(lr),
            seed=seed,
            **told.options("objective", 1),
        )
    if first:
        save(model, head, out, source, DTYPES[dtype])
    learning.wait()
    told.say(f"wrote {out}; try: pcd generate --head {out} ...")


def split_windows(
    documents: list[Tensor], window: int, block_length: int, eos_id: int | None, valid_share: float
) -> Split:
    """Documents joined by end-of-text and cut into windows, the last share of them held out.

    Raises:
        pc.ParameterError: windows shorter than a block, or a tokenizer without end-of-text. pc.DataError: too short a
            text for one window.
    """
    if window < block_length:
        raise pc.ParameterError(f"--window is {window}, shorter than a block of {block_length} tokens")
    if eos_id is None:
        raise pc.ParameterError("the tokenizer has no end-of-text token, which separates documents")
    if (total := sum(len(ids) + 1 for ids in documents)) < window:
        raise pc.DataError(f"the text has {total} tokens, fewer than one window of {window}; give more, or --window")
    windows = corpus.stream_windows(documents, window, eos_id=eos_id)
    kept = len(windows) - round(valid_share * len(windows))
    return Split(windows[:kept], windows[kept:] if kept < len(windows) else None)


def save(backbone: Backbone, head: CoupledHead, out: Path, source: resolve.Source, dtype: torch.dtype | None) -> None:
    revision: dict[str, Any] = {} if source.revision is None else {"backbone_revision": source.revision}
    CoupledDiffusion(backbone, head).save_pretrained(out, backbone_name=source.name, dtype=dtype, **revision)


class Told(NamedTuple):
    """What is told while training, on standard error, and where its state is kept."""

    quiet: bool
    checkpoint: Path | None

    def say(self, text: str) -> None:
        if not self.quiet:
            typer.echo(text, err=True)

    def options(self, stage: str, tokens: int) -> dict[str, Any]:
        """Options of `pc.fit`; losses are over `tokens` tokens."""
        folder = None if self.checkpoint is None else self.checkpoint / stage
        every = None if folder is None else CHECKPOINT_EVERY
        return {
            "checkpoint": folder,
            "checkpoint_every": every,
            "resume": True,
            "progress": not self.quiet,
            "on_epoch": self._epoch(stage, tokens),
        }

    def _epoch(self, stage: str, tokens: int) -> Callable[[Any], None]:
        def told(epoch: Any) -> None:
            valid = "" if epoch.valid_loss is None else f", held out {epoch.valid_loss / tokens:.3f}"
            self.say(f"{stage}, epoch {epoch.number + 1}: {epoch.train_loss / tokens:.3f} nats a token{valid}")

        return told
