"""README and guides: their commands are understood, their links lead somewhere."""

import importlib
import pkgutil
import re

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
