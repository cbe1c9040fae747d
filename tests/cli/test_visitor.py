"""What somebody asks who has just installed jaxlm."""

import importlib.metadata
import json
import re
import shutil

import jax
import pytest
from cli.commands import again, mistake

import jaxlm
from jaxlm.cli import doctor, main
from jaxlm.config.files import recipes


def test_recipes_names_every_recipe_with_its_size_and_cost(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    listed = re.findall(r"^  (\w+) ", out, re.M)
    assert sorted(listed) == sorted(recipes())
    flat = " ".join(out.split())
    # The published sizes and what the docstrings say.
    assert "124M parameters; 2.5 × 10^20 FLOP; 177 hours on one H200" in flat
    assert "110M parameters; 2.6 × 10^19 FLOP: 4 days on 16 TPU v2" in flat
    before, tasks = flat.split("jaxlm finetune RECIPE")
    assert " sst2 " in tasks and " bert_base " in before


def test_recipes_takes_a_part_of_a_name(capsys):
    assert main(["recipes", "--only", "squad"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^  (\w+) ", out, re.M) == ["squad", "squad2"]
    assert "'xlnet'" in mistake(capsys, "recipes", "--only", "xlnet")


def test_doctor_describes_a_sound_machine(tmp_path, capsys):
    new = tmp_path / "not" / "yet"
    assert main(["doctor", "--workdir", str(new)]) == 0
    out = capsys.readouterr().out
    assert f"jax {importlib.metadata.version('jax')}," in out
    assert "1 × cpu (cpu)" in out and f"free in {tmp_path}" in out
    assert float(re.search(r"float32: ([\d,]+) GFLOP", out)[1].replace(",", "")) > 0
    assert not new.exists()


def test_doctor_names_the_pip_command_of_what_is_missing(monkeypatch, capsys):
    missing = {"spacy", "gcsfs"}
    found = doctor._installed
    monkeypatch.setattr(
        doctor, "_installed", lambda name: name not in missing and found(name)
    )
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert 'en lacks spacy: pip install "jaxlm[en]"' in out
    assert out.count('pip install "jaxlm[gcs]"') == 2  # and beside gs://


def test_doctor_fails_where_no_run_can_begin(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["doctor", "--workdir", str(tmp_path / "file")]) == 1
    assert "FAILS: " in capsys.readouterr().out


def test_evaluate_alone_is_on_what_the_run_held_out(run, capsys):
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    capsys.readouterr()
    assert main(["evaluate", str(run), "--batch", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mlm_loss"] == pytest.approx(last["eval_mlm_loss"], rel=1e-5)


def test_evaluate_alone_says_what_it_lacks(run, tmp_path, capsys):
    moved = tmp_path / "r"
    shutil.copytree(run, moved)
    records = json.loads((moved / "provenance.json").read_text())
    for each in records:  # written before digests were
        each |= {"corpus": "gone", "corpus_from_here": "gone"}
        del each["sha256"]
    (moved / "provenance.json").write_text(json.dumps(records))
    assert f"{moved} --text FILE" in mistake(capsys, "evaluate", str(moved))
    assert "no does not exist" in mistake(capsys, "evaluate", str(tmp_path / "no"))


def test_what_a_run_will_do_is_said_before_it_trains(run, capsys):
    capsys.readouterr()
    assert main(again(run)) == 0
    said = capsys.readouterr().err
    stored = jaxlm.load(run).params
    count = sum(leaf.size for leaf in jax.tree.leaves(stored))
    count -= 40 * (16 + 1)  # 600 words in 640 rows of 16 numbers, and a bias for each
    assert f"{count:,} parameters; 4 steps: 32 rows, 1,024 tokens, " in said
