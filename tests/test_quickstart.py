"""What a new user sees first: `jaxlm demo`, which `tools/quickstart` runs."""

import html
import json
import re
import subprocess
import sys

import pytest
from test_floors import OPTIONAL

import jaxlm
from jaxlm.cli import demo, main
from jaxlm.types import UserError

# Of each blank of the demo, in its order: words of which one comes, and by which rank.
EXPECTED = (
    ({"obliged"}, 1),
    ({"knightley", "weston", "darcy", "elton", "bingley"}, 1),
    ({"man", "woman", "day"}, 1),
)
MORE = (
    ("She was very [MASK] to see him.", {"glad", "happy"}, 5),
    ('"My dear Miss [MASK]," cried she.', {"woodhouse", "crawford", "fairfax"}, 3),
)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_fills_blanks_sensibly(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # As a user runs it: this process compiles programs that run slowly.
    monkeypatch.delenv("XLA_FLAGS")
    command = [sys.executable, "-m", "jaxlm", "demo"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [int(x.replace(",", "")) for x in re.findall("after (.*) steps", out)] == [
        *(250, 500, 750, 1000)
    ]
    run = tmp_path / "runs/demo"
    assert f"The page of the run is {run}/report.html" in out
    page = (run / "report.html").read_text()
    assert all(html.escape(text) in page for text in demo.BLANKS)
    *_, line = (run / "metrics.jsonl").read_text().splitlines()
    assert 3.7 < json.loads(line)["eval_mlm_loss"] < 3.95
    model = jaxlm.load(run)
    shown = zip(demo.BLANKS, EXPECTED, strict=True)
    for text, words, rank in [*((x, *y) for x, y in shown), *MORE]:
        (guesses,) = model.fill(text, rank)
        assert words & {each.token for each in guesses}, (text, guesses)
    # Again: nothing is trained. With other settings: beside it.
    assert main(["demo"]) == 0
    assert capsys.readouterr().out.count("after 1,000 steps") == 1
    assert main(["demo", "--steps", "4"]) == 0
    assert "runs/demo is left as it is" in capsys.readouterr().err
    assert {each.name for each in run.parent.iterdir()} == {"demo", "demo-2"}


@pytest.mark.long
def test_the_demo_needs_no_optional_package(tmp_path):
    lacking = sorted(OPTIONAL - {"scipy"})  # which JAX brings
    code = f"""
import sys
sys.modules.update(dict.fromkeys({lacking}))
from jaxlm.cli import main
sys.exit(main(["demo", "--steps", "4", "--workdir", "demo"]))
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "The page of the run is" in ran.stdout
    assert "<svg" in (tmp_path / "demo/report.html").read_text()


def test_a_run_that_cannot_go_on_stays_and_a_new_one_is_begun(tmp_path, monkeypatch):
    tried = []

    def pretrain(words):
        tried.append(words[-1])
        if words[-1] in taken:
            raise UserError("belongs to another run\n  seed: 1, now 0")
        return 0

    monkeypatch.setattr(demo, "run_pretrain", pretrain)
    here = str(tmp_path / "demo")
    taken = {here, f"{here}-2"}
    for each in taken:
        (tmp_path / each).mkdir()
    assert demo._begun(here, ["--workdir"]) == (f"{here}-3", 0)
    # A refusal where there is nothing yet is one of the command.
    taken |= {f"{here}-3"}
    with pytest.raises(UserError):
        demo._begun(here, ["--workdir"])
    assert tried == [here, f"{here}-2", f"{here}-3"] * 2
