"""GPTs and alternatives by the command line: trained, stopped, told, exported."""

import contextlib
import io
import json
import lzma
import random
import string

import numpy as np
import pytest
from exported import export
from reviews import BAD, GOOD, REST
from roads import digest, mistake

from jaxlm.cli import main
from jaxlm.config import TextConfig, gpt2
from jaxlm.convert.model_directory import export_model, from_params
from jaxlm.families import build
from jaxlm.tasks.finetuned import open_finetuned
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params

FLAGS = [
    *("--batch", "16", "--length", "24", "--task.buckets", "24", "--mesh.data", "1"),
    *("--log.tensorboard", "false", "--log.every", "5", "--save_every", "100"),
]


def command(recipe, model, data, workdir, *more):
    where = ["--init", str(model), "--data", str(data), "--workdir", str(workdir)]
    return ["finetune", recipe, *where, *FLAGS, *more]


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    """A random GPT-2 whose vocabulary has the words of the reviews."""
    words = [*GOOD, *BAD, *REST, *string.ascii_lowercase]
    texts = [" ".join(words)] * 20
    tokenizer = train_tokenizer(
        texts, TextConfig(tokenizer="byte_bpe", verbatim=True), 400
    )
    shape = {"num_layers": 2, "num_heads": 2, "d_model": 32, "d_ff": 64}
    config = gpt2("tiny", vocab_size=400, max_length=32, init_std=0.1, **shape)
    source = from_params(config, init_params(build(config), 0))
    out = tmp_path_factory.mktemp("gpt") / "model"
    export_model(out, source, tokenizer, origin={})
    return str(out)


@pytest.fixture(scope="module")
def run(gpt, sst2, tmp_path_factory):
    """(workdir, its words, state sha256)."""
    workdir = tmp_path_factory.mktemp("run") / "sst2"
    more = ["--task.epochs", "12", "--optim.peak", "0.003", "--model.dropout", "0"]
    words = command("sst2_gpt", gpt, sst2, workdir, *more)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(words) == 0
    out = printed.getvalue()
    assert "at random: task/kernel, embed/token/table from row 400 on" in out
    return workdir, words, out.split("state sha256 ")[1].split()[0]


def test_a_gpt_learns_the_task_and_the_language_of_its_rows(run):
    workdir, _, _ = run
    records = lines(workdir)
    first = records[0]  # of one step; others are means over several
    whole = first["task_loss"] + 0.5 * first["lm_loss"]
    assert abs(first["loss"] - whole) < 1e-5 * whole
    assert records[-1]["lm_loss"] < 0.6 * first["lm_loss"]
    assert records[-1]["lm_accuracy"] > first["lm_accuracy"]
    found = [r["eval_accuracy"] for r in records if "eval_accuracy" in r]
    assert max(found) > 0.9
    best = open_finetuned(workdir)
    assert best.config.model.vocab_size == 403
    assert best.config.optim.warmup_steps(best.config.steps) == 1  # .2 % of 150 steps


