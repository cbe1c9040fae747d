"""Texts → where heads look: figures of each head, and the probabilities of one text.

A text is a string, or a pair of strings: two segments of one row.

    query \\ key   [CLS]  the  keys  [SEP]
    [CLS]           ·     ·     ·     ·      query 0 counts nowhere: a decoder's sees
    the             first self  next  sep    itself alone
    keys            first prev  self  sep

A figure is a mean over the queries of all rows: of the probability on the first token,
on [SEP], on itself, on the token before and after; of the entropy of the probabilities,
in nats; and of the distance to what is looked at, in tokens. A sink is a head with more
than half on the first token.

Each layer is reduced to sums as soon as it is computed, so memory is that of one layer
of one batch, however long the text.
"""

import codecs
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.config import ModelConfig
from jaxlm.families import family_of
from jaxlm.families.family import Frame, Tokens
from jaxlm.probe.features import Reader, encode
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.types import UserError, note

Given = str | tuple[str, str]
FIGURES = ("first", "sep", "itself", "previous", "next", "entropy", "distance")
SINK = 0.5  # of the probability on the first token
_SCORES = 1 << 24  # probabilities of a layer at once
_POOL = 256  # rows that are put in order of length
_EVERY = 50_000  # tokens between two notes of how far it is


# How byte-level BPE writes bytes: those that are visible as themselves.
_AS_IS = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [each for each in range(256) if each not in _AS_IS]
_BYTES = {chr(each): each for each in _AS_IS}
_BYTES |= {chr(256 + i): each for i, each in enumerate(_HIDDEN)}
_VISIBLE = str.maketrans(" \n\t", "·↵→")


class Row(NamedTuple):
    """The tokens [L] of one or two texts, and their types: 1 in the second text."""

    tokens: Tokens
    types: np.ndarray


class Heads(NamedTuple):
    """Figures of each head over a text, float64 [N, H] by name of `FIGURES`; NaN where
    no query has one, as "sep" of a decoder."""

    figures: dict[str, np.ndarray]
    tokens: int  # of all rows, with [CLS] and [SEP]
    rows: int
    even: float  # the share on the first token of a head that looks at all it sees

    @property
    def sinks(self) -> np.ndarray:
        """The share of heads in each layer that are sinks, [N]."""
        return (self.figures["first"] > SINK).mean(1)


def head_sums(
    p_BHLL: Float[Array, "B H L L"],
    lengths_B: Int[Array, "B"],
    sep_BL: Bool[Array, "B L"],
) -> dict[str, Float[Array, "H"]]:
    """The sum of each figure over the queries that count."""
    at_L = jnp.arange(p_BHLL.shape[2])
    real_BL = at_L[None] < lengths_B[:, None]
    counts_BL = (real_BL & (at_L > 0)[None]).astype(jnp.float32)

    def total(each_BHL: Array) -> Array:
        return jnp.einsum("bhl,bl->h", each_BHL, counts_BL[:, -each_BHL.shape[2] :])

    def beside(by: int) -> Array:
        return jnp.diagonal(p_BHLL, by, axis1=2, axis2=3)

    far_LL = jnp.abs(at_L[:, None] - at_L[None]).astype(jnp.float32)
    entropy_BHL = -jax.scipy.special.xlogy(p_BHLL, p_BHLL).sum(-1)
    # On the last token's right is padding, whose probability is 0, or nothing.
    after_BHL = jnp.pad(beside(1), ((0, 0), (0, 0), (0, 1)))
    return {
        "first": total(p_BHLL[..., 0]),
        "sep": total(jnp.einsum("bhlt,bt->bhl", p_BHLL, sep_BL.astype(jnp.float32))),
        "itself": total(beside(0)),
        "previous": total(beside(-1)),
        "next": total(after_BHL),
        "entropy": total(entropy_BHL),
        "distance": total(jnp.einsum("bhlt,lt->bhl", p_BHLL, far_LL)),
    }


@partial(jax.jit, static_argnums=0)
def _sums(config: ModelConfig, params: Any, rows: Any, sep: Any) -> dict[str, Array]:
    tokens, _, mask = rows

    def looks(p_BHLL: Array) -> dict[str, Array]:
        return head_sums(p_BHLL, mask.sum(1), tokens == sep)

    return encode(config, params, rows, looks=looks).attention


@partial(jax.jit, static_argnums=0)
def _whole(config: ModelConfig, params: Any, rows: Any) -> Array:
    return encode(config, params, rows, looks=lambda p_BHLL: p_BHLL).attention


