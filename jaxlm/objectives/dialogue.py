"""Turns of a dialogue → one row `[CLS] u [SEP] u [SEP] u [SEP]`. Next: `mask.py`.

The dialogues of ERNIE 1.0 (Sun et al. 2019, section 4.2 and figure 3): three utterances
of a query Q and a response R, where the token types tell the speaker.

    tokens   [CLS] how old are you [SEP] 8 . [SEP] where is your home [SEP]
    role       0    0   0   0   0    0   1 1   1     0   0    0   0     0      Q R Q
    replaced                             x x                                   label 1

In half of the rows one utterance comes from another dialogue, and the model learns to
recognise these rows.

The paper gives the patterns (QRQ, QRR, QQR), says that a randomly selected sentence
replaces a query or a response, and masks words as elsewhere. It trains "alternatively
with the MLM task" on other text, but does not give the shares. Neither code nor data
were released. The remaining choices are ours:

* A corpus, and so a run, has either dialogues or text; `--init` starts a run from the
  weights of another run.
* The first speaker of a row is Q. Rows with a single speaker are kept. A dialogue of
  two turns gives a row of two.
* In half of the rows, one random utterance is replaced by a random turn of a random
  other dialogue. The new utterance keeps the role of the old one.
* [CLS] has the role of the first utterance, [SEP] that of the utterance before it.
* Rows that are too long lose tokens at the ends of their longest utterances.
* Labels are 0 (real) and 1 (replaced), predicted by the next-sentence head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxlm.objectives.pairs import Row
from jaxlm.types import Mark, Rows, SpecialTokens


def dialogue_row(
    key: Key[Array, ""],
    rows: Rows,
    *,
    length: int,
    replaced: float,
    special: SpecialTokens,
) -> Row:
    """The row of a dialogue, with one turn replaced with probability `replaced`.

    The T turns share `length` - 1 - T tokens; missing turns come last, with length 0.
    """
    turns, other = rows.first, rows.second
    assert other is not None
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
    """Lengths that fit `room`: the longest turn (last of equals) loses tokens first."""
    most = jnp.arange(width + 1)
    total = jnp.sum(jnp.minimum(len_T[:, None], most[None, :]), axis=0)
    cap = jnp.sum(total <= room) - 1
    longer_T = len_T > cap
    one_more_T = longer_T & (jnp.cumsum(longer_T) <= room - total[cap])
    return jnp.minimum(len_T, cap) + one_more_T