def test_a_gpt_s_run_goes_on_evaluates_and_predicts(run, sst2, tmp_path, capsys):
    workdir, words, whole = run
    words = [str(tmp_path / "r") if each == str(workdir) else each for each in words]
    assert main([*words, "--stop", "20"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert digest(capsys) == whole
    dev = f"{sst2}/dev.tsv"
    assert main(["evaluate", str(workdir), "--data", dev, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    logged = next(r for r in lines(workdir) if r["step"] == figures["step"])
    assert figures["accuracy"] == logged["eval_accuracy"]
    out = tmp_path / "out.tsv"
    assert main(["predict", str(workdir), "--data", dev, "--out", str(out)]) == 0
    said = [line.split("\t")[0] for line in out.read_text().splitlines()[1:]]
    with open(dev) as file:
        truth = [line.rstrip("\n").split("\t")[1] for line in file][1:]
    right = [a == b for a, b in zip(said, truth, strict=True)]
    assert np.isclose(np.mean(right), figures["accuracy"])
    files = ["--to", "hf", "--out", str(tmp_path / "hf")]
    assert main(["export", str(workdir), *files]) == 0
    wanted = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert wanted["architectures"] == ["GPT2ForSequenceClassification"]
    assert wanted["vocab_size"] == 403 and wanted["id2label"] == {"0": "0", "1": "1"}


def test_a_held_out_loss_has_the_name_and_scale_of_the_training_s(gpt, sst2, tmp_path):
    """It leaves out λ times the language-modelling loss, so it is no `loss`."""
    data, workdir = f"{sst2}/dev.tsv", tmp_path / "r"
    still = ["--optim.peak", "1e-20", "--model.dropout", "0", "--task.dropout", "0"]
    whole = ["--dev", data, "--batch", "60", "--task.epochs", "1", "--log.every", "1"]
    assert main(command("sst2_gpt", gpt, data, workdir, *still, *whole)) == 0
    found = {name: value for each in lines(workdir) for name, value in each.items()}
    assert found["eval_task_loss"] == pytest.approx(found["task_loss"], rel=1e-5)
    assert found["loss"] > found["task_loss"] + 1 and "eval_loss" not in found


def few(shared, task, out, count=32):
    """The first rows of a task of GLUE."""
    for name in ("train", "dev"):
        with lzma.open(shared / "glue" / task / f"{name}.tsv.xz", "rt") as file:
            rows = [next(file) for _ in range(count + 1)]
        out.mkdir(exist_ok=True)
        (out / f"{name}.tsv").write_text("".join(rows))
    return out


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.parametrize(
    ("recipe", "task", "name", "figure", "more"),
    [
        ("entailment_gpt", "RTE", "gpt1", "accuracy", ["--task.label", "label"]),
        ("similarity_gpt", "STS-B", "gpt2", "pearson", ["--seeds", "2"]),
    ],
)
def test_real_pairs_are_read_by_both_kinds_of_gpt(
    recipe, task, name, figure, more, shared, tmp_path, capsys
):
    export(tmp_path / "m", name)
    data = few(shared, task, tmp_path / "d")
    words = command(recipe, tmp_path / "m", data, tmp_path / "r", *more)
    assert main([*words, "--task.epochs", "1"]) == 0
    capsys.readouterr()
    workdir = tmp_path / "r" / "seed-1" if "--seeds" in more else tmp_path / "r"
    asked = ["evaluate", str(workdir), "--data", f"{data}/dev.tsv", "--json"]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 2 and np.isfinite(found["task_loss"]) and figure in found
    if recipe == "similarity_gpt":
        out = ["--to", "hf", "--out", str(tmp_path / "hf")]
        assert "two texts in one order" in mistake(capsys, "export", str(workdir), *out)


def stories(count, seed):
    """The ending with a word of the beginning's kind is right; 2 to 4 endings."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.randrange(2)
        endings = [
            f"the {draw.choice((BAD, GOOD)[1 - kind])} end"
            for _ in range(draw.randrange(2, 5))
        ]
        right = draw.randrange(len(endings))
        endings[right] = f"the {draw.choice((BAD, GOOD)[kind])} end"
        yield {
            "article": f"a {draw.choice((BAD, GOOD)[kind])} film",
            "question": "and",
            "options": endings,
            "answer": string.ascii_uppercase[right],
        }


RACE = [
    *("--task.text", "article", "--task.pair", "question", "--task.label", "answer"),
    *("--task.choices", "options"),
]


@pytest.mark.long
def test_a_bert_chooses_among_two_to_four(model_directory, tmp_path):
    for name, count, seed in (("train", 320, 1), ("dev", 60, 2)):
        (tmp_path / "d").mkdir(exist_ok=True)
        text = "".join(json.dumps(each) + "\n" for each in stories(count, seed))
        (tmp_path / "d" / f"{name}.jsonl").write_text(text)
    rate = ["--optim.peak", "0.002", "--task.epochs", "8", "--model.dropout", "0"]
    words = command("choice", model_directory, tmp_path / "d", tmp_path / "r", *RACE)
    assert main([*words, *rate]) == 0
    records = lines(tmp_path / "r")
    best = max(r["eval_accuracy"] for r in records if "eval_accuracy" in r)
    assert best > 0.9
    assert open_finetuned(tmp_path / "r").config.task.labels == ("A", "B", "C", "D")
    # Answers are not read, and an alternative that is not there is never told.
    asked = [{**each, "answer": None} for each in stories(60, 2)]
    text = "".join(json.dumps(each) + "\n" for each in asked)
    (tmp_path / "in.jsonl").write_text(text)
    where = ["--data", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.tsv")]
    assert main(["predict", str(tmp_path / "r"), *where]) == 0
    head, *rows = (
        line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()
    )
    assert head == ["prediction", "p(A)", "p(B)", "p(C)", "p(D)"]
    for row, each in zip(rows, asked, strict=True):
        lacking = row[1 + len(each["options"]) :]
        assert all(float(p) == 0 for p in lacking)
        assert string.ascii_uppercase.index(row[0]) < len(each["options"])
    right = [row[0] == s["answer"] for row, s in zip(rows, stories(60, 2), strict=True)]
    assert np.isclose(np.mean(right), best)


def test_mistakes_are_one_line(gpt, model_directory, sst2, tmp_path, capsys):
    def said(recipe, model, *more, data=sst2):
        return mistake(capsys, *command(recipe, model, data, tmp_path / "r", *more))

    spans = ["--task.kind", "spans", "--task.metric", "f1"]
    assert "task.kind = spans needs a BERT" in said("sst2_gpt", gpt, *spans)
    tokens = ["--task.kind", "tokens", "--task.metric", "accuracy"]
    assert "task.kind = tokens needs a BERT" in said("sst2_gpt", gpt, *tokens)
    assert "a GPT, which has no pooler: pass --task.pooling last" in said("sst2", gpt)
    assert "adds the next-token loss of a GPT: pass" in said(
        "sst2_gpt", model_directory
    )
    good, record = stories(2, 0)
    for change, more, words in (
        ({"answer": "E"}, [], "x.jsonl, line 2: label 'E' is none of A, B"),
        ({"options": []}, [], "x.jsonl, line 2: 0 alternatives in options"),
        ({"options": ["a", ""]}, [], "x.jsonl, line 2: alternative 2 of 2 is empty"),
        ({}, ["--task.choices", "endings"], "x.jsonl, line 1: no key 'endings'"),
    ):
        path = tmp_path / "x.jsonl"
        path.write_text("\n".join(map(json.dumps, (good, {**record, **change}))))
        assert words in said("choice", model_directory, *RACE, *more, data=path)
