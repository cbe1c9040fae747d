"""Position → language: which one a row takes, and which of that language's rows it is.

    row        0  1  2  3  4  5  6  7  8  9  …  65,535 │ 65,536 …
    language   en en zh en fr en en zh en en           │ fr en en zh …
    of it, nth 0  1  0  2  0  3  4  1  5  6            │

Rows go by blocks of 65,536. In every block each language has the same number of rows,
its share rounded, at least one, and a permutation that (seed, stream, block) names
shuffles them. Hence

- *unbiased*: every row is language i with probability `counts[i]` / 65,536, within
  1 / 65,536 of its share, and a stretch of rows is a sample without replacement: closer
  to the shares than independent draws;
- *resumable*: before block b a language had exactly b · `counts[i]` rows, so its nth
  row is known from the row's number alone, by looking at one block; any host, thread or
  resumed run finds the same. The nth row of a language is then read from its own
  endless permutations (`pipeline.py`): each of its windows once in a pass.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxlm.data.chance import hashes, permuted

BLOCK = 1 << 16


def rows_a_block(shares: np.ndarray) -> np.ndarray:
    """Rows of each language in a block, int64 [languages], by largest remainders.

    Args:
        shares: float64 [languages], of a sum of 1; a share of 0 has no row, any other
            at least one.
    """
    wanted = shares * BLOCK
    counts = np.maximum(np.floor(wanted), shares > 0).astype(np.int64)
    # What is over or missing goes to those that are farthest from what they wanted.
    while missing := BLOCK - int(counts.sum()):
        sign = 1 if missing > 0 else -1
        may = (shares > 0) & (counts + sign > 0)
        far = np.where(may, sign * (wanted - counts), -np.inf)
        counts[np.argsort(-far, kind="stable")[: min(abs(missing), may.sum())]] += sign
    return counts


def languages_of(
    rows: np.ndarray, counts: np.ndarray, seed: int, stream: str
) -> tuple[np.ndarray, np.ndarray]:
    """(language, how many of its rows came before) of each row, int64 [B] both.

    Args:
        rows: int64 [B], counted from the stream's start.
        counts: int64 [languages], of `rows_a_block`.
        seed: the run's.
        stream: name of the phase.
    """
    numbers, at = np.divmod(rows, BLOCK)
    language, nth = np.empty_like(rows), np.empty_like(rows)
    for number in np.unique(numbers):
        here = numbers == number
        block = _block(tuple(counts.tolist()), seed, stream, int(number))
        language[here], nth[here] = block[:, at[here]]
    return language, nth + numbers * counts[language]


@functools.lru_cache(maxsize=4)
def _block(counts: tuple[int, ...], seed: int, stream: str, number: int) -> np.ndarray:
    """(language, how many of its rows came before in the block), int64 [2, BLOCK]."""
    key = hashes(seed, f"{stream}/language", np.array([number]))
    places = permuted(np.arange(BLOCK), BLOCK, np.tile(key, BLOCK))
    ends = np.cumsum(counts)
    language = np.searchsorted(ends, places, side="right")
    in_order = np.argsort(language, kind="stable")
    nth = np.empty(BLOCK, np.int64)
    nth[in_order] = np.arange(BLOCK) - (ends - counts)[language[in_order]]
    return np.stack([language, nth])
