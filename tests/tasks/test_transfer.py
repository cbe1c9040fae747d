"""A task learnt in one language and tested in others, of which nothing was seen."""

import json
import lzma
import random

import numpy as np
import pytest
from exported import CONFIGS, tokenizer_of
from roads import mistake
from tokenizers import Tokenizer as Library

from jaxlm.cli import main
from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.files import place
from jaxlm.tasks.classes import Classes, class_figures
from jaxlm.tasks.finetune import module_of
from jaxlm.tasks.finetuned import Finetuned, open_finetuned
from jaxlm.tasks.spans import Spans, align, tokens_of
from jaxlm.tasks.tags import Tags
from jaxlm.tasks.transfer import coverage, find, language_of, read, transfer
from jaxlm.text.tokenizers import load_tokenizer
from jaxlm.types import UserError

TAGS = {"film": "NOUN", "story": "NOUN", "the": "DET", "is": "VERB", "dull": "ADJ"}
TOKENIZER = tokenizer_of(CONFIGS["bert"])


def conllu(path, sentences):
    """A CoNLL-U file of (word, tag) pairs."""
    path.parent.mkdir(exist_ok=True)
    blocks = []
    for words in sentences:
        rows = ["\t".join([str(i), w, w, t, *"______"]) for i, (w, t) in words]
        blocks.append("\n".join(rows) + "\n")
    path.write_text("\n".join(blocks) + "\n")
    return str(path)


def sentences(count, seed):
    draw = random.Random(seed)
    found = (
        draw.choices([*TAGS.items()], k=draw.randrange(2, 8)) for _ in range(count)
    )
    return [list(enumerate(words, start=1)) for words in found]


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("ud_pud/zh_pud-ud-test.conllu", "zh"),
        ("xnli/dev-sw.tsv", "sw"),
        ("xquad.el.json.xz", "el"),
        ("paws-x/ko/test_2k.tsv", "ko"),
        ("DRCD_dev.json", ""),
        ("de-fr.tsv", ""),
    ],
)
def test_a_file_s_name_tells_its_language(path, language):
    assert language_of(path) == language


