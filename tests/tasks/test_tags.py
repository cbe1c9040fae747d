"""A tag a word: at first tokens only, none lost however long the sentence."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest
from roads import mistake

from jaxlm.cli import main
from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.tasks.tags import Tags, read_sentences
from jaxlm.tasks.task import NONE, File
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.types import UserError


def test_all_forms_of_files_say_the_same(tmp_path):
    conll = tmp_path / "x.conll"
    conll.write_text("-DOCSTART- X O\n\nthe DT O\nfilm NN B-A\n\n\nwarm JJ B-B\n")
    ernie = tmp_path / "x.tsv"
    ernie.write_text("text_a\tlabel\nthe\x02film\tO\x02B-A\nwarm\tB-B\n")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/seq.in").write_text("the film\nwarm\n")
    (tmp_path / "two/seq.out").write_text("O B-A\nB-B\n")
    for path in (conll, ernie, tmp_path / "two"):
        found = read_sentences(str(path), labelled=True)
        assert [(e.words, e.tags) for e in found] == [
            (("the", "film"), ("O", "B-A")),
            (("warm",), ("B-B",)),
        ], path
    assert found[0].where().endswith("seq.in, line 1")
    assert read_sentences(str(conll), labelled=True)[1].line == 7


def test_a_file_of_universal_dependencies_gives_words_with_their_parts_of_speech(
    tmp_path,
):
    rest = "\t_" * 6
    lines = [
        "# text = Du côté",
        f"1-2\tDu\t_\t_{rest}",
        f"1\tDe\tde\tADP{rest}",
        f"2\tle\tle\tDET{rest}",
        f"2.1\tnon\tnon\tADV{rest}",
        f"3\t#\t#\tNOUN{rest}",
        "",
        f"1\t1 000\tmille\tNUM{rest}",
    ]
    path = tmp_path / "fr_x-ud-test.conllu"
    path.write_text("\n".join(lines) + "\n")
    found = read_sentences(str(path), labelled=True)
    assert [(e.words, e.tags) for e in found] == [
        (("De", "le", "#"), ("ADP", "DET", "NOUN")),
        (("1 000",), ("NUM",)),
    ]
    assert [each.tags for each in read_sentences(str(path), labelled=False)] == [(), ()]
    taken = "".join(f"{i}\t_\t_\tNOUN{rest}\n" for i in (1, 2))
    path.write_text(taken)  # as treebanks whose text is not free are published
    with pytest.raises(UserError, match="its words were taken out"):
        read_sentences(str(path), labelled=True)
    path.write_text("\n".join([*lines, "2\tx\tx\tX"]))
    with pytest.raises(UserError, match="line 9: 4 columns, CoNLL-U has 10"):
        read_sentences(str(path), labelled=True)


@pytest.mark.shared
def test_universal_dependencies_are_read_whole(shared, tmp_path):
    """Sentences, words and tags as universaldependencies.org counts them."""
    for corpus, name, counts in (
        ("ud_pud", "en_pud-ud-test", (1000, 21180, 17)),
        ("ud_en_ewt", "en_ewt-ud-test", (2077, 25094, 17)),
    ):
        [packed] = (shared / corpus).glob("*.tar.xz")
        with tarfile.open(packed) as files:
            [member] = (each for each in files if each.name.endswith(f"{name}.conllu"))
            content = files.extractfile(member).read()
        (tmp_path / name).write_bytes(content)
        found = read_sentences(str(tmp_path / name), labelled=True)
        tags = [tag for each in found for tag in each.tags]
        assert (len(found), len(tags), len(set(tags))) == counts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("the O\nfilm\n", "line 2: 'film' has no tag"),
        ("\n\n", "has no sentences"),
        ("text_a\tlabel\na\x02b\tO\n", "line 2: 2 words and 1 tags"),
        ("the DT I-NP O\nfilm NN I-NP\n", "line 2: 3 columns, the first line has 4"),
    ],
)
def test_a_bad_file_is_named_with_its_row(tmp_path, content, said):
    path = tmp_path / "x.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        read_sentences(str(path), labelled=True)


def test_columns_are_cut_at_tabs_where_there_are_any(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("New York\tB-LOC\nis\tO\r\n\nfine\tO\t\n")
    found = read_sentences(str(path), labelled=True)
    assert [(e.words, e.tags) for e in found] == [
        (("New York", "is"), ("B-LOC", "O")),
        (("fine",), ("O",)),
    ]


def test_no_sentence_of_two_files_is_passed_over(tmp_path):
    (tmp_path / "seq.in").write_text("the film\n\nwarm\n")
    (tmp_path / "seq.out").write_text("O O\nO\nO\n")
    with pytest.raises(UserError, match=r"seq\.in, line 2: an empty sentence"):
        read_sentences(str(tmp_path), labelled=True)


def test_words_are_told_at_their_first_tokens_in_rows_that_hold_whole_words(
    model_directory, tmp_path
):
    tokenizer = load_tokenizer(model_directory)
    path = tmp_path / "x.txt"
    words = ["the", "brightness", "\u200b", "of", "charming", "filmfilmfilm", "end"] * 3
    tags = ["O", "B-A", "I-A", "O", "B-B", "O", "O"] * 3
    lines = [f"{w} {t}" for w, t in zip(words, tags, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    config = TaskConfig(kind="tokens", metric="entity_f1")
    task = Tags(FinetuneConfig(task=config, length=24), tokenizer)
    examples = task.read(str(path), True, {})
    labels = task.labels_of(examples, str(path))
    assert labels == ("O", "B-A", "I-A", "B-B", "I-B")
    config = dataclasses.replace(config, labels=labels)
    task = Tags(FinetuneConfig(task=config, length=24), tokenizer)
    rows = task.encode(examples, True)
    assert len(rows.tokens) > 1 and rows.lengths.max() <= 24
    told, scores = [], []
    for ids, row, part in zip(rows.tokens, rows.labels, rows.origins, strict=True):
        assert ids[0] == tokenizer.special.cls and ids[-1] == tokenizer.special.sep
        assert np.flatnonzero(row != NONE).tolist() == part.starts.tolist()
        told += row[part.starts].tolist()
        scores.append(np.eye(5)[np.maximum(row, 0)])
        first = tokenizer.encode(words[part.first]).ids
        assert ids[1] == (first[0] if len(first) else tokenizer.special.unknown)
    assert [labels[i] for i in told] == tags
    figures = task.figures(File(examples, rows), scores)
    assert figures["entity_f1"] == 1 and figures["entities"] == 6
    (tmp_path / "out").write_text(task.output(File(examples, rows), scores))
    out = read_sentences(str(tmp_path / "out"), labelled=True)
    assert [(e.words, e.tags) for e in out] == [(tuple(words), tuple(tags))]


def test_the_road_learns_tags_and_names_strange_ones(model_directory, tmp_path, capsys):
    import random

    draw = random.Random(0)
    vocabulary = {"film": "S-THING", "story": "S-THING", "the": "O", "is": "O"}
    vocabulary |= {"dull": "O", "end": "S-THING"}

    def write(name, count):
        lines = []
        for _ in range(count):
            words = draw.choices(list(vocabulary), k=draw.randrange(1, 9))
            lines += [f"{word}\t{vocabulary[word]}" for word in words] + [""]
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_text("\n".join(lines))

    write("train.conll", 150)
    write("dev.conll", 30)
    run = str(tmp_path / "r")
    flags = "--batch 16 --length 16 --task.buckets 16 --task.epochs 4 --mesh.data 1"
    words = ["finetune", "ner", "--init", model_directory, "--workdir", run]
    words += ["--data", str(tmp_path / "d"), *flags.split(), "--optim.peak", "0.005"]
    words += ["--log.tensorboard", "false"]
    assert main(words) == 0
    capsys.readouterr()
    dev = str(tmp_path / "d" / "dev.conll")
    assert main(["evaluate", run, "--data", dev, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entity_f1"] > 0.95
    strange = tmp_path / "strange.conll"
    strange.write_text("the O\nfilm B-PLACE\n")
    found = mistake(capsys, "evaluate", run, "--data", str(strange))
    assert "strange.conll, line 2: tag 'B-PLACE' is not in the training file" in found
    strange.write_text("the DT\n")
    words[words.index("--data") + 1] = str(strange)
    assert "is not a tag of an entity" in mistake(capsys, *words)
