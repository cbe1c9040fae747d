"""`jaxlm finetune` from end to end: a run of seconds, killed, resumed, used."""

import json
import re
import shutil
import sys
import time

import numpy as np
import pytest
from reviews import write_tsv
from roads import digest, mistake

from jaxlm.cli import main
from jaxlm.tasks.finetuned import open_finetuned
from jaxlm.train.workdir import read_config

FLAGS = [
    *("--batch", "16", "--length", "32", "--optim.peak", "0.001", "--mesh.data", "1"),
    *("--log.tensorboard", "false", "--log.every", "5", "--save_every", "50"),
    *("--task.buckets", "8", "16", "32", "--task.pooling", "mean"),
    *("--task.epochs", "10"),
]


def command(model, data, workdir, *more, recipe="sst2"):
    where = ["--init", model, "--data", data, "--workdir", str(workdir)]
    return ["finetune", recipe, *where, *FLAGS, *more]


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def run(model_directory, sst2, tmp_path_factory):
    """(workdir, what was printed, state sha256) of an uninterrupted run."""
    import contextlib
    import io

    workdir = tmp_path_factory.mktemp("run") / "sst2"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert (
            main(command(model_directory, sst2, workdir, "--log.batches", "true")) == 0
        )
    out = printed.getvalue()
    return workdir, out, out.split("state sha256 ")[1].split()[0]


def test_it_learns_the_task_and_keeps_the_best(run):
    workdir, _, _ = run
    records = lines(workdir)
    assert records[-1]["step"] == 200 * 10 // 16  # int(examples / batch * epochs)
    found = [r["eval_accuracy"] for r in records if "eval_accuracy" in r]
    assert len(found) == 10 and found[-1] > 0.9
    best = open_finetuned(workdir)
    steps = [r["step"] for r in records if r.get("eval_accuracy") == max(found)]
    assert best.step == steps[0]
    assert best.config.task.labels == ("0", "1")
    config = read_config(workdir)
    assert config.optim.warmup_steps(config.steps) == 12 and config.eval_every == 13


def test_packed_batches_have_few_shapes_and_fewer_rows_than_examples(run):
    _, out, _ = run
    shapes = re.findall(r"compiled the step for (\d+) × (\d+)", out)
    assert len(shapes) <= 4 and len({width for _, width in shapes}) == 1
    assert all(int(rows) < 16 for rows, _ in shapes)
    assert int(shapes[0][0]) == max(int(rows) for rows, _ in shapes)


def test_after_the_first_pass_of_padded_rows_nothing_is_compiled(
    model_directory, sst2, tmp_path, capsys
):
    padded = ("--task.pack", "false", "--stop", "20")
    assert main(command(model_directory, sst2, tmp_path / "r", *padded)) == 0
    out = capsys.readouterr().out
    compiled = re.findall(r"compiled the step for 16 × (\d+)", out)
    assert sorted(compiled, key=int) == ["8", "16"]
    last = out.rindex("compiled the step")
    # 13 batches a pass: the line of step 15 is of the second.
    assert last < out.index("step 15/20")


@pytest.mark.devices
def test_devices_and_micro_batches_do_not_change_what_packed_rows_teach(
    model_directory, sst2, tmp_path
):
    losses = []
    still = ("--model.dropout", "0", "--log.every", "1", "--stop", "4")
    for cut in ((), ("--mesh.data", "2", "--accumulate", "4")):
        workdir = tmp_path / f"cut{len(cut)}"
        assert main(command(model_directory, sst2, workdir, *still, *cut)) == 0
        losses.append([r["task_loss"] for r in lines(workdir) if "task_loss" in r])
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)