def test_a_directory_gives_a_file_for_each_language_and_no_training_file(tmp_path):
    for name in ("train-de.tsv", "dev-de.tsv", "dev-fr.tsv", "LICENSE.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "ko").mkdir()
    (tmp_path / "ko" / "test_2k.tsv").write_text("x")
    files = {
        "de": f"{tmp_path}/dev-de.tsv",
        "fr": f"{tmp_path}/dev-fr.tsv",
        "ko": f"{tmp_path}/ko/test_2k.tsv",
    }
    assert find([str(tmp_path)]) == files
    assert find([f"{tmp_path}/dev-*.tsv"]) == {k: files[k] for k in ("de", "fr")}
    assert find([f"zh-Hant:{tmp_path}/LICENSE.txt"]) == {
        "zh-Hant": f"{tmp_path}/LICENSE.txt"
    }
    (tmp_path / "test-de.tsv").write_text("x")
    with pytest.raises(UserError, match="are both of the language de"):
        find([str(tmp_path)])


@pytest.fixture(scope="module")
def tagger(model_directory, tmp_path_factory):
    """A directory with two seeds of a tagger, and the files of three languages."""
    here = tmp_path_factory.mktemp("transfer")
    train = conllu(here / "en" / "train.conllu", sentences(150, 1))
    conllu(here / "en" / "dev.conllu", sentences(30, 2))
    strange = sentences(30, 3)
    strange[0] = [(1, ("film", "NOUN")), (2, ("is", "COPULA"))]
    conllu(here / "pud" / "de_pud-test.conllu", strange)
    conllu(here / "pud" / "zh_pud-test.conllu", [[(1, ("電影", "NOUN"))]] * 3)
    conllu(here / "pud" / "en_pud-test.conllu", sentences(30, 4))
    flags = "--batch 16 --length 16 --task.buckets 16 --task.pack false --seeds 2"
    flags += " --task.epochs 1 --optim.peak 0.003 --log.tensorboard false"
    words = ["finetune", "upos", "--init", model_directory, *flags.split()]
    words += ["--data", train, "--dev", str(here / "en" / "dev.conllu")]
    words += ["--workdir", str(here / "run"), "--transfer", str(here / "pud")]
    assert main(words) == 0
    return here, words


@pytest.mark.long
def test_other_languages_are_tested_by_every_seed_beside_chance(tagger, capsys):
    here, _ = tagger
    content = json.loads((here / "run" / "transfer.json").read_text())
    assert main(["evaluate", f"{here}/run", "--transfer", f"{here}/pud"]) == 0
    shown = capsys.readouterr().out
    languages = content["languages"]
    assert (
        list(languages) == ["de", "en", "zh"] and content["source"]["language"] == "en"
    )
    for name, found in languages.items():
        path = here / "pud" / f"{name}_pud-test.conllu"
        rows = [line.split("\t") for line in path.read_text().split("\n") if line]
        tags = np.array([row[3] for row in rows])
        accuracy = []
        for seed in (0, 1):
            out = here / "out"
            run = f"{here}/run/seed-{seed}"
            assert main(["predict", run, "--data", str(path), "--out", str(out)]) == 0
            told = [line.split("\t")[1] for line in out.read_text().split("\n") if line]
            accuracy.append(float(np.mean(tags == told)))
        assert [each["accuracy"] for each in found["seeds"]] == pytest.approx(accuracy)
        figures = found["figures"]["accuracy"]
        assert figures["mean"] == pytest.approx(np.mean(accuracy))
        assert figures["sd"] == pytest.approx(np.std(accuracy, ddof=1))
        most = max(np.mean(tags == tag) for tag in set(tags))
        assert found["seeds"][0]["majority_accuracy"] == pytest.approx(most)
    assert languages["en"]["gap"] is None and languages["en"]["unknown"] == 0
    gap = languages["de"]["figures"]["accuracy"]["mean"]
    gap -= languages["en"]["figures"]["accuracy"]["mean"]
    assert languages["de"]["gap"] == pytest.approx(gap)
    assert languages["de"]["labels_not_in_training"] == {"COPULA": 1}
    assert languages["zh"]["unknown"] == 1
    assert "zh: 100% of its words are unknown" in shown
    assert "not in the training file, and are errors: COPULA (1)" in shown
    assert "dev.conllu, which is en; no example in another language" in shown


def test_labels_are_read_when_every_seed_has_scored(tagger, monkeypatch):
    """They are written to the file when it has been scored for the second time."""
    here, _ = tagger
    runs = [open_finetuned(here / "run" / f"seed-{seed}") for seed in (0, 1)]
    path = here / "fr.conllu"
    full = sentences(5, 6)
    bare = [[(i, (word, "_")) for i, (word, _) in each] for each in full]
    conllu(path, bare)
    targets = read(runs[0].task, {"fr": str(path)})
    scores, scored = Finetuned.scores, []

    def score(self, file, *, batch):
        scored.append(self.directory.name)
        found = scores(self, file, batch=batch)
        if len(scored) == 2:
            conllu(path, full)
        return found

    monkeypatch.setattr(Finetuned, "scores", score)
    [found] = transfer(runs, targets).results
    assert scored == ["seed-0", "seed-1"] and not found.unseen
    assert found.labels == sum(map(len, full))


def test_bad_files_are_refused_before_training(tagger, tmp_path, capsys):
    _, words = tagger
    words = [*words[: words.index("--workdir")], "--workdir", f"{tmp_path}/run"]
    data = words[words.index("--data") + 1]
    (tmp_path / "x.conllu").write_text("film NOUN\n")
    (tmp_path / "fr.json").write_text('{"data": []}')
    for spec, said in (
        (f"fr:{tmp_path}/none.conllu", "no file or directory"),
        (f"{tmp_path}/x.conllu", "no language code in its name"),
        (f"{tmp_path}/fr.json", "is JSON"),
        (f"en:{data}", "is the training file"),
    ):
        assert said in mistake(capsys, *words, "--transfer", spec), spec
    assert not (tmp_path / "run").exists()


class Fixed(Finetuned):
    """A model whose scores are given."""

    def scores(self, file, *, batch):
        return self.params


def fixed(task, scores, here):
    return Fixed(place(here), task, module_of(task.config, task), scores, 0)


def test_answers_are_scored_by_the_rules_of_their_language(tmp_path):
    config = TaskConfig(kind="spans", metric="f1")
    task = Spans(FinetuneConfig(task=config, length=64), TOKENIZER)
    context = "der Film ist die Stadt"
    asked = {"id": "1", "question": "Was ?"}
    asked["answers"] = [{"text": "die Stadt", "answer_start": 13}]
    paragraph = {"context": context, "qas": [asked]}
    for name in ("de", "ru"):
        text = json.dumps({"data": [{"paragraphs": [paragraph]}]})
        (tmp_path / f"xquad.{name}.json").write_text(text)
    targets = read(task, find([str(tmp_path)]))
    [tokens] = targets[0].rows.tokens
    last = len(tokens) - 2  # before [SEP]: "Stadt" alone is the answer
    first = tokens_of(align(TOKENIZER, context), 17, 22)
    assert first
    score_L2 = np.zeros((len(tokens), 2), np.float32)
    begin = int(targets[0].rows.pair_start[0])
    score_L2[begin + first[0], 0] = score_L2[last, 1] = 9
    found = transfer([fixed(task, [score_L2], tmp_path)], targets)
    german, russian = (each.seeds[0] for each in found.results)
    assert german["exact"] == 0 and german["f1"] == pytest.approx(2 / 3)
    assert german["mlqa_exact"] == german["mlqa_f1"] == 1
    assert "mlqa_f1" not in russian and "–" in found.lines()[2]
    assert found.lines()[3].split() == [
        "mean",
        "of",
        "2",
        "others",
        "66.7%",
        "0.0%",
        "–",
    ]


def test_a_class_that_training_lacks_is_an_error_and_counted(tmp_path):
    config = TaskConfig(text="0", pair="1", label="2", labels=("no", "yes"))
    task = Classes(FinetuneConfig(task=config, length=32), TOKENIZER)
    labels = ["yes", "no", "maybe", "yes"]
    rows = "".join(f"a film\ta story\t{label}\n" for label in labels)
    (tmp_path / "test-de.tsv").write_text(rows)
    scores = [np.array([0, 1], np.float32)] * 4  # always yes
    targets = read(task, find([f"{tmp_path}/test-de.tsv"]))
    found = transfer([fixed(task, scores, tmp_path)], targets)
    assert found.results[0].seeds[0]["accuracy"] == 0.5
    assert found.results[0].unseen == {"maybe": 1}
    assert "de: 1 of 4 labels are not in the training file" in found.lines()[-1]


def test_entities_of_a_kind_that_training_lacks_are_missed_and_counted(tmp_path):
    config = TaskConfig(
        kind="tokens", metric="entity_f1", labels=("O", "B-PER", "I-PER")
    )
    task = Tags(FinetuneConfig(task=config, length=32), TOKENIZER)
    words = "film B-PER\nstory I-PER\nis O\n\nthe B-MISC\nend NOUN\n"
    (tmp_path / "test-nl.tsv").write_text(words)
    targets = read(task, find([str(tmp_path)]))
    scores = []
    for part, ids in zip(targets[0].rows.origins, targets[0].rows.tokens, strict=True):
        answers = [1, 2, 0] if part.sentence == 0 else [0, 0]
        score_LY = np.zeros((len(ids), 3), np.float32)
        score_LY[part.starts, answers] = 1
        scores.append(score_LY)
    [found] = transfer([fixed(task, scores, tmp_path)], targets).results
    assert found.seeds[0]["entity_f1"] == pytest.approx(2 / 3)  # 1 of 2, none wrong
    assert found.unseen == {"B-MISC": 1, "NOUN": 1} and found.labels == 5
    shown = transfer([fixed(task, scores, tmp_path)], targets).lines()
    assert shown[0].split()[:3] == ["examples", "entity", "f1"]


@pytest.mark.scores
def test_figures_with_such_a_class_are_those_of_scikit_learn():
    from sklearn import metrics

    draw = np.random.default_rng(0)
    truth, answer = draw.integers(0, 4, 200), draw.integers(0, 3, 200)
    got = class_figures(truth, np.eye(3, dtype=np.float32)[answer])
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(truth, answer))
    macro = metrics.f1_score(truth, answer, average="macro")
    assert got["macro_f1"] == pytest.approx(macro)
    assert got["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, answer))


@pytest.mark.shared
@pytest.mark.parametrize("language", ["en", "th", "zh"])
def test_coverage_is_counted_as_the_tokenizers_library_tells_it(shared, language):
    name = "bert-base-multilingual-cased"
    tokenizer = load_tokenizer(shared / "vocabs" / name / "vocab.txt", lowercase=False)
    packed = (shared / "vocabs" / name / "tokenizer.json.xz").read_bytes()
    library = Library.from_str(lzma.decompress(packed).decode())
    packed = (shared / "xquad" / f"xquad.{language}.json.xz").read_bytes()
    articles = json.loads(lzma.decompress(packed))["data"][:2]
    texts = [each["context"] for one in articles for each in one["paragraphs"]]
    tokens = [
        token
        for each in library.encode_batch(texts, add_special_tokens=False)
        for token in each.tokens
    ]
    continued = sum(token.startswith("##") for token in tokens)
    unknown = tokens.count("[UNK]") / (len(tokens) - continued)
    want = unknown, continued / len(tokens)
    assert coverage(tokenizer, texts) == pytest.approx(want, abs=1e-4)
