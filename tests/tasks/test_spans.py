"""Spans: windows, offsets to the character, the way back from scores to answers."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm.cli import main
from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.tasks.batches import packed_batch, padded_batch
from jaxlm.tasks.questions import Question, read_questions
from jaxlm.tasks.spans import (
    Spans,
    align,
    most_context,
    split_document,
    tokens_of,
)
from jaxlm.tasks.task import NONE, File
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.types import UserError

TASK = TaskConfig(kind="spans", metric="f1", stride=4, question=6)


def windows(examples, tokenizer, length):
    task = Spans(FinetuneConfig(task=TASK, length=length), tokenizer)
    return task.encode(examples, True)


def write_squad(path, questions):
    """(context, question, answers) of each, as SQuAD has it."""
    paragraphs = []
    for i, (context, question, answers) in enumerate(questions):
        told = [{"text": t, "answer_start": context.find(t)} for t in answers]
        asked = {"id": str(i), "question": question, "answers": told}
        asked["is_impossible"] = not answers
        paragraphs.append({"context": context, "qas": [asked]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return str(path)


@pytest.fixture(scope="module")
def uncased(shared_vocabulary):
    return load_tokenizer(shared_vocabulary)


@pytest.fixture(scope="module")
def shared_vocabulary():
    vocabularies = Path(__file__).resolve().parents[3] / "shared/data/vocabs"
    return vocabularies / "bert-base-uncased" / "vocab.txt"


TEXT = (
    "Zürich's ÉCOLE costs $1,995.50 (naïvely) in the 1990s; 北京大学 и Ёлка, "
    "a\u0301b x\ufffdy 🙂"
)


@pytest.mark.shared
def test_tokens_are_those_of_the_text_and_cover_it_character_by_character(uncased):
    found = align(uncased, TEXT)
    assert found.ids.tolist() == uncased.encode(TEXT).ids.tolist()
    for id, a, b in zip(*found, strict=True):
        token = uncased.token(id).removeprefix("##")
        piece = TEXT[a:b]
        if token != "[UNK]" and piece.isascii():
            assert piece.lower() == token
    said = {TEXT[a:b] for _, a, b in zip(*found, strict=True)}
    assert {"北", "京", "大", "学", "$", "1", "a\u0301"} & said >= {
        "北",
        "京",
        "$",
        "1",
    }
    assert any(each.startswith("É") for each in said)
    covered = np.zeros(len(TEXT), bool)
    for _, a, b in zip(*found, strict=True):
        covered[a:b] = True
    assert all(
        c.isspace() or c == "\ufffd"
        for c, k in zip(TEXT, covered, strict=False)
        if not k
    )


@pytest.mark.shared
def test_offsets_are_those_of_the_tokenizers_library(uncased, shared):
    """On real paragraphs, accents and other scripts among them."""
    library = uncased.library()
    questions = read_questions(str(shared / "xquad/xquad.en.json.xz"), labelled=True)
    for context in list(dict.fromkeys(each.context for each in questions))[:60]:
        theirs = library.encode(context, add_special_tokens=False)
        ours = align(uncased, context)
        assert ours.ids.tolist() == theirs.ids
        same = sum(
            (int(a), int(b)) == pair
            for a, b, pair in zip(ours.start, ours.end, theirs.offsets, strict=True)
        )
        assert same >= len(theirs.ids) - 2, context  # a combining accent belongs to us


def test_windows_move_by_the_stride_and_each_token_has_its_best_one():
    """Ten tokens, six at a time, by three: [0, 6) [3, 9) [6, 10)."""
    found = split_document(10, 6, 3)
    assert found == [(0, 6), (3, 9), (6, 10)]
    # Shorter sides: of token 4 one in both windows, the first stays; of token 7 one in
    # the second and third, of which the second is larger.
    assert most_context(found, 10).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert split_document(6, 6, 3) == [(0, 6)] and split_document(0, 6, 3) == [(0, 0)]


def test_the_true_span_comes_back_to_the_character_from_every_window(model_directory):
    tokenizer = load_tokenizer(model_directory)
    context = (
        "The film is a story of two people; and its DULL end is charming, a warm end."
    )
    examples = [
        Question("1", "the story", context, (("DULL end", context.index("DULL")),), ""),
        Question("2", "its end", context, (("charming", context.index("charm")),), ""),
        Question("3", "a film", context, (), ""),
    ]
    task = TaskConfig(kind="spans", metric="best_f1", stride=4, question=6)
    task = Spans(FinetuneConfig(task=task, length=24), tokenizer)
    rows = task.encode(examples, True)
    assert len(rows.tokens) >= 6 and rows.lengths.max() <= 24 and not rows.notes
    scores = []
    for ids, label in zip(rows.tokens, rows.labels, strict=True):
        score = np.zeros((len(ids), 2), np.float32)
        score[label[0], 0] = score[label[1], 1] = 5
        scores.append(score)
    texts, diffs = task.answers(File(examples, rows), scores)
    assert texts[:2] == ["DULL end", "charming"]
    # Windows without it point at [CLS] with the same score; the least of them counts.
    assert diffs[0] == -10 and diffs[2] == 10
    told = sum(label[1] > 0 for label in rows.labels)
    assert 2 <= told < len(rows.labels)


def test_an_answer_elsewhere_is_found_or_counted(model_directory):
    tokenizer = load_tokenizer(model_directory)
    context = "the film is dull and the end is warm"
    examples = [
        Question("1", "film", context, (("warm", 3),), ""),
        Question("2", "film", context, (("bright", 3),), ""),
    ]
    crowded = examples[0]._replace(question="the film is a story of")
    with pytest.raises(UserError, match="no room for the document: --length 8"):
        windows([crowded], tokenizer, 8)
    rows = windows(examples, tokenizer, 64)
    assert rows.labels[0, 0] > 0
    # Nothing is learnt of a question whose answer is nowhere, in either kind of batch.
    assert rows.labels[1].tolist() == [NONE, NONE]
    index = np.arange(2)
    assert padded_batch(rows, index, 32).weights.tolist() == [1, 0]
    packed = packed_batch(rows, index, 64, index)
    assert packed.weights.sum() == 1 and packed.weights[0, 0] == 1
    second = examples[1]._replace(answers=(("bright", 3), ("warm", 32)))
    assert windows([second], tokenizer, 64).labels.min() > 0
    assert rows.notes == (
        "1 answer found at another place than stated",
        "1 answer left out: not in the document",
    )


@pytest.mark.long
def test_the_road_learns_answers_and_when_to_be_silent(
    model_directory, tmp_path, capsys
):
    import random

    draw = random.Random(0)
    rest = [
        "the",
        "film",
        "is",
        "a",
        "story",
        "of",
        "two",
        "people",
        "and",
        "its",
        "end",
    ]

    def drawn(count):
        out = []
        for i in range(count):
            words = draw.choices(rest, k=draw.randrange(3, 9))
            answer = draw.choice(("charming", "Warm", "bright"))
            if i % 3:
                words.insert(draw.randrange(len(words)), answer)
            out.append((" ".join(words), "is a", [answer] if i % 3 else []))
        return out

    train = write_squad(tmp_path / "train.json", drawn(240))
    dev = write_squad(tmp_path / "dev.json", drawn(60))
    run = str(tmp_path / "r")
    flags = "--batch 16 --length 32 --task.buckets 32 --task.epochs 5 --mesh.data 1"
    words = ["finetune", "squad2", "--init", model_directory, "--workdir", run]
    words += ["--data", train, "--dev", dev, *flags.split(), "--optim.peak", "0.005"]
    words += ["--log.tensorboard", "false"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "best f1" in out
    assert main(["evaluate", run, "--data", dev, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    # The threshold that was best on the dev file is the one in force.
    assert figures["f1"] == pytest.approx(figures["best_f1"]) and figures["f1"] > 0.9
    out = str(tmp_path / "answers.json")
    assert main(["predict", run, "--data", dev, "--out", out]) == 0
    with open(out) as file:
        answers = json.load(file)
    asked = read_questions(dev, labelled=True)
    right = sum(
        answers[each.id] == (each.answers[0][0] if each.answers else "")
        for each in asked
    )
    assert right / len(asked) == pytest.approx(figures["exact"], abs=0.05)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("vocabulary", "language", "exact"),
    [
        ("bert-base-chinese", "zh", 1190),
        # One answer of the file ends inside a number: "(2,70" of "(2,700".
        ("bert-base-uncased", "en", 1189),
        ("bert-base-multilingual-cased", "th", 1189),
    ],
)
def test_xquad_s_answers_come_back_to_the_character(
    shared, vocabulary, language, exact
):
    tokenizer = load_tokenizer(shared / "vocabs" / vocabulary / "vocab.txt")
    path = str(shared / f"xquad/xquad.{language}.json.xz")
    same, documents = 0, {}
    for each in read_questions(path, labelled=True):
        if each.context not in documents:
            documents[each.context] = align(tokenizer, each.context)
        document = documents[each.context]
        text, at = each.answers[0]
        found = tokens_of(document, at, at + len(text))
        assert found is not None
        first, last = found
        same += each.context[document.start[first] : document.end[last]] == text
    assert same == exact
