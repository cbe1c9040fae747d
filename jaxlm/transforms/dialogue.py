"""Turns of a dialogue → one row `[CLS] u [SEP] u [SEP] u [SEP]` → `mask.py`.

The dialogues of ERNIE 1.0 (Sun et al. 2019, section 4.2 and figure 3): three utterances
of a query Q and a response R, and instead of the sentence a token is in, who says it.

    tokens   [CLS] how old are you [SEP] 8 . [SEP] where is your home [SEP]
    role       0    0   0   0   0    0   1 1   1     0   0    0   0     0      Q R Q
    replaced                             x x                                   label 1

In half of the rows one utterance is replaced by one of another dialogue, and the model
tells such rows from real ones.

The paper says the patterns (QRQ, QRR, QQR), that a query or a response is replaced by a
randomly selected sentence, and that words are masked as elsewhere. Neither code nor
data were released. What it does not say is chosen here:

* Whoever speaks first in a row is Q; a row in which one person speaks alone is not left
  out. A dialogue of two turns is a row of two.
* Half of the rows are replaced in, each utterance as likely as another; what replaces
  it is any turn of any other dialogue. Its role stays that of what it replaces.
* [CLS] has the role of the first utterance, [SEP] of the one before it.
* What does not fit is cut from the ends of the longest utterances.
* Real is 0 and replaced 1, as in next-sentence prediction, whose head tells them apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxlm.transforms.pairs import Row
from jaxlm.types import Mark, SpecialTokens, TokenSpan


def dialogue_row(
    key: Key[Array, ""],
    turns: TokenSpan,
    other: TokenSpan,
    *,
    length: int,
    replaced: float,
    special: SpecialTokens,
) -> Row:
    """Turns in a row, in a share of rows one of them another dialogue's.

    Args:
        key: the row's own.
        turns: of one row [T, W], those that are not there with length 0, at the end.
        other: what may replace one of them [W].
        length: L; T turns share L - 1 - T tokens.
        replaced: share of rows.
        special: ids of the boundary tokens.
    """
    count, width = turns.tokens.shape
    there_T = turns.length > 0
    coin, which = jax.random.split(key)
    is_replaced = jax.random.uniform(coin) < replaced
    place = jax.random.randint(which, (), 0, jnp.sum(there_T))
    swapped_T = is_replaced & (jnp.arange(count) == place)
    tokens_TW = jnp.where(swapped_T[:, None], other.tokens[None], turns.tokens)
    marks_TW = jnp.where(swapped_T[:, None], other.marks[None], turns.marks)
    speaker_T = (turns.marks[:, 0] & Mark.SPEAKER) > 0
    role_T = (speaker_T != speaker_T[0]).astype(jnp.int32)

    room = length - 1 - jnp.sum(there_T)
    len_T = _cut(jnp.where(swapped_T, other.length, turns.length), room, width)
    end_T = 1 + jnp.cumsum(len_T + there_T)  # after its [SEP]
    begin_T = end_T - len_T - there_T
    at = jnp.arange(length)
    turn_L = jnp.minimum(jnp.sum(at[:, None] >= end_T[None, :], axis=1), count - 1)
    place_L = at - begin_T[turn_L]
    candidate = (place_L >= 0) & (place_L < len_T[turn_L])
    inside = at < end_T[-1]
    source_L = turn_L, jnp.clip(place_L, 0, width - 1)
    boundary = jnp.where(at == 0, special.cls, special.sep)
    row = jnp.where(candidate, tokens_TW[source_L], boundary)
    return Row(
        tokens=jnp.where(inside, row, special.pad).astype(jnp.int32),
        token_types=jnp.where(inside, role_T[turn_L], 0),
        length=end_T[-1].astype(jnp.int32),
        candidate=candidate,
        marks=jnp.where(candidate, marks_TW[source_L], 0),
        nsp_label=is_replaced.astype(jnp.int32),
    )


def _cut(len_T: Int[Array, "T"], room: Int[Array, ""], width: int) -> Int[Array, "T"]:
    """Lengths that fit: the longest loses a token until they do, of equals the last."""
    most = jnp.arange(width + 1)
    total = jnp.sum(jnp.minimum(len_T[:, None], most[None, :]), axis=0)
    cap = jnp.sum(total <= room) - 1
    longer_T = len_T > cap
    one_more_T = longer_T & (jnp.cumsum(longer_T) <= room - total[cap])
    return jnp.minimum(len_T, cap) + one_more_T
