"""Trains a small backbone and its tokenizer: `python -m benchmarks.train_backbone --corpus python_docs --out FOLDER`.

The folder receives `config.json`, `backbone.safetensors`, `tokenizer.json` and `card.json` (the facts for a model
card) at the end; `log.jsonl` and `state.safetensors` (from which `--resume` goes on) meanwhile.
"""

import argparse
import copy
import dataclasses
import datetime
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from benchmarks import gsm8k
from pcircuits.files import write_atomically
from pcircuits_diffusion import corpus
from pcircuits_diffusion.backbones.transformer import MaskedTransformer, TransformerConfig

CORPORA: dict[str, Callable[[str], list[corpus.Document]]] = {
    "python_docs": corpus.python_docs,
    "gsm8k": gsm8k.load,
}
STATE_FILE, LOG_FILE, CARD_FILE = "state.safetensors", "log.jsonl", "card.json"
SHORT_CONTEXTS = (0, 8, 16, 32, 48)
EOS_ID = 0


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line; lengths in tokens, `checkpoint` in seconds."""

    corpus: str
    out: Path
    steps: int
    batch: int = 32
    context: int = 64
    block: int = 32
    vocab: int = 1024
    dim: int = 160
    layers: int = 6
    heads: int = 5
    lr: float = 1e-3
    weight_decay: float = 0.1
    ema: float = 0.999
    scratch: float = 0.25
    """Share of batches that start at a document's start, with a shorter context."""
    seed: int = 0
    threads: int = 1
    log_every: int = 200
    windows: int = 256
    """Number of validation windows."""
    checkpoint: float = 180.0
    causal: bool = False
    resume: bool = False

    @property
    def length(self) -> int:
        """Tokens a training row has at most."""
        return self.context + self.block


class Stream(NamedTuple):
    """Documents joined with `<eos>`: `tokens` (T,), and `starts` (documents,), the index of the `<eos>` before each."""

    tokens: Tensor
    starts: Tensor

    def rows(self, starts: Tensor, length: int) -> Tensor:
        """The (B, length) windows that begin at `starts` (B,)."""
        return self.tokens[starts[:, None] + torch.arange(length)]


def join(documents: list[Tensor], length: int) -> Stream:
    """A stream of documents, with the starts that leave `length` tokens after them."""
    eos = torch.tensor([EOS_ID])
    tokens = torch.cat([piece for document in documents for piece in (eos, document)] + [eos])
    starts = torch.tensor([0] + [len(document) + 1 for document in documents[:-1]]).cumsum(0)
    return Stream(tokens, starts[starts + length <= len(tokens)])


def draw_rows(stream: Stream, options: Options, generator: torch.Generator) -> Tensor:
    """A batch of rows (B, context + block): windows of the stream, or starts of documents with `<eos>` in front."""
    if torch.rand((), generator=generator) < options.scratch:
        contexts = [context for context in SHORT_CONTEXTS if context < options.context]
        context = contexts[int(torch.randint(len(contexts), (), generator=generator))]
        picked = torch.randint(len(stream.starts), (options.batch,), generator=generator)
        return stream.rows(stream.starts[picked], 1 + context + options.block)
    last = len(stream.tokens) - options.length
    return stream.rows(torch.randint(last + 1, (options.batch,), generator=generator), options.length)


def draw_mask(rows: Tensor, block: int, largest: float, generator: torch.Generator) -> Tensor:
    """Masks k of each row's last `block` tokens, k uniform in 1..largest * block and stratified over the batch."""
    batch = len(rows)
    strata = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)) / batch
    counts = 1 + (strata * max(1, round(largest * block))).long()
    order = torch.rand(batch, block, generator=generator).argsort(1).argsort(1)
    return F.pad(order < counts[:, None], (rows.shape[1] - block, 0))


