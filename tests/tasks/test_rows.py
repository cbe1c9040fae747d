"""Rows: [CLS] and [SEP], types, and what a long pair loses."""

import numpy as np
import pytest

from jaxlm.config import bert
from jaxlm.families import family_of
from jaxlm.tasks.batches import padded_batch
from jaxlm.tasks.classes import encode
from jaxlm.tasks.tables import Example
from jaxlm.tasks.task import NONE
from jaxlm.text.tokenizers import load_tokenizer


@pytest.fixture
def tokenizer(model_directory):
    return load_tokenizer(model_directory)


def test_a_long_pair_is_cut_as_google_s_loop_cuts_it(tokenizer):
    config = bert("tiny")
    frame = family_of(config).frame(config, tokenizer, task=True)
    sizes = [(a, b) for a in range(12) for b in range(1, 12)]
    pairs = [Example("the " * a, "film " * b, None, "") for a, b in sizes]
    for room in range(4, 24):
        rows = encode(pairs, frame, room + 3)
        for (a, b), row, start in zip(sizes, rows.tokens, rows.pair_start, strict=True):
            first, second = [0] * a, [0] * b
            while len(first) + len(second) > room:
                (first if len(first) > len(second) else second).pop()
            found = start - 2, len(row) - start - 1
            assert found == (len(first), len(second)), (a, b, room)


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
    assert encode(pairs, frame, 7).notes == ("1 row cut to 7 tokens",)
