"""Types that all packages share: dimension letters, special tokens, marks, batches.

Dimension letters, used alike in names (`x_BLD`), einsums (`"bld,dhk->blhk"`) and
jaxtyping annotations:

    B batch            L positions (queries)      T positions attended to
    D model width      H heads                    K width of one head
    F MLP width        V vocabulary               N layers
    P predicted (masked) positions                U units (words, phrases)
    C characters in a word                        Y classes
    S sentences in a document                     W width of a row before assembly

Imports neither jax nor flax, because `text/` and `--help` import this file.
"""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Bool, Float, Int, UInt

    AnyArray = Array | np.ndarray  # numpy where the host reads it, jax on the devices


# How a family's rows lie in a corpus: `data/layouts.py`, the last one `data/bilm.py`.
Layout = Literal["pairs", "blocks", "packed", "stream", "dialogues", "bilm"]


INTERRUPTED = 75  # exit status after a signal: the same command resumes


class UserError(Exception):
    """A mistake of the user: one line with numbers and remedy; the exit status is 2."""


class Note(UserWarning):
    """A one-line warning of what a user may not have meant; the work goes on."""


def note(text: str) -> None:
    """Warn of something that the user may not have meant."""
    warnings.warn(text, Note, stacklevel=3)


def plural(count: int, noun: str) -> str:
    """1 row, 1,024 rows."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list."""
    return ", ".join(names[:most]) + ", …" * (len(names) > most)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Silence notes in the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        yield


class Mark(enum.IntFlag):
    """What a stored token begins or is part of: one uint8 for each token."""

    DOCUMENT = 1  # first token of a document
    SENTENCE = 2  # first token of a sentence (or of a turn)
    WORD = 4  # first token of a word
    PHRASE = 8  # first token of a phrase
    IN_PHRASE = 16
    ENTITY = 32  # first token of an entity
    IN_ENTITY = 64
    SPEAKER = 128  # spoken by the second speaker of a dialogue


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens; random replacements are drawn below `vocab_size`."""

    pad: int
    unknown: int
    cls: int
    sep: int
    mask: int
    vocab_size: int


# What stands before, between and after the texts in a GPT's rows of a task; ids behind
# its vocabulary, in this order: openai/finetune-transformer-lm train.py.
GPT_FRAME = ("_start_", "_delimiter_", "_classify_")


class TokenSpan(NamedTuple):
    """Consecutive tokens of a corpus as the host reads them, before random changes."""

    tokens: Int[AnyArray, "B W"]
    marks: UInt[AnyArray, "B W"]
    length: Int[AnyArray, "B"]  # tokens that are there, at most W


class Rows(NamedTuple):
    """What the host reads for one global batch.

    `seed` is that of the run, in each row, so that all runs have the same programs.
    `row_key` has the ids of each row for `keys.key_for`: (row // 2³², row mod 2³²) of
    the global row number if masks are drawn anew in each pass, (window, draw) if they
    are static. For dialogues, `first` has turns [B, turns, W], and `second` a turn of
    another dialogue; missing turns come last, with length 0.
    """

    first: TokenSpan
    second: TokenSpan | None  # candidate for the random second segment; None: no NSP
    seed: UInt[AnyArray, "B"]
    row_key: UInt[AnyArray, "B 2"]
    valid: Bool[AnyArray, "B"]  # False: a row that only fills the last evaluation batch
    languages: Int[AnyArray, "B"] | None = None  # by number; None: there is one
    mask_rates: Float[AnyArray, "B"] | None = None  # None: that of the config


class WordRows(NamedTuple):
    """What the host reads for one global batch of a text in both directions.

    The second axis is (forward, backward): two different texts, each in its own order
    of reading.
    """

    tokens: Int[AnyArray, "B 2 L"]  # corpus's types: those beyond the vocabulary too
    targets: Int[AnyArray, "B 2 L"]  # of the vocabulary
    characters: UInt[AnyArray, "B 2 L C"]  # of `tokens`
    valid: Bool[AnyArray, "B 2 L"]  # False: past the end of an evaluation


class MlmBatch(NamedTuple):
    """A batch for a masked language model."""

    tokens: Int[Array, "B L"]
    token_types: Int[Array, "B L"]
    mask: Bool[Array, "B L"]  # True: a real token, may be attended to
    predictions: Int[Array, "B P"]  # positions, ascending; 0 where `weights` is 0
    targets: Int[Array, "B P"]
    weights: Float[Array, "B P"]
    nsp_labels: Int[Array, "B"]  # 0: as it was written, 1: B, or a turn, is random
    nsp_weights: Float[Array, "B"]
    levels: Int[Array, "B"] | None = None  # of the masked units; see `mask.unit_starts`
    languages: Int[Array, "B"] | None = None  # by number; None: there is one
    row_key: UInt[Array, "B 2"] | None = None  # of `Rows`, for a loss that draws
    # Of packed rows: the text of each token, 1, 2, …, 0 for padding; its place in it.
    segments: Int[Array, "B L"] | None = None
    positions: Int[Array, "B L"] | None = None
    causal: MlmBatch | None = None  # other rows, which predict each next token


class ElmoBatch(NamedTuple):
    """A batch for a bidirectional language model; the axes are those of `WordRows`."""

    characters: UInt[Array, "B 2 L C"]
    targets: Int[Array, "B 2 L"]
    weights: Float[Array, "B 2 L"]


class GptBatch(NamedTuple):
    """A batch for a decoder: the target at each position is the next token."""

    tokens: Int[Array, "B L"]
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]  # 0 where there is no next token
    positions: Int[Array, "B L"]
    segments: Int[Array, "B L"]  # 1, 2, …; 0 where there is no next token
    languages: Int[Array, "B"] | None = None  # by number; None: there is one
