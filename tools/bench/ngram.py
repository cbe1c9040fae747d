"""A strong n-gram on a decoder's corpus: what a GPT's perplexity stands beside.

    python -m tools.bench.ngram corpora/books --order 4
    python -m tools.bench.ngram corpora/books --order 4 --pairs blimp/

With --pairs, it also says which sentence of minimal pairs it finds likelier.

Interpolated Kneser-Ney (Chen & Goodman 1999, section 3) over the same tokens, trained
on the training documents and scored on the held-out ones, end to end as the decoder
reads them. One discount an order, n1 / (n1 + 2 n2).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from jaxlm.config import GptConfig, Phase, RunConfig
from jaxlm.data.layouts import StreamRows
from jaxlm.text.corpus import Corpus, open_corpus
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.zeroshot.pairs import first, read


def stream(corpus: Corpus, split: int) -> np.ndarray:
    """All tokens of a split, end to end, after the one that ends its last document."""
    config = RunConfig(model=GptConfig())
    phase = Phase(until=1, length=8, batch=1, predictions=1)
    source = StreamRows(config, corpus, phase, "ngram", split)
    parts = [
        corpus.read(np.array([first]), int(end - first))[0][0]
        for first, end in source.pieces.T
    ]
    return np.concatenate(parts).astype(np.int64)


def keys(tokens: np.ndarray, order: int, bits: int) -> np.ndarray:
    """The n-gram that ends at each token from number order - 1 on, as one integer."""
    out = np.zeros(len(tokens) - order + 1, np.int64)
    for i in range(order):
        out = out << bits | tokens[i : len(tokens) - order + 1 + i]
    return out


class Order:
    """Counts of one order, and how much of them is discounted."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray, bits: int):
        self.grams, self.counts, self.bits = grams, counts, bits
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        self.discount = once / max(1, once + 2 * twice)
        self.contexts, first = np.unique(grams >> bits, return_index=True)
        self.totals = np.add.reduceat(counts, first)
        self.kinds = np.diff(np.append(first, len(grams)))

    def mix(self, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Probability of each n-gram's last token, given that of the order below."""
        count = _looked_up(self.grams, self.counts, grams)
        total = _looked_up(self.contexts, self.totals, grams >> self.bits)
        kinds = _looked_up(self.contexts, self.kinds, grams >> self.bits)
        seen = total > 0
        total = np.maximum(total, 1)
        own = np.maximum(count - self.discount, 0) / total
        return np.where(seen, own + self.discount * kinds / total * lower, lower)


def _looked_up(where: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(where, wanted), len(where) - 1)
    return np.where(where[at] == wanted, values[at], 0)


def probabilities(
    train: np.ndarray, test: np.ndarray, *, order: int, vocab_size: int
) -> np.ndarray:
    """The probability of each token of `test` from number `order` - 1 on.

    Raises:
        ValueError: n-grams of this order do not fit 63 bits.
    """
    bits = max(1, (vocab_size - 1).bit_length())
    if bits * order > 63:
        raise ValueError(f"order {order} × {bits} bits do not fit an integer")
    grams, counts = np.unique(keys(train, order, bits), return_counts=True)
    orders = [Order(grams, counts, bits)]
    for shorter in range(order - 1, 0, -1):
        # Below the top, what counts is after how many different tokens a gram stood.
        suffix = grams & ((1 << bits * shorter) - 1)
        grams, counts = np.unique(suffix, return_counts=True)
        orders.append(Order(grams, counts, bits))
    p = np.full(len(test) - order + 1, 1 / vocab_size)
    for n, each in enumerate(reversed(orders), 1):
        p = each.mix(keys(test, n, bits)[order - n :], p)
    return p


def pairs_of(
    train: np.ndarray, corpus: Corpus, data: str, *, order: int, limit: int
) -> None:
    """Print the accuracy on minimal pairs, each sentence as it begins a document."""
    tokenizer = load_tokenizer(Path(corpus.directory) / "tokenizer")
    items = first(read([data]), limit)
    end = tokenizer.end_of_document
    assert end is not None
    texts = [each.good for each in items] + [each.bad for each in items]
    rows = [[end] * (order - 1) + tokenizer.encode(t).ids.tolist() for t in texts]
    test = np.concatenate(rows)
    size = corpus.manifest.vocab_size
    p = probabilities(train, test, order=order, vocab_size=size)
    nats = np.concatenate([np.zeros(order - 1), -np.log(p)])
    ends = np.cumsum([len(row) for row in rows])
    sums = [
        nats[e - len(r) + order - 1 : e].sum() for e, r in zip(ends, rows, strict=True)
    ]
    good, bad = np.array(sums).reshape(2, -1)
    right = (np.sign(np.round(bad - good, 5)) + 1) / 2
    terms = np.array([each.phenomenon for each in items])
    print(f"pairs, order {order}: {right.mean():.3f} of {len(items):,}")
    for term in dict.fromkeys(terms):
        print(f"  {term:<28} {right[terms == term].mean():.3f}")


def main() -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--order", type=int, default=4)
    parser.add_argument("--pairs", help="a directory of minimal pairs")
    parser.add_argument("--limit", type=int, default=0, help="of each paradigm")
    args = parser.parse_args()
    corpus = open_corpus(args.corpus)
    train, test = stream(corpus, 0), stream(corpus, 1)
    for order in range(1, args.order + 1):
        p = probabilities(
            train, test, order=order, vocab_size=corpus.manifest.vocab_size
        )
        loss = float(-np.log(p).mean())
        print(f"order {order}  loss {loss:.3f}  perplexity {math.exp(loss):,.1f}")
    if args.pairs:
        pairs_of(train, corpus, args.pairs, order=args.order, limit=args.limit)


if __name__ == "__main__":
    main()
