"""README and guides: their commands are understood, their links lead somewhere."""

import importlib
import lzma
import pkgutil
import re
import textwrap
from pathlib import Path

import guides
import pytest

import jaxlm.cli
from jaxlm.cli import arguments, main
from jaxlm.cli.finetune import Finetune
from jaxlm.cli.pretrain import Pretrain
from jaxlm.config import load_config


class UnderstoodError(Exception):
    """All flags of a command are understood; nothing was run."""


@pytest.fixture
def no_verb_runs(monkeypatch):
    """Verbs end when their arguments are parsed."""

    def parse(kind, argv, **given):
        arguments.parse(kind, argv, **given)
        raise UnderstoodError

    for each in pkgutil.iter_modules(jaxlm.cli.__path__, "jaxlm.cli."):
        module = importlib.import_module(each.name)
        if module is not arguments:
            monkeypatch.setattr(module, "parse", parse, raising=False)
            monkeypatch.setattr(
                module, "start_jax", lambda *_, **__: None, raising=False
            )


@pytest.mark.parametrize(
    "command", guides.shown(), ids=lambda c: f"{c.page}: {' '.join(c.argv)[:60]}"
)
def test_a_command_of_a_page_is_understood(command, no_verb_runs):
    verb, *words = command.argv
    if verb == "finetune":  # else it opens the model of --init
        arguments.parse(Finetune, words)
    elif "--fork" in words:  # else it opens the run
        arguments.parse(Pretrain, words, config=load_config("bert_tiny"))
    elif verb not in ("launch", "recipes", "doctor", "help"):
        with pytest.raises(UnderstoodError):
            main(command.argv)


def test_the_pages_show_every_verb():
    shown = {command.argv[0] for command in guides.shown()}
    assert set(jaxlm.cli.VERBS) - shown <= {"help"}


def test_links_of_pages_lead_to_files():
    for page in guides.PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_readme_is_short():
    readme, *others = guides.PAGES
    assert len(readme.read_text("utf-8").splitlines()) <= 150
    assert all(page.read_text("utf-8").startswith("# ") for page in others)


SMALL = """
    --steps 4 --batch 8 --length 32 --save_every 4 --eval_every 0 --model.num_layers 1
    --log.tensorboard false
"""
OF_FAMILY = {
    "bert": "--predictions 5 --model.vocab_size 600",
    "gpt2": "--model.vocab_size 600",
    "elmo": "--model.vocab_size 300 --model.d_model 16 --model.d_ff 32 "
    "--model.filters 4 8",
    "ernie": "--predictions 5 --model.vocab_size 600",
}
OF_VERB = {
    "generate": "--max_tokens 5",
    "finetune": "--task.epochs 1 --batch 8 --length 32 --log.tensorboard false",
    "export": "--verify false",  # tests/convert compares with other programs
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The files that README.md names, in the current directory."""
    monkeypatch.chdir(tmp_path)
    shipped = Path(jaxlm.__file__).parent / "text" / "shipped"
    for folder, name in (("books", "austen"), ("zh", "classics-zh")):
        Path(folder).mkdir()
        with lzma.open(shipped / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            text = file.read(150_000)
        (Path(folder) / "a.txt").write_text(text, "utf-8")
    Path("held-out.txt").write_text(Path("books/a.txt").read_text("utf-8")[:9000])
    Path("sentences.txt").write_text("The bank of the river.\nA bank that lends.\n")
    Path("glue/SST-2").mkdir(parents=True)
    rows = "".join(f"good {n}\t1\nbad {n}\t0\n" for n in range(8))
    for name in ("train.tsv", "dev.tsv"):
        (Path("glue/SST-2") / name).write_text(f"sentence\tlabel\n{rows}")


@pytest.mark.long
@pytest.mark.probe
@pytest.mark.timeout(1800)
def test_the_readme_s_commands_and_python_run(world, capsys):
    """With small settings, in order, in one directory."""
    for page, argv in guides.shown():
        if page == "README.md" and argv[0] != "help":
            more = OF_VERB.get(argv[0], "")
            if argv[0] == "pretrain":
                more = SMALL + OF_FAMILY[argv[1].split("_")[0]]
            assert main([*argv, *more.split()]) == 0, argv
    readme = guides.PAGES[0].read_text("utf-8")
    python = readme.split("## Python\n")[1].split("\n## ")[0]
    exec(textwrap.dedent(python), {})
