"""Spans of stored tokens → one row `[CLS] A [SEP] B [SEP]`. Next: `mask.py`.

These are BERT's sentence pairs (google-research/bert, create_pretraining_data.py:
create_instances_from_document, truncate_seq_pair); every choice is drawn from the key
of the row. W is the width of the spans, L the width of the row:

    first   s0 . . s1 . . . s2 . . | s3 . . .     sentences from the window's start
            `------ chunk ------'                 whole sentences until `target` tokens
            `-- A --'`--- rest --'                split after a_end sentences
    second  t0 . . . t1 . .                       sentences of another document

    is next:  B = rest         random (half of the rows; all with one sentence):  B = t…

These follow the reference exactly: target length, split, coin, filling B with whole
sentences, both truncations, label 0 = is next. These differ, because rows are read by
position and not replayed in order:

* The reference draws the short target once per pass over a document, which then yields
  more, shorter rows (a fifth of all, in long documents). Here each row draws its own.
* After a random B, the reference starts the next chunk at the unused sentences. Here
  the windows overlap by the average number of these tokens (`data/layouts.py`).
* The reference redraws the other document up to ten times and may end up with the same
  document. Here it is always another one (`data/layouts.py`).
* Only the first W tokens of a sentence are read. Truncation takes equally from both
  ends: the reference keeps the middle of a very long sentence, jaxlm the middle of its
  first W tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt

from jaxlm.models.layers import position_ids
from jaxlm.types import Mark, Rows, SpecialTokens, TokenSpan


class Row(NamedTuple):
    """A row before masking. Under vmap each field gets a leading axis B."""

    tokens: Int[Array, "L"]
    token_types: Int[Array, "L"]
    length: Int[Array, ""]  # tokens that are not padding, [CLS] and [SEP] counted
    candidate: Bool[Array, "L"]  # may be masked: a token of A or B
    marks: UInt[Array, "L"]  # of the tokens of A and B; the first of each starts a word
    nsp_label: Int[Array, ""]
    segments: Int[Array, "L"] | None = None  # of packed rows, as in `MlmBatch`
    positions: Int[Array, "L"] | None = None


def single_row(
    key: Key[Array, ""], rows: Rows, *, length: int, special: SpecialTokens
) -> Row:
    """`[CLS] A [SEP]`: the first tokens of a span [W], without a second segment."""
    del key
    span, at = rows.first, jnp.arange(length)
    len_a = jnp.minimum(span.length, length - 2)
    nothing = jnp.zeros((), jnp.int32)
    lengths = len_a, nothing - 1
    return _assemble(span.tokens, span.marks, at - 1, lengths, special, nothing)


def packed_row(
    key: Key[Array, ""], rows: Rows, *, length: int, special: SpecialTokens
) -> Row:
    """`[CLS] A [SEP] [CLS] B [SEP] …`: texts, each in a segment of its own.

    span        a0 a1 b0 b1 b2 c0          a text begins where its document does,
    source   .  0  1  .  .  2  3  4  .  .  5  .    and at the start of the row
    segments 1  1  1  1  2  2  2  2  2  3  3  3
    """
    del key
    span, at = rows.first, jnp.arange(length)
    at_W = jnp.arange(span.tokens.shape[-1])
    starts_W = (jnp.asarray(span.marks & Mark.DOCUMENT) > 0) | (at_W == 0)
    place_W = at_W + 2 * jnp.cumsum(starts_W) - 1
    place_W = jnp.where(at_W < span.length, place_W, length)
    source_L = jnp.full(length, -1).at[place_W].set(at_W, mode="drop")
    candidate = source_L >= 0
    cls_L = ~candidate & jnp.roll(candidate, -1) & (at < length - 1)
    inside_L = candidate | cls_L | jnp.roll(candidate, 1) & (at > 0)
    segments = jnp.where(inside_L, jnp.cumsum(cls_L), 0)
    row = jnp.where(candidate, jnp.asarray(span.tokens)[source_L], special.sep)
    row = jnp.where(cls_L, special.cls, jnp.where(inside_L, row, special.pad))
    marks = jnp.asarray(span.marks)[source_L]
    marks |= jnp.where(jnp.roll(cls_L, 1), Mark.WORD, 0).astype(marks.dtype)
    return Row(
        tokens=row.astype(jnp.int32),
        token_types=jnp.zeros(length, jnp.int32),
        length=jnp.sum(inside_L),
        candidate=candidate,
        marks=jnp.where(candidate, marks, 0),
        nsp_label=jnp.zeros((), jnp.int32),
        segments=segments,
        positions=position_ids(segments[None])[0],
    )


def pair_row(
    key: Key[Array, ""],
    rows: Rows,
    *,
    length: int,
    short_rate: float,
    special: SpecialTokens,
    random_rate: float = 0.5,
) -> Row:
    """`[CLS] A [SEP] B [SEP]` by BERT's rule.

    A is the start of the first span. B follows A or, in a share `random_rate` of the
    rows, is the start of the second span, from another document. A and B have at most
    `length` - 3 tokens together, and fewer in a share `short_rate` of the rows.
    """
    first, second = rows.first, rows.second
    assert second is not None
    most = length - 3
    width = first.tokens.shape[-1]
    short, target, split, coin, drop = jax.random.split(key, 5)
    target = jnp.where(
        jax.random.uniform(short) < short_rate,
        jax.random.randint(target, (), 2, most + 1),
        most,
    )

    # The chunk: whole sentences until `target` tokens; A: its first a_end sentences.
    starts_W = _sentence_starts(first)
    end = _boundary_after(first, starts_W, target)
    inside_W = jnp.arange(width) < end
    sentences = jnp.sum(starts_W & inside_W)
    a_end = jax.random.randint(split, (), 1, jnp.maximum(sentences, 2))
    len_a = jnp.sum(inside_W & (jnp.cumsum(starts_W) <= a_end))

    # B: the rest of the chunk, or sentences of the other document.
    is_random = (sentences == 1) | (jax.random.uniform(coin) < random_rate)
    random_end = _boundary_after(second, _sentence_starts(second), target - len_a)
    len_b = jnp.where(is_random, random_end, end - len_a)
    start_b = jnp.where(is_random, width, len_a)

    cut_a, cut_b, front_a, front_b = _truncate(drop, len_a, len_b, most, width)
    at = jnp.arange(length)
    in_b = at >= cut_a + 2
    source_L = jnp.where(in_b, start_b + front_b + at - cut_a - 2, front_a + at - 1)
    tokens = jnp.concatenate([first.tokens, second.tokens])
    marks = jnp.concatenate([first.marks, second.marks])
    label = is_random.astype(jnp.int32)
    return _assemble(tokens, marks, source_L, (cut_a, cut_b), special, label)


def _sentence_starts(span: TokenSpan) -> Bool[Array, "W"]:
    at = jnp.arange(span.tokens.shape[-1])
    # A span always begins a sentence, whatever its first mark says.
    marked = jnp.asarray(span.marks & Mark.SENTENCE) > 0
    return marked & (at < span.length) | (at == 0)


def _boundary_after(
    span: TokenSpan, starts_W: Bool[Array, "W"], target: Int[Array, ""]
) -> Int[Array, ""]:
    """The end of the first sentence that ends at or after `target` tokens."""
    at = jnp.arange(starts_W.shape[-1])
    ends = starts_W & (at >= jnp.maximum(target, 1))
    return jnp.min(jnp.where(ends, at, span.length))


def _truncate(key, len_a, len_b, most, width):
    """The truncated lengths of A and B, and how many tokens each loses at its front.

    The reference drops one token at a time from the longer segment (B if equal), at the
    front or the back with p = ½. So the lengths have a closed form, and the numbers of
    tokens dropped at the front are binomial.
    """
    cut_a = jnp.minimum(len_a, jnp.maximum(most - len_b, (most + 1) // 2))
    cut_b = jnp.minimum(len_b, jnp.maximum(most - len_a, most // 2))
    coins = jax.random.bernoulli(key, shape=(2, width))
    lost = jnp.stack([len_a - cut_a, len_b - cut_b])
    fronts = jnp.sum(coins & (jnp.arange(width)[None, :] < lost[:, None]), axis=-1)
    return cut_a, cut_b, fronts[0], fronts[1]


def _assemble(tokens, marks, source_L, lengths, special, nsp_label) -> Row:
    """Gather A and B between the special tokens; a length of -1 means no B."""
    len_a, len_b = lengths
    at = jnp.arange(len(source_L))
    in_a = (at >= 1) & (at <= len_a)
    in_b = (at >= len_a + 2) & (at < len_a + 2 + len_b)
    end = len_a + 2 + len_b + 1
    source_L = jnp.clip(source_L, 0, tokens.shape[-1] - 1)
    candidate = in_a | in_b
    boundary = jnp.where(at == 0, special.cls, special.sep)
    row = jnp.where(candidate, tokens[source_L], boundary)
    # Truncation can cut off the head of a word; the rest is a word of its own. The
    # reference joins the rest to the word before [SEP].
    begins = (at == 1) | (at == len_a + 2)
    found = marks[source_L] | jnp.where(begins, Mark.WORD, 0).astype(marks.dtype)
    return Row(
        tokens=jnp.where(at < end, row, special.pad).astype(jnp.int32),
        token_types=((at >= len_a + 2) & (at < end)).astype(jnp.int32),
        length=end.astype(jnp.int32),
        candidate=candidate,
        marks=jnp.where(candidate, found, 0),
        nsp_label=nsp_label,
    )
