"""Texts → vectors of their tokens or of whole texts, from any layer of any family.

No vector depends on the other texts of the call: an ELMo starts each text from a zero
state, unless `stateful` carries the state on as the original does. Special tokens are
read, but their vectors are not returned.

A text longer than the context is read in windows that overlap by half. The vector of a
token is taken from the window that gives it the most context: from a window's middle
or, in a decoder, from its second half. So memory is bounded by `batch` windows and the
vectors of one text.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import ModelConfig
from jaxlm.config.vectors import VectorOptions
from jaxlm.families import family_of
from jaxlm.families.elmo import with_words
from jaxlm.families.family import Frame, Tokens
from jaxlm.models.sentence import SentenceModel
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.unknown_words import warn_unknown
from jaxlm.types import UserError


class Embedded(NamedTuple):
    """The vectors of one text; if all layers are asked for, M is the first axis."""

    tokens: tuple[str, ...]
    vectors: np.ndarray  # float32 [(M,) L, D], pooled: [(M,) D]
    cut_off: int = 0  # tokens past the longest text of a sentence model


class _Window(NamedTuple):
    tokens: Tokens
    keep: slice  # tokens whose vectors are taken from this window
    strings: list[str]  # of these tokens
    last: bool  # of its text
    cut_off: int  # tokens of the text that no window has


def embed(
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    options: VectorOptions,
    sentence: SentenceModel | None = None,
) -> Iterator[Embedded]:
    """The vectors of each text, in order; an empty text has no tokens and mean 0."""
    layers, pooling = options.layers, options.pooling
    family, count = family_of(config), config.num_layers + 1
    if isinstance(layers, int) and not -count <= layers < count:
        raise UserError(f"layer {layers}: there are 0 (embedding) to {count - 1}")
    known = family.has_cls or (pooling == "sentence" and sentence)
    if pooling in ("cls", "sentence") and not known:
        raise UserError(f"{family.article} has no [CLS]: pooling is none or mean")
    if options.stateful and not family.stateful:
        raise UserError(f"{family.article} has no state that goes from text to text")
    frame = family.frame(config, with_words(tokenizer, options.words))
    first, end = len(frame.begin), len(frame.end)
    sentence, prompt, longest = sentence or SentenceModel(), 0, 0
    if pooling == "sentence":
        before = sentence.prompt_of(options.prompt)
        texts = (sentence.as_read(before + text) for text in texts)
        if before:
            prompt = first + len(frame.spelled(sentence.as_read(before))[0])
        longest = max(0, sentence.max_length - first - end)
    parts: list[np.ndarray] = []
    tokens: list[str] = []
    counts = Counter[str]()
    for window, hidden in _read(config, params, frame, texts, options, longest):
        behind = first + len(window.tokens)
        parts.append(hidden[..., first:behind, :][..., window.keep, :])
        tokens += window.strings
        if not window.last:
            continue
        whole = np.concatenate(parts, axis=-2)
        if pooling == "mean":
            whole = whole.sum(-2) / max(1, whole.shape[-2])
        elif pooling == "cls":
            whole = hidden[..., 0, :]
        elif pooling == "sentence":
            row = hidden[..., :first, :], whole, hidden[..., behind : behind + end, :]
            whole = sentence.vector(np.concatenate(row, axis=-2), prompt)
        yield Embedded(tuple(tokens), whole, window.cut_off)
        counts.update(tokens)
        parts, tokens = [], []
    warn_unknown(tokenizer, counts)


def bucket(length: int) -> int:
    """The length to pad a row to: a multiple of 32, so that few programs compile."""
    return -(-length // 32) * 32


def _read(
    config: ModelConfig,
    params: Any,
    frame: Frame,
    texts: Iterable[str],
    options: VectorOptions,
    longest: int,
) -> Iterator[tuple[_Window, np.ndarray]]:
    """Each window of the texts, with the hidden states [(M,) L, D] of its row."""
    family, batch, stateful = family_of(config), options.batch, options.stateful
    layers, dtype = options.layers, jax.tree.leaves(params)[0].dtype
    encoder = family.encoder(config, dtype=dtype)

    @jax.jit
    def apply(tokens: jax.Array, mask: jax.Array, carry: Any):
        with jax.default_matmul_precision("float32"):
            types = jnp.zeros(mask.shape, jnp.int32)
            inputs = {"params": params}, tokens, types, mask
            out, carry = encoder.apply(*inputs, carry=carry, method=family.encode)
        hidden = out.hidden.astype(jnp.float32)
        if layers == "mix":
            return hidden.mean(0), carry
        if layers != "all":
            hidden = hidden[-1 if layers == "last" else layers]
        return hidden, carry

    carry = family.zero_carry(config, batch)
    windows = _windows(config, frame, texts, whole=stateful, longest=longest)
    while waiting := list(itertools.islice(windows, batch)):
        count = len(waiting)
        read = [window.tokens for window in waiting]
        rows = [frame.row(each) for each in read + [read[0][:0]] * (batch - count)]
        length = max(1, *map(len, rows))
        length = length if stateful else bucket(length)
        padded, mask = frame.padded(rows, min(length, config.max_length))
        out, after = apply(padded.astype(np.int32), mask, carry)
        if stateful:
            carry = jax.tree.map(
                lambda new, old, count=count: jnp.concatenate(
                    [new[:count], old[count:]]
                ),
                after,
                carry,
            )
        hidden = np.asarray(out)
        for row, window in enumerate(waiting):
            yield window, hidden[..., row, :, :]


def _windows(
    config: ModelConfig,
    frame: Frame,
    texts: Iterable[str],
    *,
    whole: bool,
    longest: int,
) -> Iterator[_Window]:
    """`longest` is the number of a text's tokens that are read; 0: all of them."""
    family = family_of(config)
    width = family.window(config)
    lead = int(width * (0.25 if family.bidirectional else 0.5))
    for text in texts:
        tokens, strings = frame.spelled(text)
        cut_off = max(0, len(strings) - longest) if longest else 0
        size = len(strings) - cut_off
        tokens, strings = tokens[:size], strings[:size]
        starts = [0]
        if size > width and not whole:
            starts = [*range(0, size - width, width // 2), size - width]
        # Where the tokens that each window keeps begin; the last ends with the text.
        begins = [start + lead * (start > 0) for start in starts]
        for start, begin, end in zip(starts, begins, [*begins[1:], size], strict=True):
            read = tokens[start:] if whole else tokens[start : start + width]
            keep = slice(begin - start, end - start)
            yield _Window(read, keep, strings[begin:end], end == size, cut_off)