class Looker:
    """A model whose attention is looked at."""

    def __init__(self, reader: Reader, longest: int) -> None:
        """`longest` is the length of a row."""
        self.reader, self.longest = reader, longest
        self.frame: Frame = reader.frame()
        self.room = longest - len(self.frame.begin) - len(self.frame.end)
        special = reader.tokenizer.special
        self.sep = special.sep if special and len(self.frame.end) else -1
        self.causal = not family_of(reader.config).bidirectional

    def rows(self, texts: Iterable[Given]) -> Iterator[Row]:
        """The rows of texts. A text longer than a row is cut into several; a pair is
        shortened, as in fine-tuning, and a note says so."""
        for text in texts:
            if not isinstance(text, str):
                yield self._pair(text)
                continue
            tokens, _ = self.frame.spelled(text)
            for start in range(0, len(tokens), self.room):
                row = self.frame.row(tokens[start : start + self.room])
                yield Row(row, np.zeros(len(row), np.int32))

    def _pair(self, texts: tuple[str, str]) -> Row:
        if not len(self.frame.between):
            article = family_of(self.reader.config).article
            raise UserError(f"{article} reads one text at a time, not a pair")
        a, b = (self.frame.spelled(each)[0] for each in texts)
        cut = max(0, len(a) + len(b) + len(self.frame.between) - self.room)
        for _ in range(cut):  # the longer text loses its last token
            a, b = (a[:-1], b) if len(a) > len(b) else (a, b[:-1])
        if cut:
            note(f"the pair is cut to {self.longest:,} tokens, by {cut:,}")
        row = self.frame.row(a, b)
        second = len(row) - len(b) - len(self.frame.end)
        return Row(row, (np.arange(len(row)) >= second).astype(np.int32))

    def heads(
        self,
        texts: Iterable[Given],
        tell: Callable[[str], None] = lambda _: None,
    ) -> Heads:
        """The figures of each head; UserError if the texts have no tokens."""
        total: dict[str, np.ndarray] = {}
        tokens = count = told = with_next = 0
        even, words = 0.0, Counter[str]()
        rows, (config, params, tokenizer) = self.rows(texts), self.reader
        while pool := sorted(
            itertools.islice(rows, _POOL), key=lambda r: len(r.tokens)
        ):
            for batch in self._batches(pool):
                found = jax.device_get(_sums(config, params, batch, self.sep))
                for name, each in found.items():
                    total[name] = total.get(name, 0) + each.astype(np.float64)
            sizes = [len(row.tokens) for row in pool]
            tokens += sum(sizes)
            count += len(pool)
            with_next += sum(max(0, size - 2) for size in sizes)
            even += sum(map(self._even, sizes))
            words += counted(tokenizer, np.concatenate([row.tokens for row in pool]))
            if tokens - told >= _EVERY:
                told = tokens
                tell(f"{tokens:,} tokens")
        if not count:
            raise UserError("the text is empty: there is nothing to look at")
        if tokens == count:
            raise UserError(
                "each text is one token, which sees itself alone: add words"
            )
        warn_unknown(tokenizer, words)
        queries = dict.fromkeys(FIGURES, tokens - count) | {"next": with_next}
        means = {name: each / (queries[name] or np.nan) for name, each in total.items()}
        if self.sep < 0:
            means["sep"] = np.full_like(means["sep"], np.nan)
        return Heads(means, tokens, count, even / (tokens - count))

    def _even(self, length: int) -> float:
        """The sum of the even shares on the first token over the queries of a row."""
        seen = np.arange(2, length + 1) if self.causal else np.full(length - 1, length)
        return float((1 / seen).sum())

    def _batches(self, pool: Sequence[Row]) -> Iterator[tuple[Any, Any, Any]]:
        """(tokens, token types, mask) of rows in order of length, in few shapes."""
        config: Any = self.reader.config
        pool = list(pool)
        while pool:
            first = len(pool[0].tokens)
            length = 1 << max(5, (first - 1).bit_length())
            length = min(length, max(self.longest, first))
            most = max(1, _SCORES // (config.num_heads * length**2))
            size = min(64, 1 << most.bit_length() - 1)
            taken = [each for each in pool[:size] if len(each.tokens) <= length]
            pool = pool[len(taken) :]
            # Rows of one token fill the batch: they have no query.
            filler = Row(taken[0].tokens[:1], taken[0].types[:1])
            yield self._padded([*taken, *[filler] * (size - len(taken))], length)

    def _padded(self, rows: Sequence[Row], length: int) -> tuple[Any, Any, Any]:
        tokens, mask = self.frame.padded([row.tokens for row in rows], length)
        types = np.zeros(mask.shape, np.int32)
        types[mask] = np.concatenate([row.types for row in rows])
        return tokens.astype(np.int32), types, mask

    def probabilities(self, row: Row) -> np.ndarray:
        """Those of a row, float32 [N, H, L, L]."""
        size = len(row.tokens)
        rows = self._padded([row], min(-(-size // 32) * 32, max(self.longest, size)))
        found = _whole(self.reader.config, self.reader.params, rows)
        return np.asarray(found)[:, 0, :, :size, :size]

    def spelled(self, row: Row) -> list[str]:
        """The tokens of a row as a reader knows them: · is a space, ↵ ends a line.

        Where byte-level BPE cuts a character, its parts are numbered: 北₁ 北₂.
        """
        tokenizer = self.reader.tokenizer
        names = [tokenizer.token(int(id)) for id in row.tokens]
        if tokenizer.like != "byte_bpe":
            return names
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        shown, text, parts = [], "", 0
        for i, name in enumerate(names):
            last = i + 1 == len(names)
            text += decoder.decode(bytes(_BYTES[c] for c in name if c in _BYTES), last)
            parts += 1
            if decoder.getstate()[0]:  # the beginning of a character
                continue
            text = text.translate(_VISIBLE)
            numbered = [f"{text}{chr(0x2080 + i)}" for i in range(1, parts + 1)]
            shown += numbered if parts > 1 else [text]
            text, parts = "", 0
        return shown
