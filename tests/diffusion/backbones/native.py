"""Folders with tiny random models of transformers, as `save_pretrained` leaves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models

VOCAB = 30
SPECIAL = ["<pad>", "<cls>", "<eos>", "<mask>"]
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(vocab_size=VOCAB, max_position_embeddings=20, **SIZES, **SPECIAL_IDS),
    "roberta": lambda: transformers.RobertaConfig(vocab_size=VOCAB, max_position_embeddings=20, **SIZES, **SPECIAL_IDS),
    "modernbert": lambda: transformers.ModernBertConfig(
        vocab_size=VOCAB + 2, max_position_embeddings=20, local_attention=4, **SIZES, **SPECIAL_IDS
    ),
    "esm": lambda: transformers.EsmConfig(
        vocab_size=VOCAB, max_position_embeddings=20, position_embedding_type="rotary", token_dropout=True,
        emb_layer_norm_before=False, mask_token_id=3, **SIZES, **SPECIAL_IDS,
    ),
}  # fmt: skip


def save_masked_lm(family: str, folder: Path, *, tokenizer: bool = True, **config: Any) -> Any:
    """Writes model and tokenizer into `folder`; returns the model."""
    settings = CONFIGS[family]()
    for name, value in config.items():
        setattr(settings, name, value)
    model = transformers.AutoModelForMaskedLM.from_config(settings).eval()
    _spread(model)
    model.save_pretrained(folder)
    if tokenizer:
        save_tokenizer(folder)
    return model


def save_tokenizer(folder: Path, size: int = VOCAB) -> None:
    """Special tokens, then the amino acids, then made-up words."""
    words = [*SPECIAL, *LETTERS, *(f"word{i}" for i in range(size))][:size]
    wordlevel = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<cls>"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=wordlevel, pad_token="<pad>", cls_token="<cls>", eos_token="<eos>", mask_token="<mask>"
    ).save_pretrained(folder)


def save_diffusion_gemma(folder: Path, *, canvas_length: int = 4) -> Any:
    """A mixture of two experts, one layer of each kind of attention; returns the model."""
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, global_head_dim=8, layer_types=["sliding_attention", "full_attention"],
        sliding_window=16, num_experts=2, top_k_experts=1, moe_intermediate_size=8, max_position_embeddings=20,
    )  # fmt: skip
    vision = transformers.AutoConfig.for_model(
        "gemma4_vision", hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=canvas_length)
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    _spread(model)
    model.save_pretrained(folder)
    return model


def _spread(model: torch.nn.Module) -> None:
    """Larger weights, so that predictions depend on the context by more than rounding."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "position" not in name:
                weight.mul_(10.0)
