"""Rows: [CLS] and [SEP], types, and what a long pair loses."""

import numpy as np
import pytest

from jaxlm.config import bert
from jaxlm.families import family_of
from jaxlm.tasks.batches import padded_batch
from jaxlm.tasks.classes import encode
from jaxlm.tasks.data_files import Example
from jaxlm.tasks.task import NONE
from jaxlm.text.tokenizers import load_tokenizer


@pytest.fixture
def tokenizer(model_directory):
    return load_tokenizer(model_directory)


@pytest.mark.parametrize(
    ("a", "b", "length", "kept"),
    [(10, 3, 11, (5, 3)), (9, 9, 10, (4, 3)), (2, 9, 10, (2, 5)), (3, 4, 10, (3, 4))],
)
def test_the_longer_text_of_a_pair_is_cut(tokenizer, a, b, length, kept):
    """At equal length the second: run_classifier.py `_truncate_seq_pair`."""
    config = bert("tiny")
    frame = family_of(config).frame(config, tokenizer, task=True)
    pair = Example(" ".join(["film"] * a), " ".join(["end"] * b), None, "")
    rows = encode([pair], frame, length)
    film, end = tokenizer.encode("film end").ids
    tokens = rows.tokens[0].tolist()
    assert (tokens.count(film), tokens.count(end)) == kept
    assert rows.pair_start[0] == kept[0] + 2 and len(tokens) == sum(kept) + 3
    assert bool(rows.notes) == (sum(kept) < a + b)


def test_rows_are_put_together_as_bert_s(tokenizer):
    special = tokenizer.special
    config = bert("tiny")
    frame = family_of(config).frame(config, tokenizer, task=True)
    examples = [Example("the film", None, None, ""), Example("dull", None, None, "")]
    pairs = [each._replace(pair="is a story") for each in examples]
    the, film = tokenizer.encode("the film").ids
    rows = encode(examples, frame, 8)
    assert rows.tokens[0].tolist() == [special.cls, the, film, special.sep]
    rows = encode(pairs, frame, 8)
    batch = padded_batch(rows, np.array([0, NONE]), 8)
    assert batch.tokens[0].tolist() == [
        special.cls,
        the,
        film,
        special.sep,
        *tokenizer.encode("is a story").ids,
        special.sep,
    ]
    assert batch.token_types[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert batch.weights.tolist() == [1, 0] and batch.mask.all(1).tolist()[0]
    assert encode(pairs, frame, 7).notes == ("1 rows were cut to 7 tokens",)
