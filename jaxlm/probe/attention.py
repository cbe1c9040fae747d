"""Texts → where heads look: figures of each head, and the probabilities of one text.

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

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.families import family_of
from jaxlm.families.family import Frame, Tokens
from jaxlm.probe.features import Reader
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.types import UserError

FIGURES = ("first", "sep", "itself", "previous", "next", "entropy", "distance")
SINK = 0.5  # of the probability on the first token
_SCORES = 1 << 24  # probabilities of a layer at once
_POOL = 256  # rows that are put in order of length
_EVERY = 50_000  # tokens between two notes of how far it is


# How byte-level BPE writes bytes: those that are visible as themselves.
_AS_IS = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = {chr(each): each for each in _AS_IS}
_BYTES |= {
    chr(256 + i): each
    for i, each in enumerate(each for each in range(256) if each not in _AS_IS)
}
_VISIBLE = str.maketrans(" \n\t", "·↵→")


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


class Looker:
    """A model whose attention is looked at; parameters are an argument, so one program
    serves all checkpoints of a run."""

    def __init__(self, reader: Reader, longest: int) -> None:
        """`longest` is the length of a row."""
        self.reader, self.longest = reader, longest
        self.frame: Frame = reader.frame()
        self.room = longest - len(self.frame.begin) - len(self.frame.end)
        special = reader.tokenizer.special
        self.sep = special.sep if special and len(self.frame.end) else -1
        family = family_of(reader.config)
        self.causal = not family.bidirectional
        encoder = family.encoder(reader.config)

        def run(params: Any, tokens: Any, mask: Any, looks: Any) -> Any:
            with jax.default_matmul_precision("float32"):
                types = jnp.zeros(mask.shape, jnp.int32)
                inputs = {"params": params}, tokens, types, mask
                out, _ = encoder.apply(*inputs, method=family.encode, looks=looks)
            return out.attention

        @jax.jit
        def sums(params: Any, tokens: Array, mask: Array) -> dict[str, Array]:
            def looks(p_BHLL: Array) -> dict[str, Array]:
                return head_sums(p_BHLL, mask.sum(1), tokens == self.sep)

            return run(params, tokens, mask, looks)

        @jax.jit
        def whole(params: Any, tokens: Array, mask: Array) -> Array:
            return run(params, tokens, mask, lambda p_BHLL: p_BHLL)

        self._sums, self._whole = sums, whole

    def rows(self, texts: Iterable[str]) -> Iterator[Tokens]:
        """The rows of texts; a text longer than a row is cut into several."""
        for text in texts:
            tokens, _ = self.frame.spelled(text)
            for start in range(0, len(tokens), self.room):
                yield self.frame.row(tokens[start : start + self.room])

    def heads(
        self,
        texts: Iterable[str],
        tell: Callable[[str], None] = lambda _: None,
        params: Any = None,
    ) -> Heads:
        """The figures of each head, of the model or of other parameters; UserError if
        the texts have no tokens."""
        total: dict[str, np.ndarray] = {}
        tokens = count = told = with_next = 0
        even, words = 0.0, Counter[str]()
        rows, params = self.rows(texts), params or self.reader.params
        while pool := sorted(itertools.islice(rows, _POOL), key=len):
            for batch in self._batches(pool):
                found = jax.device_get(self._sums(params, *batch))
                for name, each in found.items():
                    total[name] = total.get(name, 0) + each.astype(np.float64)
            tokens += sum(map(len, pool))
            count += len(pool)
            with_next += sum(max(0, len(row) - 2) for row in pool)
            even += sum(map(self._even, map(len, pool)))
            words += counted(self.reader.tokenizer, np.concatenate(pool))
            if tokens - told >= _EVERY:
                told = tokens
                tell(f"{tokens:,} tokens")
        if not count:
            raise UserError("the text is empty: there is nothing to look at")
        if tokens == count:
            raise UserError(
                "each text is one token, which sees itself alone: add words"
            )
        warn_unknown(self.reader.tokenizer, words)
        queries = dict.fromkeys(FIGURES, tokens - count) | {"next": with_next}
        means = {name: each / (queries[name] or np.nan) for name, each in total.items()}
        if self.sep < 0:
            means["sep"] = np.full_like(means["sep"], np.nan)
        return Heads(means, tokens, count, even / (tokens - count))

    def _even(self, length: int) -> float:
        """The sum of the even shares on the first token over the queries of a row."""
        seen = np.arange(2, length + 1) if self.causal else np.full(length - 1, length)
        return float((1 / seen).sum())

    def _batches(self, pool: Sequence[Tokens]) -> Iterator[tuple[Any, Any]]:
        """(tokens, mask) of rows in order of length, in few shapes."""
        pool = list(pool)
        while pool:
            length = 32
            while length < len(pool[0]):
                length *= 2
            length = min(length, max(self.longest, len(pool[0])))
            config: Any = self.reader.config
            most = max(1, _SCORES // (config.num_heads * length**2))
            size = min(64, 1 << most.bit_length() - 1)
            taken = [each for each in pool[:size] if len(each) <= length]
            pool = pool[len(taken) :]
            padding = [taken[0][:1]] * (size - len(taken))  # of one token: no query
            tokens, mask = self.frame.padded([*taken, *padding], length)
            yield tokens.astype(np.int32), mask

    def probabilities(self, row: Tokens) -> np.ndarray:
        """Those of a row, float32 [N, H, L, L]."""
        length = min(-(-len(row) // 32) * 32, max(self.longest, len(row)))
        tokens, mask = self.frame.padded([row], length)
        found = self._whole(self.reader.params, tokens.astype(np.int32), mask)
        return np.asarray(found)[:, 0, :, : len(row), : len(row)]

    def spelled(self, row: Tokens) -> list[str]:
        """The tokens of a row as a reader knows them: · is a space, ↵ ends a line.

        Where byte-level BPE cuts a character, its parts are numbered: 北₁ 北₂.
        """
        tokenizer = self.reader.tokenizer
        names = [tokenizer.token(int(id)) for id in row]
        if tokenizer.like != "byte_bpe":
            return names
        shown, waiting, parts = [], b"", 0
        for i, name in enumerate(names):
            waiting += bytes(_BYTES[c] for c in name if c in _BYTES)
            parts += 1
            try:
                text = waiting.decode()
            except UnicodeDecodeError as error:
                if error.reason.startswith("unexpected end") and i + 1 < len(names):
                    continue
                text = waiting.decode(errors="replace")
            text = text.translate(_VISIBLE)
            numbered = [f"{text}{chr(0x2080 + i)}" for i in range(1, parts + 1)]
            shown += numbered if parts > 1 else [text]
            waiting, parts = b"", 0
        return shown
