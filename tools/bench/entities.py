"""What each masking teaches: whole entities of held-out text, hidden and predicted.

    python -m tools.bench.entities corpora/news runs/char runs/word runs/knowledge

In each passage of a row's length, one marked entity of two tokens or more is replaced
by [MASK]s, the same entity for every run, however the run was masked in training. The
figures are the accuracy of tokens, the share of entities that are right as a whole, and
the mean negative log-likelihood of a token, separately for entities that occur in the
training text and for those that do not. The baseline always answers with the most
frequent token of training entities.
"""

from __future__ import annotations

import argparse
import collections
from typing import NamedTuple

import numpy as np

import jaxlm
from jaxlm.text.corpus import Corpus, open_corpus
from jaxlm.types import Mark

BATCH = 64


class Hidden(NamedTuple):
    """A stretch of text and the entity in it that is hidden."""

    tokens: np.ndarray
    start: int
    end: int

    @property
    def entity(self) -> tuple[int, ...]:
        """Its ids."""
        return tuple(self.tokens[self.start : self.end].tolist())


def documents(corpus: Corpus, split: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, marks) of each document of a split."""
    first = corpus.documents[:, 0]
    ends = np.append(first[1:], corpus.num_tokens)
    found = []
    for start, end, kind in zip(first, ends, corpus.documents[:, 2], strict=True):
        if kind == split:
            tokens, marks = corpus.read(np.array([start]), int(end - start))
            found.append((tokens[0], marks[0]))
    return found


def entities(marks: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of every entity."""
    inside = (marks & Mark.IN_ENTITY) > 0
    starts = ((marks & Mark.ENTITY) > 0) & inside
    cuts = np.flatnonzero(starts | ~inside)
    ends = np.append(cuts[1:], len(marks))
    return [(int(a), int(b)) for a, b in zip(cuts, ends, strict=True) if starts[a]]


def hidden(corpus: Corpus, width: int, seed: int) -> list[Hidden]:
    """One entity of each held-out stretch of `width` tokens that has any."""
    random = np.random.default_rng(seed)
    rows = []
    for tokens, marks in documents(corpus, split=1):
        for at in range(0, len(tokens), width):
            spans = entities(marks[at : at + width])
            # One that the stretch cuts off may be longer than what is seen of it.
            whole = [(a, b) for a, b in spans if b - a > 1 and a > 0 and b < width]
            if whole:
                a, b = whole[random.integers(len(whole))]
                rows.append(Hidden(tokens[at : at + width], a, b))
    return rows


def told(model: jaxlm.Model, rows: list[Hidden], length: int) -> list[np.ndarray]:
    """For each hidden token of each row: (told right, log-likelihood), [n, 2]."""
    special = model.tokenizer.special
    assert special is not None
    out = []
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        tokens = np.full((BATCH, length), special.pad)
        mask = np.zeros((BATCH, length), bool)
        for line, row in enumerate(part):
            ids = row.tokens.copy()
            ids[row.start : row.end] = special.mask
            whole = np.concatenate([[special.cls], ids, [special.sep]])
            tokens[line, : len(whole)] = whole
            mask[line, : len(whole)] = True
        logits = np.asarray(model.forward(tokens, mask=mask).logits, np.float64)
        for line, row in enumerate(part):
            here = logits[line, 1 + row.start : 1 + row.end]
            truth = np.array(row.entity)
            top = here.max(-1)
            total = top + np.log(np.exp(here - top[:, None]).sum(-1))
            likelihood = here[np.arange(len(truth)), truth] - total
            out.append(np.stack([here.argmax(-1) == truth, likelihood], -1))
    return out


def line(name: str, results: list[np.ndarray]) -> str:
    """Of a table."""
    if not results:
        return f"{name:24s} none"
    tokens = np.concatenate(results)
    whole = np.mean([each[:, 0].all() for each in results])
    return (
        f"{name:24s} {len(results):5d} entities, {len(tokens):5d} tokens: "
        f"{tokens[:, 0].mean():6.1%} of tokens, {whole:6.1%} of entities, "
        f"{-tokens[:, 1].mean():.3f} a token"
    )


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    corpus = open_corpus(args.corpus)
    seen: collections.Counter = collections.Counter()
    for tokens, marks in documents(corpus, split=0):
        seen.update(tuple(tokens[a:b].tolist()) for a, b in entities(marks))
    commonest = collections.Counter(
        token for entity, times in seen.items() for token in entity * times
    ).most_common(1)[0][0]
    first = None
    for directory in args.runs:
        model = jaxlm.load(directory)
        length = model.run.length
        rows = hidden(corpus, length - 2, args.seed)
        results = told(model, rows, length)
        print(f"{directory}, step {model.step}")
        for name, known in (("seen in training", True), ("not seen", False)):
            kept = [
                each
                for each, row in zip(results, rows, strict=True)
                if (row.entity in seen) == known
            ]
            print(line(f"  {name}", kept))
        print(line("  all", results))
        each = np.array([-result[:, 1].mean() for result in results])
        if first is None:
            first = each
        else:
            apart = each - first
            error = apart.std(ddof=1) / np.sqrt(len(apart))
            print(
                f"  against the first: {apart.mean():+.3f} ± {error:.3f} a token, mean "
                "over entities and its standard error"
            )
    right = np.mean([token == commonest for row in rows for token in row.entity])
    print(f"always the most frequent token of an entity: {right:.1%} right")


if __name__ == "__main__":
    main()