@pytest.mark.parametrize(
    "stops", [(5, 20), pytest.param((39,), marks=pytest.mark.long)]
)
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    run, stops, model_directory, sst2, tmp_path, capsys
):
    workdir, _, whole = run
    words = command(model_directory, sst2, tmp_path / "r", "--log.batches", "true")
    for stop in stops:
        assert main([*words, "--stop", str(stop)]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert digest(capsys) == whole
    # What --stop alone evaluates is not chosen.
    assert open_finetuned(tmp_path / "r").step == open_finetuned(workdir).step
    ours, theirs = (
        {r["step"]: r["batch_sha256"] for r in lines(here) if "batch_sha256" in r}
        for here in (tmp_path / "r", workdir)
    )
    both = ours.keys() & theirs.keys()
    assert len(both) > 10 and all(ours[step] == theirs[step] for step in both)


@pytest.mark.long
def test_a_run_ends_when_its_patience_does_and_does_not_begin_again(
    model_directory, sst2, tmp_path, capsys
):
    # So small a rate that nothing changes: the first evaluation stays the best.
    still = ("--optim.peak", "1e-20", "--task.patience", "2")
    words = command(model_directory, sst2, tmp_path / "r", *still)
    assert main(words) == 0
    out = capsys.readouterr()
    assert "stopped early at step 39: step 13 is still the best" in out.out + out.err
    records = lines(tmp_path / "r")
    assert [r["step"] for r in records if "eval_accuracy" in r] == [13, 26, 39]
    assert open_finetuned(tmp_path / "r").step == 13
    assert main(words) == 0
    assert lines(tmp_path / "r") == records


@pytest.mark.long
def test_an_evaluation_that_was_killed_is_made_when_the_run_goes_on(
    model_directory, sst2, tmp_path, monkeypatch, capsys
):
    """The checkpoint of its step was saved before."""
    workdir = tmp_path / "r"
    more = ("--task.epochs", "2", "--save_every", "13")
    words = command(model_directory, sst2, workdir, *more)

    def killed(*_, **__):
        def score(*_):
            while not (workdir / "checkpoints" / "13").exists():
                time.sleep(0.01)
            raise RuntimeError("killed")

        return score

    with monkeypatch.context() as patch:
        patch.setattr("jaxlm.tasks.finetune.scorer", killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(words)
    assert not list((workdir / "best" / "checkpoints").iterdir())
    assert main(words) == 0
    assert "resuming at step 13" in capsys.readouterr().out
    assert [r["step"] for r in lines(workdir) if "eval_task_loss" in r] == [13, 25]
    # And not again.
    monkeypatch.setattr("jaxlm.tasks.finetune.scorer", killed)
    assert main(words) == 0


def test_evaluate_and_predict_agree_with_the_run(run, sst2, tmp_path, capsys):
    workdir, _, _ = run
    capsys.readouterr()
    assert main(["evaluate", str(workdir), "--data", f"{sst2}/dev.tsv", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    logged = next(r for r in lines(workdir) if r["step"] == figures["step"])
    assert figures["accuracy"] == logged["eval_accuracy"]
    # Labels are not read: a file without them will do.
    dev = (tmp_path / "in.tsv").open("w")
    truth = []
    with open(f"{sst2}/dev.tsv") as file:
        for line in file:
            text, label = line.rstrip("\n").split("\t")
            dev.write(text + "\n")
            truth.append(label)
    dev.close()
    out = str(tmp_path / "out.tsv")
    words = ["predict", str(workdir), "--data", str(tmp_path / "in.tsv"), "--out", out]
    assert main(words) == 0
    with open(out) as file:
        head, *rows = (line.rstrip("\n").split("\t") for line in file)
    assert head == ["prediction", "p(0)", "p(1)"]
    right = [row[0] == label for row, label in zip(rows, truth[1:], strict=True)]
    assert np.isclose(np.mean(right), figures["accuracy"])
    assert np.allclose([float(a) + float(b) for _, a, b in rows], 1, atol=2e-6)
    # The run has written the same of its dev file.
    with open(workdir / "predictions.tsv") as theirs, open(out) as ours:
        assert theirs.read() == ours.read()
    # A file whose columns have other names, or none.
    other = tmp_path / "other.tsv"
    other.write_text("".join(f"7\t{text}\n" for text in ("a warm film", "dull")))
    words = ["predict", str(workdir), "--data", str(other), "--out", out]
    assert main([*words, "--task.text", "1"]) == 0
    with open(out) as file:
        assert len(file.readlines()) == 3


def test_a_shape_of_evaluation_does_not_change_the_scores(run, sst2):
    finetuned = open_finetuned(run[0])
    file = finetuned.task.open(f"{sst2}/dev.tsv", labelled=False)
    a, b = (finetuned.scores(file, batch=batch) for batch in (32, 3))
    assert np.abs(np.stack(a) - np.stack(b)).max() < 1e-4


def test_a_file_is_read_once(model_directory, sst2, tmp_path):
    """Of a run from its beginning to the answers to the dev file."""
    counts = dict.fromkeys((f"{sst2}/train.tsv", f"{sst2}/dev.tsv"), 0)
    watching = True

    def opened(event, arguments):
        if event == "open" and watching and arguments[0] in counts:
            counts[arguments[0]] += 1

    sys.addaudithook(opened)
    words = command(model_directory, sst2, tmp_path / "r", "--task.epochs", "0.1")
    status = main(words)
    watching = False
    assert status == 0 and set(counts.values()) == {1}


@pytest.mark.long
def test_seeds_are_runs_of_their_own_with_one_table(
    model_directory, sst2, tmp_path, capsys
):
    words = command(model_directory, sst2, tmp_path, "--seeds", "2", "--seed", "4")
    assert main([*words, "--task.epochs", "0.2"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"seed 4 +seed 5 +mean ± sd", table)
    a, b = (
        json.loads((tmp_path / "seeds.json").read_text())[f"seed-{s}"] for s in (4, 5)
    )
    a_loss, b_loss = a["task_loss"], b["task_loss"]
    assert a_loss != b_loss
    mean = re.search(r"\ntask_loss .*?([\d.]+) ± ([\d.e-]+)", table)
    assert np.isclose(float(mean[1]), (a_loss + b_loss) / 2, rtol=1e-3)
    want = abs(a_loss - b_loss) / 2**0.5
    assert np.isclose(float(mean[2]), want, rtol=1e-3)
    # Their directory stands for the best of them.
    best = tmp_path / ("seed-4" if a["accuracy"] >= b["accuracy"] else "seed-5")
    assert open_finetuned(tmp_path).directory == best
    out = str(tmp_path / "out.tsv")
    data = ["--data", f"{sst2}/dev.tsv"]
    assert main(["predict", str(tmp_path), *data, "--out", out]) == 0
    assert str(best) in capsys.readouterr().out


def test_a_task_goes_on_from_another(run, model_directory, sst2, tmp_path, capsys):
    """All but the head, as one would go from MNLI to RTE."""
    words = command(str(run[0]), sst2, tmp_path / "r", "--task.epochs", "0.1")
    assert main(words) == 0
    out = capsys.readouterr().out
    step = open_finetuned(run[0]).step
    assert f"parameters of {run[0]} at step {step}\n" in out
    assert "initialised at random: task/bias, task/kernel\n" in out


@pytest.mark.long
def test_a_run_that_has_begun_needs_its_model_no_more(
    model_directory, sst2, tmp_path, capsys
):
    model, several = tmp_path / "model", ("--task.epochs", "0.1", "--seeds", "2")
    shutil.copytree(model_directory, model)
    words = command(str(model), sst2, tmp_path / "r", *several)
    assert main(words) == 0
    whole = digest(capsys)
    shutil.rmtree(model)
    assert main(words) == 0
    assert digest(capsys) == whole
    # Another seed must begin from the model.
    said = _differences(capsys, [*words[:-1], "3"])
    assert f"--init {model}: there is no such directory" in said


@pytest.mark.long
def test_accumulated_micro_batches_and_numbers_of_pairs(
    model_directory, tmp_path, capsys
):
    """STS-B's form; the number grows with each warm word."""
    score = {"dull": 0.5, "warm": 2.5}
    rows = [
        (f"the {w} film", f"a {v} story", str(score[w] + score[v]))
        for w in score
        for v in score
    ] * 12
    head = ("sentence1", "sentence2", "score")
    data = str(tmp_path / "d")
    for name in ("train", "dev"):
        write_tsv(tmp_path / "d" / f"{name}.tsv", head, rows)
    words = command(model_directory, data, tmp_path / "r", recipe="stsb")
    more = ["--accumulate", "2", "--task.epochs", "20", "--eval_every", "0"]
    assert main([*words, *more]) == 0
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "r"), "--data", f"{data}/dev.tsv", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["pearson"] > 0.9


def test_mistakes_are_one_line(model_directory, sst2, run, tmp_path, capsys):
    def said(*words):
        return mistake(capsys, *words)

    here = tmp_path / "r"
    assert "needs --init" in said(
        "finetune", "sst2", "--data", sst2, "--workdir", str(here)
    )
    assert "a recipe of jaxlm pretrain" in said("finetune", "bert_tiny")
    words = command(model_directory, sst2, here)
    assert "--task.epochs" in said(*words, "--task.epoch", "1")
    assert "no column 'b'" in said(*words, "--task.pair", "b")
    assert "pass --task.epochs" in said(*words, "--steps", "7")
    assert "column sentence cannot be both label and text" in said(
        *words,
        "--task.kind",
        "number",
        "--task.metric",
        "pearson",
        "--task.label",
        "sentence",
    )
    assert "task.metric = accuracy is none" in said(*words, "--task.kind", "number")
    assert "less than one step" in said(*words, "--task.epochs", "0.01")
    dev = tmp_path / "dev.tsv"
    dev.write_text("sentence\tlabel\nthe film\t1\nthe end\t2\n")
    found = said(*words, "--dev", str(dev))
    what = "label '2' is none of --task.labels or the training file: 0, 1"
    assert f"dev.tsv, line 3: {what}" in found
    other = command(model_directory, f"{sst2}/dev.tsv", run[0])
    assert "data_sha256" in str(_differences(capsys, other))
    assert "is a pretraining run" not in said(
        "predict", str(tmp_path), "--data", "x", "--out", "y"
    )


def _differences(capsys, words):
    capsys.readouterr()
    assert main(words) == 2
    return capsys.readouterr().err


@pytest.mark.long
def test_a_model_without_a_pooler_says_how_to_go_on(sst2, tmp_path, capsys):
    from jaxlm.config import TextConfig, bert
    from jaxlm.convert.model_directory import export_model, from_params
    from jaxlm.families import build
    from jaxlm.text.tokenizers import train_tokenizer
    from jaxlm.train.state import init_params

    tokenizer = train_tokenizer(["the film is dull"] * 9, TextConfig(), 60)
    config = bert("tiny", vocab_size=60, d_model=16, num_heads=2, d_ff=16, nsp=False)
    source = from_params(config, init_params(build(config), 0))
    export_model(tmp_path / "m", source, tokenizer, origin={})
    words = command(str(tmp_path / "m"), sst2, tmp_path / "r")
    pooler = [*words, "--task.pooling", "pooler"]
    assert "has no pooler" in mistake(capsys, *pooler)
    assert main([*words, "--task.epochs", "0.1"]) == 0


def test_f1_is_of_two_classes(model_directory, tmp_path, capsys):
    data = write_tsv(
        tmp_path / "x.tsv", ("sentence", "label"), [("the film", str(i)) for i in "012"]
    )
    words = command(model_directory, data, tmp_path / "r", "--task.metric", "f1")
    assert "has 3: pass --task.metric macro_f1" in mistake(capsys, *words)
