"""What the verbs of a run print and write."""

import gzip
import json
import time

import numpy as np
import pytest
from cli.commands import SIZE, TINY, again, mistake

from jaxlm.cli import main, pretrain
from jaxlm.text.prepare import Progress


def test_a_run_is_complete(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "provenance.json", "metrics.jsonl", "tokenizer"} <= names
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    wanted = "step loss learning_rate grad_norm skipped tokens_per_second mfu"
    assert set(wanted.split()) <= set(record)
    provenance = json.loads((run / "provenance.json").read_text())[0]
    assert provenance["versions"]["jax"] and provenance["corpus_sha256"]


def test_the_same_command_again_is_done_at_once(run, capsys):
    assert main(again(run)) == 0
    assert "state sha256 " in capsys.readouterr().out


def test_fill_gives_words_with_probabilities(run, capsys):
    assert main(["fill", str(run), "She was [MASK] and [MASK].", "--top_k", "3"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[MASK] 1: ") and second.startswith("[MASK] 2: ")
    assert first.count("%") == 3
    assert main(["fill", str(run), "She was [MASK] and [MASK].", "A [MASK]."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "She was [MASK] and [MASK]." and lines[3] == "A [MASK]."
    assert len(lines) == 5


def test_evaluate_puts_baselines_beside_figures(run, novel, capsys):
    assert main(["evaluate", str(run), "--text", novel, "--json", "true"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["unigram_loss"] > 0 and 0 < figures["unigram_accuracy"] < 1
    assert main(["evaluate", str(run), "--corpus", str(run.parent / "corpus")]) == 0
    assert "majority" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bert_base", "gpt2_small"])
def test_show_a_config(name, capsys):
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    count = {"bert_base": "110,106,428", "gpt2_small": "124,439,808"}[name]
    assert f"\n{count} parameters" in out
    line = next(x for x in out.splitlines() if x.startswith("layers/mlp/wi/kernel "))
    words = ["12", "×", "768", "×", "3072", "28,311,552", "layers,", "embed,", "mlp"]
    assert line.split()[1:] == [*words, "yes"]


def test_show_a_corpus_and_a_run_with_rows(run, capsys):
    for place in (run.parent / "corpus", run):
        assert main(["show", str(place), "--rows", "2"]) == 0
        out = capsys.readouterr().out
        first, second = out[out.index("row 0: ") :].split("row 1: ")
        assert "[CLS] " in first and second.count("[SEP]") == 2 and "]=" in out
    assert "checkpoint 4  state sha256 " in out and "step 4  held out  loss " in out


def test_one_percent_is_held_out_by_default(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Number {n} is here.\nIt ends.\n\n" for n in range(400)))
    where = ["--text", str(text), "--corpus", str(tmp_path / "c")]
    assert main(["prepare", "bert_tiny", *where, *SIZE]) == 0
    said = capsys.readouterr().err
    assert "400 documents (" in said
    count = int(said.split("400 documents (")[1].split()[0])
    assert 0 < count < 20 and "held out for evaluation by --holdout 0.01" in said
    # Training evaluates on them without being asked to, and says so if it cannot.
    words = ["bert_tiny", *where, "--workdir", str(tmp_path / "r"), *TINY]
    assert main(["pretrain", *words]) == 0
    assert "step 2  evaluation  " in capsys.readouterr().out
    none = ["--holdout", "0", "--corpus", str(tmp_path / "all")]
    assert main(["pretrain", *words, *none, "--workdir", str(tmp_path / "n")]) == 0
    out, error = capsys.readouterr()
    assert "no evaluation: 0 held-out documents" in out
    (note,) = [line for line in error.splitlines() if "[unusedN]" in line]
    assert main(["show", str(tmp_path / "all")]) == 0
    assert note in capsys.readouterr().out.splitlines()


def test_progress_is_told_while_nothing_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "_SECONDS_BETWEEN_LINES", 0.02)
    with pretrain._lines() as report:
        report(Progress("tokens", 1_000_000, 2_000_000, 0, "a.txt.xz"))
        time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) > 2 and said[-1].startswith(
        "tokens: reading a.txt.xz, 1.0 of 2.0 MB, "
    )


def test_embed_reads_lines_as_prepare_does(run, tmp_path, capsys):
    plain, marked = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_text("One.\nTwo\u2028two.\n")
    marked.write_bytes(gzip.compress("\ufeffOne.\r\nTwo\u2028two.\r\n".encode()))
    found = []
    for path in (plain, marked):
        out = str(tmp_path / "v.npz")
        assert main(["embed", str(run), "--text", str(path), "--out", out]) == 0
        with np.load(out) as file:
            found.append({name: file[name] for name in file})
    assert found[0].keys() == found[1].keys() == {"0", "1", "tokens/0", "tokens/1"}
    for name, each in found[0].items():
        np.testing.assert_array_equal(each, found[1][name])
    plain.write_bytes(b"One.\nTwo \xff\n")
    words = ["embed", str(run), "--text", str(plain), "--out", out]
    assert "a.txt, line 2: byte 0xff is not UTF-8" in mistake(capsys, *words)
    (tmp_path / "t.jsonl").write_text('{"text": 7}\n')
    words = ["evaluate", str(run), "--text", str(tmp_path / "t.jsonl")]
    assert 't.jsonl, line 1: "text" is 7' in mistake(capsys, *words)
    assert 'no field "body": it has text' in mistake(capsys, *words, "--field", "body")
