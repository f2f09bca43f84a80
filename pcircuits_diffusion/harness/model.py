"""A coupled model as the lm-evaluation-harness sees it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

import pcircuits as pc
from pcircuits_diffusion.evaluate import Scheme, score_continuations
from pcircuits_diffusion.harness.requests import Wish, check_settings, read_wish
from pcircuits_diffusion.resolve import Loaded, default_block, find_source, load_model, longest_input
from pcircuits_diffusion.streaming import decided_prefix

TOKENS_A_STEP = 2  # unless `steps_per_block` says otherwise


@register_model("pcircuits_diffusion", "coupled_diffusion")
class CoupledDiffusionLM(TemplateLM):
    """`generate_until`, `loglikelihood` and `loglikelihood_rolling` of a backbone and its head.

    A diffusion model has one likelihood for each way of decoding. The one here is exact for a fixed order: blocks from
    left to right, each in `likelihood_steps` groups of neighbouring tokens, each group drawn jointly given all to its
    left (see `evaluate.Scheme`). With one step a block is scored by one coupled probability, without a head by a
    product of independent ones. `is_greedy` says whether decoding in that order at temperature 0 gives the
    continuation. Rolling likelihoods score a text from its first token, each block with as many tokens before it as
    the backbone takes.

    Args:
        backbone: "embedded", a folder, a hub id, or what `resolve.load_model` returned.
        head: a folder; "none" for the backbone alone; left out, the head beside the backbone. A head alone names its
            backbone.
        likelihood_steps: groups of a block while scoring.
        steps_per_block: calls of the backbone a block while generating; one for two tokens if left out.
        block_length: tokens decoded at once; the head's, else what the backbone was trained to fill.
        max_gen_toks: length of a text where a task does not say.
        batch_size: requests at once; "auto" is 16.
        prefix_token_id: stands before a text without context; the end-of-text token if left out.
        seed: the i-th request draws from seed + i, whatever is in its batch.
        settings: further fields of `Settings` for generation, such as remasking="entropy".

    Raises:
        pc.ParameterError, pc.FormatError: options or files that do not fit.
    """

    def __init__(  # noqa: PLR0913 - the harness passes all of it as one string
        self,
        backbone: str | Loaded | None = None,
        head: str | None = None,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: str | None = None,
        likelihood_steps: int = 1,
        steps_per_block: int | None = None,
        block_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        prefix_token_id: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, Loaded):
            backbone = load_model(find_source(backbone, head, revision, trust_remote_code, device), head)
        self.loaded = backbone
        self.model = self.loaded.model
        head_length = None if self.model.head is None else self.model.head.block_length
        self.block_length = head_length or block_length or default_block(self.model.backbone)
        self.scheme = Scheme(
            block_length=self.block_length, steps=likelihood_steps, max_context=longest_input(self.model.backbone)
        )
        self.steps_per_block = steps_per_block or max(1, self.block_length // TOKENS_A_STEP)
        self.settings = {"block_length": block_length or self.block_length, **check_settings(settings)}
        self.max_gen_toks, self.seed, self._prefix, self._device = (
            max_gen_toks,
            seed,
            prefix_token_id,
            backbone.source.device,
        )
        self.batch_size = 16 if batch_size == "auto" else int(batch_size)

    @property
    def eot_token_id(self) -> int:
        if self.loaded.tokenizer.eos_id is None:
            raise pc.ParameterError("the tokenizer has no end-of-text token; give `prefix_token_id`")
        return self.loaded.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self._prefix is None else self._prefix

    @property
    def tokenizer_name(self) -> str:
        return self.loaded.source.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids without special tokens; a chat template brings its own."""
        return self.loaded.tokenizer.encode(string)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What distinguishes caches of requests: the tokenizer's own template has no name."""
        return self.tokenizer_name if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if self.loaded.tokenizer.chat is None:
            raise pc.ParameterError(f"the tokenizer of {self.loaded.source.name!r} has no chat template")
        return self.loaded.tokenizer.chat(chat_history, add_generation_prompt=add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Scores pairs of token ids; pairs of like length share a batch."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        answers: dict[int, tuple[float, bool]] = {}
        for batch in _batches(order, self.batch_size, "loglikelihood", kwargs.get("disable_tqdm", False)):
            contexts, continuations = [requests[i][1] for i in batch], [requests[i][2] for i in batch]
            scores = score_continuations(self.model, contexts, continuations, self.scheme, device=self._device)
            for i, score in zip(batch, scores, strict=True):
                answers[i] = (score.log_prob, bool(score.is_greedy))
                self.cache_hook.add_partial("loglikelihood", requests[i][0], answers[i])
        return [answers[i] for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts; text and what stands before it as in `loglikelihood` with an empty context."""
        found: list[float] = []
        for batch in _batches(range(len(requests)), self.batch_size, "loglikelihood_rolling", disable_tqdm):
            texts = [self.tok_encode(requests[i].args[0]) for i in batch]
            prefixes = [[self.prefix_token_id]] * len(texts)
            scores = score_continuations(self.model, prefixes, texts, self.scheme, greedy=False, device=self._device)
            found += [score.log_prob for score in scores]
            for i, score in zip(batch, scores, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", requests[i].args, score.log_prob)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first of their stops, requests of the same keywords together."""
        kinds: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        wishes = {kind: read_wish(json.loads(kind), max_gen_toks=self.max_gen_toks) for kind in kinds}
        found: dict[int, str] = {}
        for kind, members in kinds.items():
            for batch in _batches(members, self.batch_size, "generate_until", disable_tqdm):
                texts = self._generate(
                    [requests[i].args[0] for i in batch], wishes[kind], [self.seed + i for i in batch]
                )
                for i, text in zip(batch, texts, strict=True):
                    found[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return [found[i] for i in range(len(requests))]

    def _generate(self, prompts: Sequence[str], wish: Wish, seeds: Sequence[int]) -> list[str]:
        """One batch; decoding ends once every row has met one of its stops in what is decided."""
        eos_id, mask_id = self.loaded.tokenizer.eos_id, self.model.backbone.mask_id
        ids = [torch.tensor(self.tok_encode(prompt), dtype=torch.long, device=self._device) for prompt in prompts]
        options = {**self.settings, **wish.settings, "eos_id": eos_id}
        options.setdefault("steps", self.steps_per_block * -(-wish.max_new_tokens // self.block_length))
        texts = [""] * len(prompts)
        for step in self.model.steps(ids, max_new_tokens=wish.max_new_tokens, seeds=seeds, **options):
            texts = [self.loaded.tokenizer.decode(decided_prefix(row, mask_id, eos_id)) for row in step.tokens]
            if all(wish.is_met(text) for text in texts):
                break
        return [wish.cut(text) for text in texts]


def _batches(items: Sequence[int], size: int, words: str, disable: bool) -> Iterator[list[int]]:
    with tqdm(total=len(items), desc=words, disable=disable) as bar:
        for start in range(0, len(items), size):
            batch = list(items[start : start + size])
            yield batch
            bar.update(len(batch))
