"""What goes wrong in a newcomer's first hour: status 2, one line, the remedy in it.

The issue of each line was met by somebody who tried jaxlm for the first time.
"""

import json
import shutil
import types

import pytest
from cli.commands import TINY, mistake

from jaxlm.cli import main

MISTAKES = {
    "a verb misspelt": ("pretain bert_tiny", "did you mean pretrain?"),
    "a verb of another program": ("train bert_tiny", "did you mean pretrain?"),
    "a recipe misspelt": ("pretrain bert_tinny", "did you mean bert_tiny?"),
    "a recipe of another verb": ("pretrain sst2 --workdir NEW", "of jaxlm finetune"),
    "a text where a recipe is meant": ("pretrain NOVEL", "a recipe is a name or"),
    "a flag misspelt": (
        "pretrain bert_tiny --workdir NEW --stepps 3",
        "did you mean --steps INT?",
    ),
    "a flag of another program": (
        "pretrain bert_tiny --workdir NEW --lr 1e-3",
        "did you mean --optim.peak NUMBER?",
    ),
    "a flag without its group": (
        "pretrain bert_tiny --workdir NEW --num_layers 3",
        "did you mean --model.num_layers INT?",
    ),
    "a value of another type": (
        "pretrain bert_tiny --workdir NEW --steps 1e4x",
        "--steps '1e4x' is not a whole number",
    ),
    "no such choice": (
        "export RUN --to huggingface --out NEW",
        "--to 'huggingface': did you mean hf?",
    ),
    "nothing to write to": ("pretrain bert_tiny --text NOVEL", "--workdir DIR"),
    "no text": ("pretrain bert_tiny --workdir NEW", "give --text to prepare one"),
    "a text that is not there": (
        "pretrain bert_tiny --text HERE/nov.txt --workdir NEW",
        "no text file matches",
    ),
    "a directory without text": (
        "pretrain bert_tiny --text EMPTY --workdir NEW",
        "*.txt, *.jsonl",
    ),
    "an empty text": (
        "pretrain bert_tiny --text HERE/empty.txt --workdir NEW",
        "empty",
    ),
    "a text that is too small": (
        "prepare bert_tiny --text HERE/small.txt --corpus NEW",
        "pass --model.vocab_size ",
    ),
    "bytes of another encoding": (
        "prepare bert_tiny --text HERE/latin.txt --corpus NEW",
        "latin.txt, line 1: byte 0xe9",
    ),
    "a text where a run is meant": (
        "fill NOVEL [MASK]",
        "is a file: name its directory",
    ),
    "no such run": ("fill HERE/runs/tiny [MASK]", "does not exist: name a run"),
    "a directory that is no run": ("evaluate HERE --text NOVEL", "not a run directory"),
    "no blank": ("fill RUN Hello", "no [MASK] in 'Hello': write it where"),
    "a sentence without quotes": (
        "fill RUN It is a [MASK] day",
        "in quotes, 'It is a [MASK] day'",
    ),
    "a BERT that shall continue a text": (
        "generate RUN --prompt Hello",
        "jaxlm fill fills its blanks",
    ),
    "a GPT that shall fill blanks": ("fill GPT [MASK]", "jaxlm generate continues"),
    "a task of a model that has none": (
        "predict RUN --data NOVEL --out NEW",
        "jaxlm finetune --init",
    ),
    "a text that is no file": (
        "embed RUN --text Hello --out HERE/v.npz",
        "echo 'A text.' | jaxlm embed",
    ),
    "vectors into a file of no known kind": (
        "embed RUN --text NOVEL --out HERE/v.txt",
        "none of .h5, .hdf5 and .npz",
    ),
    "another vocabulary": (
        "pretrain bert_tiny --corpus CORPUS --workdir NEW --model.vocab_size 700",
        "vocabulary of 600",
    ),
    "a row longer than the model reads": (
        "pretrain bert_tiny --corpus CORPUS --workdir NEW --length 4000",
        "model.max_length",
    ),
    "no init for a task": (
        "finetune sst2 --data NOVEL --workdir NEW",
        "needs --init, a run or model",
    ),
    "a topic that is none": ("help tokenisation", "there are "),
    "a word of a guide": ("help muon", "the word is in bert, "),
    "a recipe in capitals": ("pretrain BERT-TINY", "did you mean bert_tiny?"),
    "published weights as a recipe": ("pretrain bert_base_uncased", "mean bert_base?"),
    "a family as a recipe": ("pretrain gpt2", "there are gpt2_large, gpt2_medium, "),
    "a path to show": ("show HERE/none", "name a recipe, or the directory of"),
    "a number with a comma": ("demo --steps 10,000", ": write 10000"),
    "a device": ("pretrain bert_tiny --device cuda", "JAX_PLATFORMS=cpu in front"),
    "a flag to resume": ("pretrain bert_tiny --resume", "the same command resumes"),
    "a flag of no meaning": ("fill RUN [MASK] --xyzzy", "see jaxlm fill --help"),
    "one hyphen": ("pretrain bert_tiny -steps 3", "two hyphens, --steps INT"),
    "a text without its flag": (
        "pretrain bert_tiny NOVEL --workdir NEW",
        "did you mean --text ",
    ),
    "a prompt without its flag": ("generate GPT Hello", "did you mean --prompt Hello?"),
    "a part of a recipe's name": ("recipes tiny", "did you mean --only tiny?"),
    "a file where a run is to be": (
        "pretrain bert_tiny --workdir HERE/small.txt",
        "is a file: name a directory",
    ),
    "weights that are on a hub": (
        "fill bert-base-uncased [MASK]",
        "jaxlm downloads nothing, see jaxlm help weights",
    ),
    "weights of a hub to start from": (
        "pretrain bert_tiny --corpus CORPUS --workdir NEW --init google/bert-mini",
        "jaxlm downloads nothing, see jaxlm help weights",
    ),
    "a vocabulary of a hub": (
        "prepare bert_tiny --text NOVEL --corpus NEW --tokenizer bert-base-cased",
        "jaxlm downloads nothing",
    ),
    "weights of a hub to import": ("import gpt2 --out NEW", "jaxlm help weights"),
    "a checkpoint where its run is meant": (
        "evaluate RUN/checkpoints/4 --text NOVEL",
        "did you mean RUN?",
    ),
    "a folder of runs": ("fill HERE [MASK]", "did you mean HERE/gpt or RUN?"),
    "a profile after the end": (
        "pretrain bert_tiny --workdir NEW --steps 9 --profile 9:12",
        "begins after the last step, 9",
    ),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory, run, novel):
    """A folder with an umlaut and a blank in its name, and what a newcomer has."""
    here = tmp_path_factory.mktemp("Bücher und Läufe")
    (here / "empty").mkdir()
    (here / "empty.txt").touch()
    (here / "small.txt").write_text("It rains.\n\nIt pours.\n")
    (here / "latin.txt").write_bytes("A café.\n".encode("latin-1"))
    gpt = {"model": {"family": "gpt"}}
    (here / "gpt").mkdir()
    (here / "gpt" / "config.json").write_text(json.dumps(gpt))
    shutil.copytree(run, here / "run")
    return here


