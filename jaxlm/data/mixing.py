"""Position → the language of a row, and the number of the row within that language.

    row        0  1  2  3  4  5  6  7  8  9  …  65,535 │ 65,536 …
    language   en en zh en fr en en zh en en           │ fr en en zh …
    nth        0  1  0  2  0  3  4  1  5  6            │

Rows come in blocks of 65,536. In every block, a language has its share of the rows,
rounded and at least one; a permutation keyed by (seed, stream, block) shuffles them.

- *Unbiased*: a row has language i with probability `counts[i]` / 65,536, within
  1 / 65,536 of its share. Consecutive rows are a sample without replacement, closer to
  the shares than independent draws.
- *Resumable*: before block b, language i had exactly b · `counts[i]` rows. So the
  number of a row tells its language and its number within the language, on any host or
  thread. `pipeline.py` then reads each window of a language once per pass.
"""

import functools

import numpy as np

from jaxlm.data.chance import hashes, permuted

BLOCK = 1 << 16


def rows_a_block(shares: np.ndarray) -> np.ndarray:
    """Rows of each language in a block, int64 [languages], by largest remainders.

    `shares` is float64 [languages] and sums to 1; a share above 0 has at least one row.
    """
    wanted = shares * BLOCK
    counts = np.maximum(np.floor(wanted), shares > 0).astype(np.int64)
    # Correct the languages that are farthest from their share.
    while missing := BLOCK - int(counts.sum()):
        sign = 1 if missing > 0 else -1
        may = (shares > 0) & (counts + sign > 0)
        far = np.where(may, sign * (wanted - counts), -np.inf)
        counts[np.argsort(-far, kind="stable")[: min(abs(missing), may.sum())]] += sign
    return counts


def languages_of(
    rows: np.ndarray, counts: np.ndarray, seed: int, stream: str
) -> tuple[np.ndarray, np.ndarray]:
    """(language, number of its earlier rows) of each row, int64 [B] both.

    `rows` are counted from the start of the stream; `counts` is from `rows_a_block`.
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
    """(language, number of its earlier rows in the block), int64 [2, BLOCK]."""
    key = hashes(seed, f"{stream}/language", np.array([number]))
    places = permuted(np.arange(BLOCK), BLOCK, np.tile(key, BLOCK))
    ends = np.cumsum(counts)
    language = np.searchsorted(ends, places, side="right")
    in_order = np.argsort(language, kind="stable")
    nth = np.empty(BLOCK, np.int64)
    nth[in_order] = np.arange(BLOCK) - (ends - counts)[language[in_order]]
    return np.stack([language, nth])
