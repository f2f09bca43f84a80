"""Trains every coupling under every modulation with one budget: `python -m benchmarks.train_couplings --out FOLDER`.

All start from one prior and see the same windows of the training text, masked alike; the backbone is frozen, its
predictions are cached in the folder. `benchmarks.coupling --heads FOLDER` compares what comes out. Interrupted runs go
on where they stopped. The prior of a shipped head was trained with that head: for a comparison make one by EM alone
(`benchmarks.train_head --epochs 3 --out START`) and give `--prior START/prior`.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch

import pcircuits as pc
import pcircuits_diffusion as pcd
from benchmarks import trained
from pcircuits_diffusion import corpus
from pcircuits_diffusion.coupling import COUPLINGS
from pcircuits_diffusion.modulation import MODULATIONS

BLOCKS = 16
KNOTS = 5  # of the exponents of "product" and "corrected"
STRIDE = 32


def heads(prior: pc.Circuit, hidden_size: int) -> dict[str, pcd.CoupledHead]:
    """A new head for every combination, modulated ones first, whose cache serves the others; "projected" has no
    exponents.
    """
    found = {}
    for coupling, modulation in itertools.product(reversed(COUPLINGS), reversed(MODULATIONS)):
        found[f"{coupling}-{modulation}"] = pcd.CoupledHead(
            prior,
            coupling=coupling,
            modulation=modulation,
            hidden_size=None if modulation == "none" else hidden_size,
            modulation_options=None if modulation == "none" else {"blocks": BLOCKS},
            learn_exponents=0 if coupling == "projected" else KNOTS,
        )
    return found


def windows(loaded: trained.Trained, options: argparse.Namespace, split: str) -> torch.Tensor:
    """Random windows of the text that begin at multiples of a block."""
    documents = corpus.encode(loaded.tokenizer, trained.CORPORA[options.corpus].load(split))
    stream = corpus.stream_windows(documents, loaded.window_length, stride=STRIDE, eos_id=loaded.eos_id)
    order = torch.randperm(len(stream), generator=torch.Generator().manual_seed(options.seed))
    return stream[order[: options.windows if split == "train" else options.valid]]


def train(name: str, loaded: trained.Trained, options: argparse.Namespace) -> None:
    folder = options.out / name
    if (folder / "head.json").exists():
        return
    prior = pc.load(options.prior) if options.prior else trained.load_chosen(options).head.prior  # one of its own
    head = heads(prior, loaded.backbone.config.dim)[name]
    torch.manual_seed(options.seed)
    history = pcd.train_head(
        head,
        loaded.backbone,
        windows(loaded, options, "train"),
        valid=windows(loaded, options, "valid"),
        seed=options.seed,
        epochs=options.epochs,
        learner=pc.Adam(options.lr, warmup=20, decay=options.epochs * options.windows // 32),
        objective=pcd.Objective(penalty=options.penalty),
        cache=options.out / "cache",
        checkpoint=folder / "checkpoint",
        checkpoint_every=50,
        resume=True,
    )
    pcd.CoupledDiffusion(loaded.backbone, head).save_pretrained(
        folder, backbone_name=options.corpus, dtype=torch.float16
    )
    print(json.dumps({"head": name, "before": history.initial_valid_loss, "after": history.valid_loss}), flush=True)


def budget(description: str | None) -> argparse.ArgumentParser:
    """The options that say on what, and how long, a head is trained."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that is written to, and gone on from")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    trained.add_corpus(parser)
    parser.add_argument("--windows", type=int, default=19_200)
    parser.add_argument("--valid", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    parser = budget(__doc__)
    parser.add_argument("--prior", type=Path, help="folder of the circuit to start from; default: the shipped head's")
    parser.add_argument("--penalty", type=float, default=0.01)
    parser.add_argument("--only", nargs="*", help="such as projected-latent; default: all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = trained.load_chosen(options)
    for name in options.only or heads(loaded.head.prior, loaded.backbone.config.dim):
        train(name, loaded, options)


if __name__ == "__main__":
    main()
