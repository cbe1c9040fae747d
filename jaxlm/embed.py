"""Texts → vectors of their tokens, or of themselves: any layer of any family.

A text stands alone: no vector depends on what else is in the call, and an ELMo starts
each from nothing unless it is asked to be stateful, as the original is. Boundaries and
special tokens are read and not returned.

A text that is longer than the context is read in windows that overlap by half, and each
token is taken from the window where it sees most: in the middle of a BERT's or an
ELMo's, in the second half of a GPT's. So memory is bounded by `batch` windows and one
text's own vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import BertConfig, ElmoConfig, GptConfig, ModelConfig
from jaxlm.models import LanguageModel, zero_carry
from jaxlm.models.layers import causal_mask
from jaxlm.text.characters import sentence_characters
from jaxlm.text.tokenizers import Tokenizer, WordVocab
from jaxlm.types import UserError

Layers = int | Literal["last", "all", "mix"]
Pooling = Literal["none", "mean", "cls", "sentence"]

_BUCKET = 32  # lengths are rounded up to a multiple, so that few programs are compiled
_ELMO_WINDOW = 1024  # words; a recurrence has no context of its own


class Embedded(NamedTuple):
    """Of one text; M layers first where all are asked for."""

    tokens: tuple[str, ...]
    vectors: np.ndarray  # float32 [(M,) L, D], pooled: [(M,) D]


class _Window(NamedTuple):
    text: int
    tokens: Sequence[Any]  # ids, or an ELMo's words
    keep: slice  # tokens of it whose vectors count
    last: bool  # of its text


def embed(
    module: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    layers: Layers = "last",
    pooling: Pooling = "mean",
    batch: int = 16,
    stateful: bool = False,
) -> Iterator[Embedded]:
    """Vectors of each text, in their order.

    Args:
        module: a language model.
        params: of it.
        tokenizer: of it.
        texts: any strings; an empty one has no tokens, and its mean is 0.
        layers: the last one, all (the embedding first), one by its number (0: the
            embedding, negative ones from the end), or the plain mean of all, where
            `ScalarMix` starts.
        pooling: a vector a token ("none"), their mean, that of BERT's [CLS], or the
            mean of all with [CLS] and [SEP], of length 1 ("sentence"), as
            sentence-transformers has it.
        batch: windows at a time.
        stateful: ELMo: text n goes on, in both directions, from the state in which text
            n - `batch` ended, as allenai/bilm-tf does; texts are then read whole.

    Raises:
        UserError: the family has no such layer, pooling or state.
    """
    config = module.config
    count = config.num_layers + 1
    if isinstance(layers, int) and not -count <= layers < count:
        raise UserError(f"layer {layers}: there are 0 (embedding) to {count - 1}")
    if pooling in ("cls", "sentence") and not isinstance(config, BertConfig):
        raise UserError("only a BERT has a [CLS]: pooling is none or mean")
    if stateful and not isinstance(config, ElmoConfig):
        raise UserError("only an ELMo has a state from text to text")
    if batch < 1:
        raise UserError(f"batch = {batch} must be positive")
    read = _reader(module, params, tokenizer, layers, batch, stateful)
    windows = _windows(config, tokenizer, texts, whole=stateful)
    parts: list[np.ndarray] = []
    tokens: list[str] = []
    for window, vectors, cls, sep in _by_batches(windows, read, batch):
        parts.append(vectors)
        tokens += _spelled(tokenizer, window.tokens[window.keep])
        if not window.last:
            continue
        whole = np.concatenate(parts, axis=-2)
        if pooling == "mean":
            whole = whole.sum(-2) / max(1, whole.shape[-2])
        elif pooling == "cls":
            whole = cls
        elif pooling == "sentence":
            total = whole.sum(-2) + cls + sep
            whole = total / np.linalg.norm(total, axis=-1, keepdims=True)
        yield Embedded(tuple(tokens), whole)
        parts, tokens = [], []


def _windows(
    config: ModelConfig, tokenizer: Tokenizer, texts: Iterable[str], *, whole: bool
) -> Iterator[_Window]:
    match config:
        case BertConfig():
            width, lead = config.max_length - 2, 0.25
        case GptConfig():
            width, lead = config.max_length, 0.5
        case ElmoConfig():
            width, lead = _ELMO_WINDOW, 0.25
    for number, text in enumerate(texts):
        if isinstance(tokenizer, WordVocab):
            tokens: Sequence[Any] = tokenizer.cut(text)
        else:
            tokens = tokenizer.encode(text).ids.tolist()
        size = len(tokens)
        starts = [0]
        if size > width and not whole:
            starts = [*range(0, size - width, width // 2), size - width]
        # Where the tokens that each window keeps begin; the last ends with the text.
        begins = [start + int(lead * width) * (start > 0) for start in starts]
        for start, begin, end in zip(starts, begins, [*begins[1:], size], strict=True):
            stop = size if whole else min(start + width, size)
            keep = slice(begin - start, end - start)
            yield _Window(number, tokens[start:stop], keep, end == size)


def _by_batches(
    windows: Iterator[_Window],
    read: Callable[[list[Sequence[Any]]], tuple[np.ndarray, np.ndarray]],
    batch: int,
) -> Iterator[tuple[_Window, np.ndarray, np.ndarray, np.ndarray]]:
    """(window, vectors that it keeps [(M,) l, D], those of the places before and behind
    its tokens [(M,) D])."""
    waiting: list[_Window] = []

    def done():
        hidden, first = read([window.tokens for window in waiting])
        for row, window in enumerate(waiting):
            behind = min(len(window.tokens), hidden.shape[-2] - 1)
            yield (
                window,
                hidden[..., row, window.keep, :],
                first[..., row, :],
                hidden[..., row, behind, :],
            )
        waiting.clear()

    for window in windows:
        waiting.append(window)
        if len(waiting) == batch:
            yield from done()
    if waiting:
        yield from done()


def _reader(
    module: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    layers: Layers,
    batch: int,
    stateful: bool,
) -> Callable[[list[Sequence[Any]]], tuple[np.ndarray, np.ndarray]]:
    """Rows of tokens → hidden states of these tokens, and of the place before them."""
    config = module.config

    def chosen(hidden: jax.Array) -> jax.Array:
        hidden = hidden.astype(jnp.float32)
        if layers == "all":
            return hidden
        if layers == "mix":
            return hidden.mean(0)
        return hidden[-1 if layers == "last" else layers]

    @jax.jit
    def apply(inputs: tuple, carry: Any):
        with jax.default_matmul_precision("float32"):
            if isinstance(config, ElmoConfig):
                characters, mask = inputs
                inputs = characters, None, mask, carry
            out: Any = module.apply({"params": params}, *inputs, logits=False)
            return chosen(out.hidden), getattr(out, "state", carry)

    carry = zero_carry(module, batch)

    def read(rows: list[Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
        nonlocal carry
        first = 0 if isinstance(config, GptConfig) else 1  # a boundary before the text
        inputs = _inputs(config, tokenizer, rows, batch, stateful)
        hidden, after = apply(inputs, carry)
        if stateful:
            carry = jax.tree.map(
                lambda new, old: jnp.concatenate([new[: len(rows)], old[len(rows) :]]),
                after,
                carry,
            )
        hidden = np.asarray(hidden)
        return hidden[..., first:, :], hidden[..., 0, :]

    return read


def _inputs(
    config: ModelConfig,
    tokenizer: Tokenizer,
    rows: list[Sequence[Any]],
    batch: int,
    exact: bool,
) -> tuple:
    """Arguments of a family's module: `batch` rows, of a length that recurs."""
    rows = [*rows, *[()] * (batch - len(rows))]
    longest = max(map(len, rows)) + (0 if isinstance(config, GptConfig) else 2)
    longest = max(1, longest)
    length = longest if exact else -(-longest // _BUCKET) * _BUCKET
    if isinstance(config, ElmoConfig):
        ids, mask = sentence_characters(rows, slots=config.max_characters)
        grow = length - ids.shape[1]
        ids = np.pad(ids, ((0, 0), (0, grow), (0, 0)))
        return ids.astype(np.int32), np.pad(mask, ((0, 0), (0, grow)))
    length = min(length, config.max_length)
    tokens = np.zeros((batch, length), np.int32)
    mask = np.zeros((batch, length), bool)
    for row, (ids, real) in zip(rows, zip(tokens, mask, strict=True), strict=True):
        if isinstance(config, BertConfig):
            special = tokenizer.special
            assert special is not None
            row = [special.cls, *row, special.sep]
        ids[: len(row)] = row
        real[: len(row)] = True
    if isinstance(config, GptConfig):
        return tokens, None, causal_mask(length) & mask[:, None]
    return tokens, np.zeros_like(tokens), mask


def _spelled(tokenizer: Tokenizer, tokens: Sequence[Any]) -> list[str]:
    if isinstance(tokenizer, WordVocab):
        return list(tokens)
    return [tokenizer.token(token) for token in tokens]
