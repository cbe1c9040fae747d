"""The page of a run: what it shows, how large it is, what is refused."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from tiny import tiny

from jaxlm.checkpoints.manifest import FORMAT
from jaxlm.cli import main
from jaxlm.config import load_config
from jaxlm.files import seal, write_json, write_sealed
from jaxlm.report.curves import chosen, thinned


def run_at(path, config, lines=40, recipe="bert_tiny"):
    """A run directory, as if a run had written it; its last line is torn."""
    path.mkdir()
    write_sealed(path / "config.json", dataclasses.asdict(config))
    argv = ["pretrain", recipe, "--workdir", str(path), "--samples", "A [MASK]"]
    record = {"format": FORMAT, "argv": argv, "commit": "abc123"}
    write_json(path / "provenance.json", [seal(record)])
    times = dict.fromkeys(["data", "compile", "save", "evaluate", "restart"], 0.01)
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, lines + 1):
            record = {"step": step, "loss": 9 / step, "learning_rate": 1e-3}
            record |= {"grad_norm": 1.0 + step % 7, "skipped": 0, "goodput": 0.9}
            record |= {"mlm_loss": 9 / step, "tokens_per_second": None}
            record |= {"tokens": 64 * step, "seconds": 2.0 * step}
            record |= {"time_step": 0.95, **{f"time_{k}": v for k, v in times.items()}}
            if step % 10 == 0:
                record |= {"eval_mlm_loss": 9.5 / step, "eval_unigram_loss": 5.25}
            file.write(json.dumps(record) + "\n")
        file.write('{"step": 99')
    words = [[["<b>", 0.5], ["天", 0.25]]]
    samples = [{"prompt": "A [MASK] שלום", "words": words}]
    line = json.dumps({"step": 10, "samples": samples})
    (path / "samples.jsonl").write_text(line + "\n")
    return path


def said(capsys, *argv):
    capsys.readouterr()
    assert main(["report", *map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_thinned_curve_keeps_what_can_be_seen():
    random = np.random.default_rng(0)
    steps = np.sort(random.choice(10**6, 5000, replace=False)).astype(float)
    values = random.normal(size=5000)
    values[::50] = np.nan
    for bins in (1, 7, 100):
        x, y = thinned(steps, values, bins)
        assert len(x) <= 2 * bins + 2 and (np.diff(x) > 0).all()
        assert set(zip(x, y, strict=True)) <= set(zip(steps, values, strict=True))
        known = np.isfinite(values)
        edges = np.linspace(steps[known][0], steps[known][-1], bins + 1)
        for low, high in itertools.pairwise(edges):
            here = known & (steps >= low) & (steps < high)
            kept = y[(x >= low) & (x < high)]
            assert values[here].min() in kept and values[here].max() in kept
    few, same = thinned(steps[:10], values[1:11], 5)
    assert len(few) == len(same) == 10


def test_chosen_steps_have_both_ends():
    assert chosen([3, 1, 2]) == [1, 2, 3]
    many = chosen(range(0, 100_000, 100))
    assert 5 < len(many) <= 10 and many[0] == 0 and many[-1] == 99_900


def test_a_page_has_the_run(tmp_path, capsys):
    run = run_at(tmp_path / "run", load_config("bert_tiny"), lines=20_000)
    (run / "attention.html").write_text("<p>where heads look</p>")
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    page = out.read_text()
    assert len(page) < 1_000_000
    assert "unigram baseline" in page and "(unigram 5.25)" in page
    assert "--samples &#x27;A [MASK]&#x27;" in page  # to be copied
    assert {*re.findall(">(mlm loss|tokens|seconds)</text>", page)} == {"mlm loss"}
    assert "1 torn line" in page and "20,000 of" in page
    assert "<bdi>&lt;b&gt;</bdi> <small>50.0%</small>" in page and "天" in page
    assert "All fields are those of the recipe." in page and "abc123" in page
    assert "&lt;p&gt;where heads look" in page and "No checkpoint is kept" in page
    addresses = re.findall(r"(?:src|href)=[\"']?([^ >]+)", page)
    assert all(each.startswith(("data:", "#")) for each in addresses)
    again = tmp_path / "run" / "report.html"
    assert main(["report", str(run), "--out", str(again)]) == 0
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "report.html" not in out.read_text()  # a report is not part of a report


def test_runs_stand_side_by_side(tmp_path):
    config = load_config("bert_tiny")
    one = run_at(tmp_path / "one", config)
    two = run_at(tmp_path / "two", dataclasses.replace(config, seed=7))
    out = tmp_path / "page.html"
    assert main(["report", str(one), str(two), "--out", str(out)]) == 0
    fields = out.read_text().partition("Configuration</h2>")[2].partition("</table>")[0]
    assert re.findall(r"<td>([a-z._]+)</td>", fields) == ["seed"]
    cells = re.findall(r"<code>(.*?)</code>", fields)
    assert cells == ["0", "0", "7"]  # of the recipe, of both runs


def test_mistakes_are_one_line(tmp_path, capsys):
    run = run_at(tmp_path / "run", tiny())
    gpt = run_at(tmp_path / "gpt", load_config("gpt2_tiny"))
    assert "run of a BERT and gpt of a GPT" in said(capsys, run, gpt)
    assert "not a directory" in said(capsys, tmp_path / "none")
    assert "no metrics.jsonl" in said(capsys, tmp_path)
    (run / "metrics.jsonl").write_text('{"step": 1')
    assert "no whole line" in said(capsys, run)
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl yet" in said(capsys, run)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/manifest.json").write_text("{}")
    assert "is a corpus" in said(capsys, tmp_path / "corpus")
    assert "name a file" in said(capsys, gpt, "--out", tmp_path)
    assert "jaxlm report RUN" in said(capsys)


@pytest.mark.browser
def test_a_page_in_a_browser(tmp_path, browser):
    one = run_at(tmp_path / "one", tiny())
    two = run_at(tmp_path / "two", tiny(seed=7))
    out = tmp_path / "page.html"
    assert main(["report", str(one), str(two), "--out", str(out)]) == 0
    ink = []
    for width, dark in ((400, False), (1400, True)):
        page = browser.open(out, width=width, dark=dark)
        page.check()
        style = "getComputedStyle(document.querySelector('svg text')).fill"
        ink.append(page.evaluate(style))
        right = "document.querySelector('h3').matches(':dir(ltr)')"
        assert page.evaluate(right)  # by its first letter
        page.evaluate("document.querySelector('summary').focus()")
        page.press("Enter")
        assert not page.evaluate("document.querySelector('details').open")
    assert ink[0] != ink[1]
