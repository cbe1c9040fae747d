"""Minimal pairs: accuracies counted by hand, files, mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from exported import export

from jaxlm.cli import main
from jaxlm.scoring import Scored
from jaxlm.zeroshot import pairs
from jaxlm.zeroshot.protocol import Options

pytestmark = pytest.mark.usefixtures("without_type_checks")
# sentence, or (prompt, word) → log-probabilities of its tokens
SCORES = {
    "a good": [-1.0, -1.0],
    "a bad": [-3.0],
    "b good": [-4.0, -1.0, -1.0],
    "b bad": [-5.0],
    "c good": [-2.0],
    "c bad": [-2.0],
    ("a", " good"): [-1.0],
    ("a", " bad"): [-2.0],
    ("b", " good"): [-3.0],
    ("b", " bad"): [-2.0],
    ("one", " same"): [-1.0],
    ("two", " same"): [-4.0],
}
KNOWN = [("one", 1.0), ("two", 0.5)]  # paradigm, its published accuracy


class Model:
    """Scores as `SCORES` has them."""

    def score(self, texts, prompts=None, method=""):
        keys = texts if prompts is None else zip(prompts, texts, strict=True)
        values = [np.array(SCORES[key]) for key in keys]
        return [Scored((), each, each < 0, True) for each in values]


def write(path, *records):
    path.write_text("".join(f"{json.dumps(each)}\n" for each in records))
    return str(path)


def record(name, uid, **more):
    two = {"sentence_good": f"{name} good", "sentence_bad": f"{name} bad"}
    return {**two, "UID": uid, "linguistics_term": "term", **more}


def prefixed(name, uid):
    words = {"one_prefix_word_good": "good", "one_prefix_word_bad": "bad"}
    return record(name, uid, one_prefix_prefix=name, **words)


def test_accuracies_equal_those_counted_by_hand(tmp_path):
    summary = tmp_path / "raw_results/summary"
    for folder in (tmp_path / "data/more", summary):
        folder.mkdir(parents=True)
    write(tmp_path / "data/one.jsonl", prefixed("a", "one"), prefixed("b", "one"))
    prefixes = {"two_prefix_prefix_good": "one", "two_prefix_prefix_bad": "two"}
    more = record("c", "two", two_prefix_word="same", **prefixes)
    write(tmp_path / "data/more/two.jsonl", more)
    known = [{"UID": name, **dict.fromkeys(pairs.MODELS, v)} for name, v in KNOWN]
    write(summary / "models_summary.jsonl", *known)
    items = pairs.read([str(tmp_path)])
    report = pairs.run(Model(), items, pairs.VARIANTS, Options())
    found = {(f.name, f.variant): (f.value, f.n) for f in report.figures}
    half = 0.5  # of a tie
    assert found == {
        ("all", "simple"): ((1 + 0 + half) / 3, 3),  # b: -6 and -5
        ("all", "mean"): ((1 + 1 + half) / 3, 3),  # b: -2 and -5
        ("all", "pen"): ((1 + 1 + half) / 3, 3),  # b: -6 / (8/6)^.8 = -4.77 and -5
        ("all", "one prefix"): (half, 2),
        ("all", "two prefix"): (1, 1),
        ("term.", "simple"): (half, 3),
        ("term.", "mean"): (2.5 / 3, 3),
        ("term.", "pen"): (2.5 / 3, 3),
        ("term.", "one prefix"): (half, 2),
        ("term.", "two prefix"): (1, 1),
        ("one", "simple"): (half, 2),
        ("one", "mean"): (1, 2),
        ("one", "pen"): (1, 2),
        ("one", "one prefix"): (half, 2),
        ("two", "simple"): (half, 1),
        ("two", "mean"): (half, 1),
        ("two", "pen"): (half, 1),
        ("two", "two prefix"): (1, 1),
    }
    beside = {f.name: f.beside["gpt2"] for f in report.figures}
    assert beside == {"all": 0.75, "term.": 0.75, "one": 1, "two": 0.5}
    one = next(f for f in report.figures if (f.name, f.variant) == ("one", "simple"))
    assert one.error == pytest.approx(np.std([0, 1], ddof=1) / np.sqrt(2))
    assert len(report.answers) == 3
    assert report.notes == ["2 of 3 pairs differ in their number of tokens"]


@pytest.mark.shared
def test_published_files_have_all_paradigms(shared, tmp_path):
    import tarfile

    for name in ("blimp/blimp.tar.xz", "zhoblimp/ZhoBLiMP.tar.gz"):
        with tarfile.open(shared / name) as file:
            file.extractall(tmp_path, filter="data")
    blimp = pairs.read([str(tmp_path / "blimp")])
    assert len(blimp) == 67_000
    assert len({pair.paradigm for pair in blimp}) == 67
    kinds = [pair.kind for pair in blimp]
    assert kinds.count("one_prefix") == kinds.count("two_prefix") == 20_000
    assert (
        len({pair.paradigm for pair in pairs.read([str(tmp_path / "ZhoBLiMP")])}) == 118
    )
    known = pairs.published([str(tmp_path / "blimp")])
    means = {m: np.mean([each[m] for each in known.values()]) for m in pairs.MODELS}
    # Warstadt et al. 2020, table 3, in percent; GPT-2's was measured anew later.
    assert means["ngram"] == pytest.approx(0.612, abs=5e-3)
    assert means["lstm"] == pytest.approx(0.698, abs=5e-3)


def test_mistakes_are_named(tmp_path, capsys):
    export(tmp_path / "bert", "bert")
    good = write(tmp_path / "good.jsonl", record("a", "one"))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("one\n")
    (tmp_path / "empty").mkdir()
    half = {**record("a", "one"), "one_prefix_prefix": "a"}
    no_text = {**record("a", "one"), "sentence_bad": " "}

    def said(*words: str) -> str:
        assert main(["zeroshot", str(tmp_path / "bert"), *words]) == 2
        return capsys.readouterr().err

    def on(*data: str, protocol: str = "pairs") -> str:
        return said("--protocol", protocol, "--data", *data)

    a, b = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    assert "a.txt has 2 lines and" in on(a, b)
    assert "sentence_bad is empty" in on(write(tmp_path / "x.jsonl", no_text))
    assert "one_prefix_word_bad are not all there" in on(
        write(tmp_path / "y.jsonl", half)
    )
    other = write(tmp_path / "z.jsonl", {"text": "a passage"})
    assert "it looks like one of --protocol lambada" in on(other)
    assert "has no file *.jsonl" in on(str(tmp_path / "empty"))
    assert "--protocol pairs fits every family" in on(other, protocol="lambada")
    assert "this protocol has no prompt" in said(
        "--protocol", "pairs", "--data", good, "--prompt", "{x}"
    )
    assert "method 'next' is not a BERT's" in said(
        "--protocol", "pairs", "--data", good, "--method", "next"
    )
    assert "--shots changes nothing in pairs" in said(
        "--protocol", "pairs", "--data", good, "--shots", "3"
    )
    assert "--data needs --protocol: pairs" in said("--prompt", "a", "--data", good)
    assert "--data: pairs needs sentence_good" in said("--protocol", "pairs")
    assert "--out a.txt is not .jsonl" in said("--out", "a.txt")


def test_a_berts_table_and_its_files(tmp_path, capsys):
    export(tmp_path / "bert", "bert")
    good = write(tmp_path / "good.jsonl", prefixed("a", "one"), prefixed("b", "one"))
    out = str(tmp_path / "answers.jsonl")
    words = ["--protocol", "pairs", "--data", good, "--out", out]
    assert main(["zeroshot", str(tmp_path / "bert"), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-4:-1]] == [
        ["all", "2"],
        ["term", "2"],
        ["one", "2"],
    ]
    record = json.loads((tmp_path / "answers.json").read_text())
    assert {f["variant"] for f in record["figures"]} == {
        "simple",
        "mean",
        "pen",
        "one prefix",
    }
    answers = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert json.loads(answers[1])["good"] == "b good"
