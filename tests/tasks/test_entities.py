"""Entities of any scheme, beside seqeval's."""

import random

import pytest

from jaxlm.tasks.tags import as_bio, entity_figures
from jaxlm.text.spans.annotated import Entity, entities, entity_tag

KINDS = ("PER", "LOC", "ORG")


def drawn(seed, places, sentences=200):
    draw = random.Random(seed)
    tags = ["O", *(f"{place}-{kind}" for place in places for kind in KINDS)]
    return [draw.choices(tags, k=draw.randrange(1, 12)) for _ in range(sentences)]


def test_one_sentence_in_all_schemes():
    want = [Entity(0, 1, "ORG"), Entity(2, 5, "PER"), Entity(5, 6, "PER")]
    for tags in (
        "B-ORG O B-PER I-PER I-PER B-PER",
        "S-ORG O B-PER I-PER E-PER S-PER",
        "S-ORG O B-PER M-PER E-PER S-PER",
        "U-ORG O B-PER I-PER L-PER U-PER",
        "I-ORG O I-PER I-PER I-PER B-PER",
        "B_ORG O B_PER I_PER I_PER B_PER",
    ):
        assert entities(tags.split()) == want, tags
        assert as_bio(tags.split()) == [
            "B-ORG",
            "O",
            "B-PER",
            "I-PER",
            "I-PER",
            "B-PER",
        ]
    for bad in ("", "PER", "B", "B-", "X-PER", "BPER"):
        assert entity_tag(bad) is None


@pytest.mark.scores
@pytest.mark.parametrize("places", ["BI", "BIES"])
def test_entities_and_their_f1_are_those_of_seqeval_however_odd_the_tags(places):
    from seqeval.metrics import f1_score, precision_score, recall_score
    from seqeval.metrics.sequence_labeling import get_entities

    truth, answer = drawn(1, places), drawn(2, places)
    answer = [
        [
            random.Random(i).choice([b, a])
            for i, (a, b) in enumerate(zip(x, y, strict=False))
        ]
        + list(x[len(y) :])
        for x, y in zip(truth, answer, strict=True)
    ]
    for tags in (*truth, *answer):
        theirs = [(first, last + 1, kind) for kind, first, last in get_entities(tags)]
        assert [tuple(each) for each in entities(tags)] == theirs, tags
        assert entities(as_bio(tags)) == entities(tags)
    got = entity_figures(truth, answer)
    assert got["entity_f1"] == pytest.approx(f1_score(truth, answer))
    assert got["precision"] == pytest.approx(precision_score(truth, answer))
    assert got["recall"] == pytest.approx(recall_score(truth, answer))
