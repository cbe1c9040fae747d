"""Flags: how they are written, what help says, which are refused."""

import re
import subprocess
import sys
import time

import pytest
from cli.commands import mistake

import jaxlm
from jaxlm.cli import main
from jaxlm.cli.arguments import parse
from jaxlm.cli.use import Generate
from jaxlm.types import UserError


def test_show_refuses_flags_that_would_change_nothing(run, capsys):
    assert "--rows needs text: jaxlm show CORPUS --config bert_base" in mistake(
        capsys, "show", "bert_base", "--rows", "3"
    )
    assert "--config is for a corpus" in mistake(
        capsys, "show", str(run), "--config", "bert_base"
    )


def test_prepare_refuses_settings_that_no_corpus_depends_on(capsys):
    words = ["prepare", "bert_tiny", "--text", "a.txt", "--corpus", "c"]
    for flag in ("--optim.peak", "--steps", "--model.num_layers", "--data.mask_rate"):
        why = f"{flag} changes nothing in a corpus: pass it to pretrain"
        assert why in mistake(capsys, *words, flag, "1")
    with pytest.raises(UserError, match="batch changes nothing in a corpus"):
        jaxlm.prepare("bert_tiny", text="a.txt", corpus="c", batch=4)
    with pytest.raises(SystemExit):
        main(["prepare", "--help-all"])
    listed = re.findall(r"^  --(\S+)", capsys.readouterr().out, re.MULTILINE)
    kept = {"seed", "smoothing", "data.cache", "model.vocab_size", "text.lowercase"}
    assert kept < {*listed} and not {"steps", "batch", "optim.peak"} & {*listed}


def test_evaluate_refuses_flags_that_would_change_nothing(capsys):
    of_task = ["evaluate", "DIR", "--data", "dev.tsv"]
    assert "--stride is for text" in mistake(capsys, *of_task, "--stride", "4")
    of_text = ["evaluate", "DIR", "--corpus", "c"]
    assert "--task.label is for columns" in mistake(
        capsys, *of_text, "--task.label", "y"
    )


def test_flags_are_written_in_several_ways():
    words = ["DIR", "--prompt", "true", "--max-tokens=7", "--prompt=b", "--json"]
    args = parse(Generate, [*words, "--top_k", "3", "--top-k", "4"])
    assert args.prompt == ("true", "b") and args.max_tokens == 7
    assert args.json is True and args.top_k == 4
    assert parse(Generate, [*words, "false"]).json is False


def test_help_names_what_is_required(capsys):
    with pytest.raises(SystemExit):
        main(["embed", "--help"])
    said = capsys.readouterr().out
    assert "usage: jaxlm embed DIRECTORY --out FILE --text FILE … [flags]" in said
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert (
        "usage: jaxlm pretrain CONFIG --workdir DIR [flags]" in capsys.readouterr().out
    )


@pytest.mark.parametrize("word", ["--help", "recipes"])
def test_help_and_recipes_are_instant_and_import_no_jax(word):
    began = time.monotonic()
    code = (
        f"import sys; from jaxlm.cli import main; main([{word!r}]);"
        "sys.exit('jax' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True).returncode
        == 0
    )
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("verb", ["prepare", "pretrain", "show", "evaluate", "fill"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"jaxlm {verb}" in capsys.readouterr().out
