"""Makes the head of a trained backbone: an HMM from clusters of its hidden states, EM on the training text, optionally
objective (7).

python -m benchmarks.train_head --corpus gsm8k --backbone benchmarks/weights --out benchmarks/weights/head
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

import pcircuits as pc
import pcircuits_diffusion as pcd
from benchmarks import gsm8k
from pcircuits_diffusion import corpus
from pcircuits_diffusion.backbones import MaskedTransformer
from pcircuits_diffusion.coupling import COUPLINGS
from pcircuits_diffusion.modulation import MODULATIONS

LOADERS = {"python_docs": corpus.python_docs, "gsm8k": gsm8k.load}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    backbone = MaskedTransformer.load(options.backbone)
    tokenizer = corpus.load_tokenizer(options.backbone)
    train, valid = (windows(tokenizer, LOADERS[options.corpus](split), backbone) for split in ("train", "valid"))
    block = backbone.config.block_length
    prior = (
        pc.load(options.prior)
        if options.prior
        else pcd.em_start(
            train,
            options.states,
            vocab_size=backbone.vocab_size,
            block_length=block,
            backbone=backbone,
            seed=options.seed,
            epochs=options.epochs,
            valid=pcd.split_blocks(valid, block),
            checkpoint=options.checkpoint and Path(options.checkpoint) / "em",
            checkpoint_every=16 if options.checkpoint else None,
            resume=True,
        )
    )
    head = pcd.CoupledHead(
        prior,
        coupling=options.coupling,
        modulation=options.modulation,
        hidden_size=None if options.modulation == "none" else backbone.config.dim,
        learn_exponents=options.exponents,
    )
    if options.objective_epochs > 0:
        overlapping = windows(tokenizer, LOADERS[options.corpus]("train"), backbone, stride=block)
        train_objective(head, backbone, overlapping, valid, options)
    model = pcd.CoupledDiffusion(backbone, head)
    model.save_pretrained(options.out, backbone_name=options.corpus, dtype=torch.float16)
    print(f"valid: {-prior_score(prior, pcd.split_blocks(valid, block)):.3f} nats a token of the prior alone")


def windows(
    tokenizer: Tokenizer, documents: list[corpus.Document], backbone: MaskedTransformer, stride: int | None = None
) -> torch.Tensor:
    config = backbone.config
    encoded = corpus.encode(tokenizer, documents)
    return corpus.stream_windows(encoded, config.max_length, eos_id=config.eos_id, stride=stride)


def train_objective(
    head: pcd.CoupledHead,
    backbone: MaskedTransformer,
    train: torch.Tensor,
    valid: torch.Tensor,
    options: argparse.Namespace,
) -> None:
    """Objective (7) on random windows, the backbone frozen."""
    generator = torch.Generator().manual_seed(options.seed)
    chosen = train[torch.randperm(len(train), generator=generator)[: options.objective_windows]]
    pcd.train_head(
        head,
        backbone,
        chosen,
        valid=valid[:256],
        seed=options.seed,
        epochs=options.objective_epochs,
        learner=pc.Adam(options.lr, warmup=20, decay=options.objective_epochs * -(-len(chosen) // 32)),
        objective=pcd.Objective(penalty=0.01),
        patience=2,
        checkpoint=options.checkpoint and Path(options.checkpoint) / "objective",
        checkpoint_every=16 if options.checkpoint else None,
        resume=True,
    )


@torch.no_grad()
def prior_score(prior: pc.Circuit, blocks: torch.Tensor) -> float:
    return float(torch.cat([prior.log_prob(part) for part in blocks.split(256)]).mean()) / prior.num_variables


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=LOADERS, required=True)
    parser.add_argument("--backbone", required=True, help="folder of the trained backbone and its tokenizer")
    parser.add_argument("--out", required=True, help="folder that the head is written to")
    parser.add_argument("--states", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3, help="of EM on the text")
    parser.add_argument("--objective-epochs", type=int, default=0, help="of objective (7) after EM")
    parser.add_argument("--objective-windows", type=int, default=19_200)
    parser.add_argument("--coupling", choices=COUPLINGS, default="projected")
    parser.add_argument("--modulation", choices=MODULATIONS, default="none")
    parser.add_argument("--exponents", type=int, default=0, help="mask ratios with learned exponents")
    parser.add_argument("--prior", help="folder of a prior to start from, in place of EM")
    parser.add_argument("--lr", type=float, default=3e-3, help="of objective (7)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", help="folder to resume from after an interruption")
    return parser.parse_args()


if __name__ == "__main__":
    main()
