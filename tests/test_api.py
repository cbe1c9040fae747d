"""Python does what the command line does: `jaxlm.pretrain`, `jaxlm.load`, …"""

from __future__ import annotations

import doctest
import inspect
import lzma
import shutil
import subprocess
import sys
import zipfile
from contextlib import chdir
from pathlib import Path

import pytest
from exported import export
from roads import SHIPPED

import jaxlm
from jaxlm import api
from jaxlm.cli.arguments import parse
from jaxlm.cli.pretrain import Prepare, Pretrain
from jaxlm.cli.settings import arguments, command, config_of
from jaxlm.config import RunConfig, bert, load_config
from jaxlm.types import UserError

HERE = Path(__file__).parent


@pytest.mark.long
@pytest.mark.usefixtures("without_type_checks")
def test_the_examples_of_docstrings_run(tmp_path, monkeypatch, capfd):
    """In the order of the source: a run that an example makes is read by the next."""
    monkeypatch.chdir(tmp_path)
    with lzma.open(next(SHIPPED.glob("austen*")), "rt") as file:
        pages = file.read(30_000)
    for directory in ("books", "reviews"):
        (tmp_path / directory).mkdir()
    (tmp_path / "books" / "a.txt").write_text(pages)
    rows = [f"it was {word}\t{i % 2}\n" for i, word in enumerate(pages.split()[:16])]
    for name, some in ("train", rows), ("dev", rows[:8]):
        text = "sentence\tlabel\n" + "".join(some)
        (tmp_path / "reviews" / f"{name}.tsv").write_text(text)
    export(tmp_path / "models" / "gpt", "gpt2")

    finder, runner = (
        doctest.DocTestFinder(),
        doctest.DocTestRunner(
            optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        ),
    )
    named = {"jaxlm": jaxlm}
    tests = finder.find(api, extraglobs=named)
    with_model = finder.find(jaxlm.Model, extraglobs=named)
    order = [f"jaxlm.api.{name}" for name in vars(api)]
    tests = [each for each in tests if each.examples]
    for each in sorted(tests, key=lambda each: order.index(each.name)):
        runner.run(each)
    named["model"] = jaxlm.load("runs/tiny")
    for each in with_model:
        each.globs.update(named)
        runner.run(each)
    guide = (Path(api.__file__).parent / "guides" / "python.md").read_text("utf-8")
    parser = doctest.DocTestParser()
    runner.run(parser.get_doctest(guide, {}, "python.md", None, 0))
    assert not runner.failures, capfd.readouterr().out
    exported = {*jaxlm.__all__} & {*dir(api)}
    tested = {each.name.rpartition(".")[2] for each in tests}
    assert exported == tested and len(exported) == 8
    public = {
        n for n, f in vars(jaxlm.Model).items() if inspect.isfunction(f) and n[0] != "_"
    }
    shown = {t.name.rpartition(".")[2] for t in with_model if t.examples}
    assert not [x for x in public - shown if x[:6] != "check_" and x != "embed_each"]


def test_settings_mean_what_flags_mean():
    flags = (
        "--workdir w --text a.txt b.txt --steps 7 --model.dropout 0 --optim.peak 1e-3"
    )
    flags += " --holdout .1 --mesh.data 2 --data.whole_words false"
    want = parse(Pretrain, ["bert_tiny", *flags.split()])
    settings = {
        "workdir": Path("w"),
        "text": ["a.txt", Path("b.txt")],
        "steps": 7,
        "model.dropout": 0,
        "optim": {"peak": 1e-3},
        "holdout": 0.1,
        "mesh": {"data": 2},
        "data.whole_words": False,
        "corpus": None,
    }
    config = config_of(RunConfig, "bert_tiny", "pretrain")
    assert arguments(Pretrain, settings, config) == want
    words = command("pretrain", "bert_tiny", settings)[1:]
    assert parse(Pretrain, words) == want


def test_phases_and_models_are_set_whole_or_in_part():
    config = load_config("bert_base")
    settings = {"workdir": "w", "phases.1.batch": 64, "model": bert("mini")}
    found = arguments(Pretrain, settings, config).config
    assert found.phases[1].batch == 64 and found.phases[0] == config.phases[0]
    assert found.model == bert("mini")