def row_losses(model: MaskedTransformer, rows: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log likelihood, nats a token, of each row's tokens under `mask`: (B,)."""
    inputs = rows if model.config.causal else rows.masked_fill(mask, model.mask_id)
    losses = F.cross_entropy(model.logits(model(inputs)[mask]), rows[mask], reduction="none")
    row = mask.nonzero()[:, 0]
    return torch.zeros(len(rows)).index_add(0, row, losses) / mask.sum(1)


def draw_batch(stream: Stream, options: Options, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows (B, L) and the mask (B, L) of the tokens to predict; the mask ratio reaches 1 after a fifth of the steps."""
    rows = draw_rows(stream, options, generator)
    if options.causal:
        return rows, torch.ones_like(rows, dtype=torch.bool).index_fill(1, torch.tensor([0]), False)
    largest = min(1.0, 0.3 + 0.7 * step / (0.2 * options.steps))
    return rows, draw_mask(rows, options.block, largest, generator)


def validation_batches(documents: list[Tensor], options: Options) -> list[tuple[Tensor, Tensor]]:
    """Fixed windows of held-out documents and the masks of their blocks; a causal model predicts the whole block."""
    generator = torch.Generator().manual_seed(0)
    tokens = corpus.windows(documents, options.length, count=options.windows, generator=generator).tokens
    mask = draw_mask(tokens, options.block, 1.0, generator)
    if options.causal:
        mask = (torch.arange(options.length) >= options.context).expand_as(tokens)
    return list(zip(tokens.split(64), mask.split(64), strict=True))


@torch.no_grad()
def validation_bound(model: MaskedTransformer, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Estimate of -E log p(block | context) / |block|, nats a token: an upper bound (exact for a causal model)."""
    return float(torch.cat([row_losses(model, rows, mask) for rows, mask in batches]).mean())


def pmi_embeddings(tokens: Tensor, vocab_size: int, dim: int) -> Tensor:
    """(V, dim) token vectors of mean norm 1: the leading singular vectors of the neighbours' positive PMI table.

    Without them a small model stays at the unigram distribution for thousands of steps.
    """
    pairs = torch.bincount(tokens[:-1] * vocab_size + tokens[1:], minlength=vocab_size**2).view(vocab_size, -1)
    joint = (pairs + pairs.T).double() + 0.01
    pmi = (joint.log() - joint.sum(0).log() - joint.sum(1, keepdim=True).log() + joint.sum().log()).clamp(min=0)
    left, scale, _ = torch.linalg.svd(pmi)
    vectors = left[:, :dim] * scale[:dim].sqrt()
    return (vectors / vectors.norm(dim=1).mean()).float()


def build_model(tokens: Tensor, vocab_size: int, options: Options) -> MaskedTransformer:
    """A model whose output starts at the smoothed token frequencies."""
    config = TransformerConfig(
        vocab_size=vocab_size,
        dim=options.dim,
        num_layers=options.layers,
        num_heads=options.heads,
        max_length=options.length,
        block_length=options.block,
        eos_id=EOS_ID,
        causal=options.causal,
    )
    torch.manual_seed(options.seed)
    model = MaskedTransformer(config)
    vectors = pmi_embeddings(tokens, vocab_size, options.dim)
    with torch.no_grad():
        model.embedding.weight[:vocab_size, : vectors.shape[1]] = vectors
        model.bias.copy_((torch.bincount(tokens, minlength=vocab_size) + 1.0).log().log_softmax(0))
    return model


def learning_rate(step: int, options: Options) -> float:
    """Linear warm-up over 2 % of the steps, constant, linear decay to zero over the last 30 %."""
    warm_up = max(1.0, 0.02 * options.steps)
    return options.lr * min(1.0, (step + 1) / warm_up, (options.steps - step) / (0.3 * options.steps))


class Trainer:
    """Model, its moving average, optimiser and random state: all that a resumed run needs."""

    def __init__(self, model: MaskedTransformer, options: Options) -> None:
        self.options = options
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), foreach=True)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step = 0
        self.seconds = 0.0

    def advance(self, stream: Stream) -> float:
        """One optimiser step; returns the batch's loss, nats a token."""
        rows, mask = draw_batch(stream, self.options, self.step, self.generator)
        loss = row_losses(self.model, rows, mask).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.options)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        for average, current in zip(self.average.parameters(), self.model.parameters(), strict=True):
            average.lerp_(current, 1 - decay)

    def save(self, path: Path) -> None:
        """One file, replaced atomically: tensors, and step and seconds as JSON in its header."""
        tensors = {"generator": self.generator.get_state()}
        tensors |= {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        progress = json.dumps({"step": self.step, "seconds": self.seconds})
        write_atomically(path, safetensors.torch.save(tensors, metadata={"progress": progress}))

    def restore(self, path: Path) -> None:
        """Goes on from what `save` wrote: with the same options, bit by bit as if never interrupted."""
        with safetensors.safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.generator.set_state(tensors.pop("generator"))
        moments: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
        for name, tensor in tensors.items():
            owner, rest = name.split(".", 1)
            if owner == "optimizer":
                index, moment = rest.split(".")
                moments.setdefault(int(index), {})[moment] = tensor
            else:
                weights[owner][rest] = tensor
        self.model.load_state_dict(weights["model"])
        self.average.load_state_dict(weights["average"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def prepare(options: Options) -> tuple[Tokenizer, Stream, list[Tensor]]:
    """The tokenizer (trained, or on `--resume` the folder's own), the training stream and the validation documents."""
    train, valid = CORPORA[options.corpus]("train"), CORPORA[options.corpus]("valid")
    if options.resume:
        tokenizer = corpus.load_tokenizer(options.out)
    else:
        texts = [document.text for document in train]
        tokenizer = corpus.train_tokenizer(texts, vocab_size=options.vocab, split_digits=options.corpus == "gsm8k")
        write_atomically(options.out / corpus.TOKENIZER_FILE, tokenizer.to_str().encode())
    return tokenizer, join(corpus.encode(tokenizer, train), options.length), corpus.encode(tokenizer, valid)


def run_steps(trainer: Trainer, stream: Stream) -> Iterator[float]:
    """Advances to the last step, yielding each loss, and writes a checkpoint now and then and at the end."""
    path = trainer.options.out / STATE_FILE
    mark = saved = time.monotonic()
    while trainer.step < trainer.options.steps:
        loss = trainer.advance(stream)
        now = time.monotonic()
        trainer.seconds, mark = trainer.seconds + now - mark, now
        yield loss
        if now - saved >= trainer.options.checkpoint or trainer.step == trainer.options.steps:
            trainer.save(path)
            saved = now


def train(options: Options) -> MaskedTransformer:
    """Trains to `options.steps`, writes the folder described above, and returns the averaged model."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer, stream, valid = prepare(options)
    batches = validation_batches(valid, options)
    trainer = Trainer(build_model(stream.tokens, tokenizer.get_vocab_size(), options), options)
    if options.resume:
        trainer.restore(options.out / STATE_FILE)
    bar = tqdm(initial=trainer.step, total=options.steps, mininterval=30.0, desc=options.corpus)
    losses: list[float] = []
    bound = math.nan
    with bar, (options.out / LOG_FILE).open("a") as log:
        for loss in run_steps(trainer, stream):
            bar.update()
            losses.append(loss)
            if trainer.step % options.log_every == 0 or trainer.step == options.steps:
                bound = validation_bound(trainer.average, batches)
                line = {"step": trainer.step, "train": sum(losses) / len(losses), "valid": bound}
                print(json.dumps(line | {"seconds": round(trainer.seconds)}), file=log, flush=True)
                losses.clear()
    trainer.average.save(options.out)
    facts = card(trainer, stream, bound)
    write_atomically(options.out / CARD_FILE, json.dumps(facts, indent=2).encode() + b"\n")
    return trainer.average.eval()


def card(trainer: Trainer, stream: Stream, bound: float) -> dict[str, object]:
    """The facts for a model card; the bound in nats a token, on the validation windows."""
    options = trainer.options
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train_backbone", *sys.argv[1:]]),
        "corpus": options.corpus,
        "training_tokens": len(stream.tokens),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": options.steps,
        "seed": options.seed,
        "hours": round(trainer.seconds / 3600, 2),
        "validation_bound": round(bound, 4),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {options.threads} thread",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }


def parse_options(arguments: list[str] | None = None) -> Options:
    """Options from the command line, one flag a field."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=sorted(CORPORA), required=True)
    for field in dataclasses.fields(Options)[1:]:
        flag = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        else:
            required = field.default is dataclasses.MISSING
            parser.add_argument(flag, type=field.type, required=required, default=None if required else field.default)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(parse_options())