@pytest.mark.parametrize("name", MISTAKES)
def test_a_newcomer_is_told_the_remedy(name, here, run, novel, capsys):
    words, remedy = MISTAKES[name]
    new = here / f"new-{[*MISTAKES].index(name)}"
    places = {"NOVEL": novel, "CORPUS": f"{run.parent}/corpus", "NEW": str(new)}
    places |= {"RUN": f"{here}/run", "GPT": f"{here}/gpt", "EMPTY": f"{here}/empty"}
    argv = words.split()
    for place, path in {**places, "HERE": str(here)}.items():
        argv = [word.replace(place, path) for word in argv]
        remedy = remedy.replace(place, path)
    line = mistake(capsys, *argv)
    assert remedy in line and line.count("\n") == 1 and len(line) < 1200, line
    assert not (new / "config.json").exists()


def test_a_newcomer_s_paths_work(here, capsys):
    """With blanks and umlauts; other spellings of [MASK]."""
    for blank in ("[MASK]", "<mask>", "[mask]"):
        assert main(["fill", str(here / "run"), f"It is {blank}.", "--top_k", "2"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("[MASK] 1: ") and others == [first, first]


def test_a_text_of_another_language_is_noticed(here, capsys):
    assert main(["fill", str(here / "run"), "哈尔滨是[MASK]江"]) == 0
    assert "is this text of the model's language?" in capsys.readouterr().err


def test_an_export_says_where_its_digests_are_in_one_line(here, capsys):
    out = here / "exported"
    capsys.readouterr()
    assert main(["export", str(here / "run"), "--to", "hf", "--out", str(out)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    digests = json.loads((out / "jaxlm_export.json").read_text())["sha256"]
    assert line == f"wrote {out}: {len(digests)} files, digests in jaxlm_export.json"


def test_a_task_without_a_dev_file_says_that_nothing_is_evaluated(
    here, capsys, monkeypatch
):
    done = types.SimpleNamespace(interrupted=False)
    monkeypatch.setattr("jaxlm.cli.finetune._train", lambda *_: done)
    rows = "".join(f"it is good {n}\t1\nit is bad {n}\t0\n" for n in range(8))
    for name in ("train.tsv", "dev.tsv"):
        (here / name).write_text(f"sentence\tlabel\n{rows}")
    argv = ["finetune", "sst2", "--init", str(here / "run"), "--data"]
    argv += [str(here / "train.tsv"), "--workdir", str(here / "task"), "--batch", "8"]
    argv += ["--task.epochs", "1", "--length", "16", "--log.tensorboard", "false"]
    assert main(argv) == 0
    said = capsys.readouterr().err
    assert "no dev file: nothing is evaluated" in said
    assert f"{here / 'dev.tsv'} lies beside it, pass --dev" in said


def test_metrics_have_the_time_and_the_tokens_seen(run):
    lines = list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))
    tokens = int(TINY[TINY.index("--batch") + 1]) * int(
        TINY[TINY.index("--length") + 1]
    )
    assert [line["tokens"] for line in lines] == [tokens * x["step"] for x in lines]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0