@pytest.mark.usefixtures("without_type_checks")
def test_a_mistake_is_named_in_one_line(tmp_path):
    for settings, message in (
        ({"optim": {"peek": 1}}, "'optim.peek': did you mean optim.peak?"),
        ({"workdirs": "w"}, "did you mean workdir?"),
        ({"dropout": 0}, "did you mean model.dropout?"),
        ({"device": "cuda"}, "JAX_PLATFORMS=cpu in front of the command"),
        ({"frobnicate": 1}, "no setting 'frobnicate': see jaxlm VERB --help-all"),
        ({"steps": "many"}, "steps = 'many' is not a whole number"),
        ({"steps": -1}, "steps = -1"),
        ({"optim.name": "adam"}, "'bert_adam'"),
        ({"model.dropout": 2}, "dropout = 2"),
        ({"text": 3}, "text = 3 is not a list, each a string"),
        ({"data.negatives": 5}, "is for"),
        ({"eval_rows": 7, "eval_every": 0}, "has no effect without --eval_every"),
        ({"optim": 3}, "optim = 3 is not an object"),
        ({"steps.more": 3}, "'steps.more'"),
    ):
        with pytest.raises(UserError) as error:
            jaxlm.pretrain("bert_tiny", workdir=tmp_path / "w", **settings)
        assert message in str(error.value) and "\n" not in str(error.value), settings
    for call, message in (
        (lambda: jaxlm.pretrain("bert_tinny", workdir="w"), "did you mean bert_tiny?"),
        (lambda: jaxlm.pretrain(text="a", workdir="w"), "pretrain needs a recipe"),
        (lambda: jaxlm.pretrain("sst2", workdir="w"), "is a recipe of jaxlm finetune"),
        (lambda: jaxlm.prepare("bert_tiny", text=(), corpus="c"), "needs --text"),
        (lambda: jaxlm.evaluate("m", txt="a"), "did you mean text?"),
        (lambda: jaxlm.evaluate("m", text="a", data="b"), "takes one of --text"),
        (lambda: jaxlm.export("m", to="hff", out="o"), "did you mean hf?"),
        (lambda: jaxlm.import_("m", out="o", pickle=True), "mean allow_pickle?"),
        (lambda: arguments(Prepare, {}, load_config("bert_tiny")), "corpus: needed"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            call()
    assert not (tmp_path / "w").exists()


WRONG = """import jaxlm
jaxlm.load("runs/a", dtype="float61")
jaxlm.pretrain("bert_tiny", steps=3)
jaxlm.load("a").embedd("text")
"""


def test_a_type_checker_reads_the_package_from_outside(tmp_path):
    shutil.copy(HERE / "consumer.py", tmp_path)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "pyrefly.toml").write_text(
        f'preset = "strict"\nproject-includes = ["*.py"]\n'
        f"search-path = [{str(HERE.parent)!r}]\n"
        f"python-interpreter-path = {sys.executable!r}\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "pyrefly", "check", "--output-format", "min-text"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = [line for line in found.stdout.splitlines() if line.startswith("ERROR")]
    assert [line.split(":")[:2] for line in lines] == [
        ["ERROR wrong.py", "2"],
        ["ERROR wrong.py", "3"],
        ["ERROR wrong.py", "4"],
    ], found.stdout
    assert (Path(api.__file__).parent / "py.typed").exists()


def test_importing_jaxlm_imports_no_jax():
    code = "import sys, jaxlm; assert not {'jax', 'numpy'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_wheel_has_what_ships(tmp_path):
    """Built in place, without a network; the version is that of the code."""
    build = pytest.importorskip("hatchling.build")
    with chdir(HERE.parent):
        wheel = tmp_path / build.build_wheel(str(tmp_path))
    assert wheel.stat().st_size < 15e6
    with zipfile.ZipFile(wheel) as file:
        names = {*file.namelist()}
        about = f"jaxlm-{jaxlm.__version__}.dist-info"
        metadata = file.read(f"{about}/METADATA").decode()
    assert f"\nVersion: {jaxlm.__version__}\n" in metadata
    parts = {f"{about}/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    parts |= {"jaxlm/py.typed", "jaxlm/guides/python.md", "jaxlm/_configs/bert_tiny.py"}
    parts |= {"jaxlm/text/shipped/austen.txt.xz"}
    assert parts <= names and not [x for x in names if x.startswith("tests")]
