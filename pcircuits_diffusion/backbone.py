"""What the package asks of a masked diffusion language model, and the one wrapper that makes it of a module.

Axes: B batch, L positions, S positions of the span, V real tokens, W columns of the module's logits, D hidden units.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn

import pcircuits as pc
from pcircuits.types import Bool, Float, Tensor

Call = Callable[[Any, Tensor, Tensor | None], Any]
"""`call(module, tokens, valid)` -> logits (B, L, W), or an object with `logits`; `valid` None: there is no padding."""


@runtime_checkable
class Backbone(Protocol):
    """A model that predicts every masked token of a sequence at once.

    Optional capabilities, found with `hasattr`: `hidden(tokens, *, valid=None, span=None)`, the last hidden states
    (B, |span|, D), those that the predictions of the same positions are made from; `predict` with the same arguments,
    log marginals and hidden states of one pass.
    """

    vocab_size: int
    """V, the number of real tokens: the width of what `log_marginals` returns."""
    mask_id: int
    """The id that stands for an open position in `tokens`. A model without a mask token takes V, which no text holds,
    and puts there what it was trained on (uniform noise, say); its rows of other positions are predictions too."""

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """log p(x_i = v | unmasked tokens), natural log, float32 (B, |span|, V); each row is normalised over V.

        `tokens` (B, L) int64; `valid` (B, L) bool is False on padding (default: no padding); `span` selects the
        positions i (default: all). Rows of observed positions and of padding carry no meaning.
        """
        ...


class Prediction(NamedTuple):
    """What a backbone says of some positions: log marginals, and its hidden states where they were asked for."""

    log_marginals: Float[Tensor, "B L V"]
    hidden: Float[Tensor, "B L E"] | None


def predict(
    backbone: Backbone,
    tokens: Tensor,
    *,
    hidden: bool,
    valid: Tensor | None = None,
    span: slice | None = None,
) -> Prediction:
    """Asks a backbone, in one pass where it can, for its log marginals and, if wanted, its hidden states.

    Raises:
        pc.ParameterError: a backbone without hidden states.
    """
    if not hidden:
        return Prediction(backbone.log_marginals(tokens, valid=valid, span=span), None)
    if hasattr(backbone, "predict"):
        return Prediction(*backbone.predict(tokens, valid=valid, span=span))
    if not hasattr(backbone, "hidden"):
        raise pc.ParameterError(
            f"{type(backbone).__name__} has no hidden states, which this head is modulated by; use modulation='none'"
        )
    log_marginals = backbone.log_marginals(tokens, valid=valid, span=span)
    return Prediction(log_marginals, backbone.hidden(tokens, valid=valid, span=span))


def plain(module: Any, tokens: Tensor, valid: Tensor | None) -> Any:
    """The call of a module that sees tokens only."""
    return module(tokens)


@dataclasses.dataclass(eq=False)
class ModuleBackbone:
    """Makes a `Backbone` of a module, or of any function from tokens (B, L) to logits (B, L, W).

    A padded row is predicted as it would be without its padding and its neighbours.

    Attributes:
        call: how the module is called, and what it needs besides tokens.
        columns: W, checked against every result; V if left out. Columns from V on are cut.
        forbidden: ids below V with probability zero; a mask id below V is one of them.
        shift: the logits of position i - 1 predict position i. The first token of a row then has no prediction.
        pads: `call` can leave out the padding of a batch. Without that, rows of different length run one after another.
        pad_id: takes the place of padded tokens.
        output_layer: the module's last, linear layer, a part of `module`. With it only the logits of the span are
            computed, and there are `hidden`, what goes into this layer, and `predict`.
        max_length: of rows, padding included.
        name_or_path: where it was loaded from; kept in saved heads.

    Raises:
        pc.ShapeError: tokens, `valid` or `span` that do not fit each other, or logits that are not (B, L, W).
        pc.DataError: ids that the module does not know, an empty row, or a mask that has no prediction.
        pc.EvidenceError: predictions that are NaN, +inf or all -inf.
    """

    module: Any = dataclasses.field(repr=False)
    vocab_size: int
    mask_id: int
    _: dataclasses.KW_ONLY
    call: Call = plain
    columns: int | None = None
    forbidden: Collection[int] = ()
    shift: bool = False
    pads: bool = False
    pad_id: int = 0
    output_layer: nn.Module | None = None
    max_length: int | None = None
    name_or_path: str | None = None

    def __post_init__(self) -> None:
        self.width = self.vocab_size if self.columns is None else self.columns
        if not 1 <= self.vocab_size <= self.width:
            raise pc.ParameterError(
                f"`vocab_size` must be in 1..{self.width}, the logits' width; got {self.vocab_size}"
            )
        ids = sorted({*self.forbidden, *([self.mask_id] if self.mask_id < self.vocab_size else [])})
        if self.mask_id < 0 or (ids and not 0 <= ids[0] <= ids[-1] < self.vocab_size):
            raise pc.ParameterError(f"`mask_id` {self.mask_id} or `forbidden` {ids}: outside 0..{self.vocab_size - 1}")
        if len(ids) == self.vocab_size:
            raise pc.ParameterError("`forbidden` leaves no token")
        self._bias = torch.zeros(self.vocab_size).index_fill(0, torch.tensor(ids, dtype=torch.long), -torch.inf)

    def log_marginals(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        """See `Backbone.log_marginals`; rows without a prediction (padding) are uniform."""
        return self._normalised(*self._aligned(tokens, valid, span, self._logits))

    def _normalised(self, logits: Float[Tensor, "B S W"], known: Bool[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        bias = self._bias.to(logits.device)
        result = (logits[..., : self.vocab_size].float() + bias).log_softmax(-1)
        require_finite(result, known)
        return result if known.all() else torch.where(known.unsqueeze(-1), result, bias.log_softmax(-1))

    @property
    def hidden(self) -> Callable[..., Tensor]:
        """`hidden(tokens, *, valid=None, span=None)` -> (B, |span|, D), see `Backbone`; zero on padding.

        Raises:
            AttributeError: there is no `output_layer`, so that `hasattr` says no.
        """
        if self.output_layer is None:
            raise AttributeError("this backbone has no `hidden`; it needs `output_layer`")
        return self._hidden

    def _hidden(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> Tensor:
        states, known = self._aligned(tokens, valid, span, self._states)
        return states * known.unsqueeze(-1)

    @property
    def predict(self) -> "Callable[..., Prediction]":
        """`predict(tokens, *, valid=None, span=None)`: log marginals and hidden states of one call of the module.

        Raises:
            AttributeError: as for `hidden`.
        """
        if self.output_layer is None:
            raise AttributeError("this backbone has no `predict`; it needs `output_layer`")
        return self._predict

    def _predict(self, tokens: Tensor, *, valid: Tensor | None = None, span: slice | None = None) -> "Prediction":
        found, known = self._aligned(tokens, valid, span, self._both)
        logits, states = found[..., : self.width], found[..., self.width :]
        return Prediction(self._normalised(logits, known), states * known.unsqueeze(-1))

    def _logits(self, tokens: Tensor, valid: Tensor | None, positions: slice) -> Float[Tensor, "B S W"]:
        with self._narrowed(positions):
            output = self.call(self.module, tokens, valid)
        return self._checked(output, tokens, positions)

    def _both(self, tokens: Tensor, valid: Tensor | None, positions: slice) -> Float[Tensor, "B S X"]:
        """Logits, and behind them the hidden states that they are made from."""
        with self._narrowed(positions) as inputs:
            output = self.call(self.module, tokens, valid)
        logits = self._checked(output, tokens, positions)
        return torch.cat([logits, self._only(inputs)[:, positions].to(logits.dtype)], -1)

    def _checked(self, output: Any, tokens: Tensor, positions: slice) -> Float[Tensor, "B S W"]:
        logits = output if isinstance(output, Tensor) else output.logits
        length = tokens[0, positions].numel() if self.output_layer is not None else tokens.shape[1]
        expected = (len(tokens), length, self.width)
        if logits.shape != expected:
            raise pc.ShapeError(f"the module returned logits of shape {tuple(logits.shape)}, expected {expected}")
        return logits if self.output_layer is not None else logits[:, positions]

    def _states(self, tokens: Tensor, valid: Tensor | None, positions: slice) -> Float[Tensor, "B S D"]:
        with self._narrowed(slice(0, 0)) as inputs:
            self.call(self.module, tokens, valid)
        return self._only(inputs)[:, positions]

    @staticmethod
    def _only(inputs: list[Tensor]) -> Float[Tensor, "B L D"]:
        if len(inputs) != 1:
            raise pc.ParameterError(f"`output_layer` must be used once a call of the module, not {len(inputs)} times")
        return inputs[0]

    @contextmanager
    def _narrowed(self, positions: slice) -> Iterator[list[Tensor]]:
        """Meanwhile the output layer sees only these positions; yields its whole inputs, (B, L, D) each."""
        inputs: list[Tensor] = []
        if self.output_layer is None:
            yield inputs
            return

        def narrow(_: nn.Module, args: tuple) -> tuple:
            inputs.append(args[0])
            return (args[0][:, positions], *args[1:])

        handle = self.output_layer.register_forward_pre_hook(narrow)
        try:
            yield inputs
        finally:
            handle.remove()

    def _aligned(
        self, tokens: Tensor, valid: Tensor | None, span: slice | None, read: Callable[..., Tensor]
    ) -> tuple[Float[Tensor, "B S X"], Bool[Tensor, "B S"]]:
        """What `read` finds for the positions of the span, and where it says anything."""
        self._require(tokens, valid)
        positions = consecutive(span, tokens.shape[1])
        start, stop = positions.start, positions.stop
        present = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        known = present & (present.cumsum(1) > 1) if self.shift else present
        if self.shift and (bad := (tokens == self.mask_id) & present & ~known).any():
            rows = bad.any(1).nonzero().flatten()[:8].tolist()
            raise pc.DataError(
                f"rows {rows} begin with a mask, which this backbone cannot predict: it predicts each token at the one "
                "before; begin with a token, such as the begin-of-text one"
            )
        if present.all():
            found = self._shifted(tokens, None, start, stop, read)
        elif self.pads:
            found = self._shifted(torch.where(present, tokens, self.pad_id), present, start, stop, read)
        else:
            found = self._without_padding(tokens, present, start, stop, read)
        return found, known[:, start:stop]

    def _without_padding(
        self, tokens: Tensor, present: Tensor, start: int, stop: int, read: Callable[..., Tensor]
    ) -> Float[Tensor, "B S X"]:
        """Rows with equal padding together, the padding cut out."""
        found, patterns = None, present.unique(dim=0)
        for pattern in patterns:
            rows = (present == pattern).all(1).nonzero().flatten()
            columns = pattern.nonzero().flatten()
            inside = (columns >= start) & (columns < stop)
            if not inside.any():
                continue
            first = int((columns < start).sum())
            part = self._shifted(tokens[rows][:, columns], None, first, first + int(inside.sum()), read)
            found = part.new_zeros(len(tokens), stop - start, part.shape[-1]) if found is None else found
            found[rows[:, None], columns[inside] - start] = part
        if found is None:
            raise pc.DataError("`span` holds nothing but padding")
        return found

    def _shifted(
        self, tokens: Tensor, valid: Tensor | None, start: int, stop: int, read: Callable[..., Tensor]
    ) -> Float[Tensor, "B S X"]:
        if not self.shift:
            return read(tokens, valid, slice(start, stop))
        found = read(tokens, valid, slice(max(start - 1, 0), stop - 1))
        return F.pad(found, (0, 0, 1, 0)) if start == 0 else found

    def _require(self, tokens: Tensor, valid: Tensor | None) -> None:
        require_tokens(tokens, valid)
        if self.max_length is not None and tokens.shape[1] > self.max_length:
            raise pc.ShapeError(f"{tokens.shape[1]} tokens exceed this backbone's `max_length` of {self.max_length}")
        unknown = ((tokens < 0) | (tokens >= self.width)) & (tokens != self.mask_id)
        require_known(unknown, valid, self.width - 1)


def require_tokens(tokens: Tensor, valid: Tensor | None) -> None:
    """Raises pc.ShapeError unless tokens are int64 (B, L) and `valid` is bool of their shape."""
    if tokens.ndim != 2 or tokens.dtype != torch.long or not tokens.numel():
        raise pc.ShapeError(f"`tokens` must be int64 (B, L), got {tokens.dtype} of shape {tuple(tokens.shape)}")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != tokens.shape):
        shape = tuple(tokens.shape)
        raise pc.ShapeError(f"`valid` must be bool of shape {shape}, got {valid.dtype} {tuple(valid.shape)}")


def require_known(unknown: Bool[Tensor, "B L"], valid: Bool[Tensor, "B L"] | None, highest: int) -> None:
    """Raises pc.DataError where a token outside padding is unknown, or a row is nothing but padding."""
    bad = unknown.any(1) if valid is None else (unknown & valid).any(1) | ~valid.any(1)
    if bad.any():
        rows = bad.nonzero().flatten()[:8].tolist()
        raise pc.DataError(f"rows {rows} hold ids outside 0..{highest}, or nothing but padding")


def require_finite(log_marginals: Float[Tensor, "B S V"], known: Bool[Tensor, "B S"] | None = None) -> None:
    """Raises pc.EvidenceError where normalised predictions of known positions are NaN."""
    bad = log_marginals.isnan().any(-1)
    if known is not None:
        bad = bad & known
    if bad.any():
        rows = bad.any(1).nonzero().flatten()[:8].tolist()
        raise pc.EvidenceError(f"the backbone's predictions are NaN, +inf or all -inf in batch rows {rows}")


def consecutive(span: slice | None, length: int) -> slice:
    """The span's first and last position; raises pc.ShapeError unless it selects consecutive ones."""
    start, stop, step = (span or slice(None)).indices(length)
    if step != 1 or start >= stop:
        raise pc.ShapeError(f"`span` must select consecutive positions of {length}, got {span}")
    return slice(start, stop)


class CallableBackbone(ModuleBackbone):
    """A `ModuleBackbone` of a function from tokens (B, L) int64 to logits (B, L, V), and nothing else.

    >>> uniform = CallableBackbone(lambda tokens: torch.zeros(*tokens.shape, 4), vocab_size=4, mask_id=4)
    >>> uniform.log_marginals(torch.tensor([[4, 1]]), span=slice(0, 1)).exp()
    tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], vocab_size: int, mask_id: int) -> None:
        super().__init__(fn, vocab_size, mask_id)
        self.fn = fn
