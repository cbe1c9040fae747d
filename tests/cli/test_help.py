"""`--help`, `--help-all`, and flags that are called by other names."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
from cli.commands import mistake

from jaxlm.cli import main
from jaxlm.cli.arguments import parse
from jaxlm.cli.finetune import Finetune
from jaxlm.cli.flags import flags_of
from jaxlm.cli.launch import Launch
from jaxlm.cli.meanings import _others
from jaxlm.cli.pretrain import Pretrain
from jaxlm.cli.usage import example_of
from jaxlm.cli.use import Embed, Generate
from jaxlm.config import load_config
from jaxlm.config.idle import foreign, idle


def said(capsys, *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*argv])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "kind, recipe",
    [
        *((Pretrain, recipe) for recipe in ("bert_base", "elmo_tiny", "gpt2_tiny")),
        *((Finetune, "squad"), (Generate, ""), (Embed, ""), (Launch, "")),
    ],
)
def test_every_flag_is_documented_and_takes_the_default_that_help_shows(kind, recipe):
    config = load_config(recipe) if recipe else None
    refused = {**foreign(config), **idle(config)} if config else {}
    given = {"config": config} if config else {}
    words, bare = [], []
    for flag in flags_of(kind, given):
        assert flag.what or "task" in flag.name
        value = flag.default
        if flag.required:
            value = {"print": "slurm"}.get(flag.name, "x")
        values = map(str, value if isinstance(value, tuple) else [value])
        said = [*values] if flag.positional else [f"--{flag.name}", *values]
        if flag.required:
            bare += said
        if not {".".join(flag.name.split(".")[: n + 1]) for n in range(3)} & {*refused}:
            words += said
    assert parse(kind, words, **given) == parse(kind, bare, **given)


def test_help_shows_what_people_use_and_help_all_the_rest(capsys):
    few = re.findall(r"^  --(\S+)", said(capsys, "pretrain", "--help"), re.MULTILINE)
    every = said(capsys, "pretrain", "--help-all")
    every = re.findall(r"^  --(\S+)", every, re.MULTILINE)
    assert 15 <= len(few) <= 20 and len(every) > 90 and set(few) < set(every)
    assert {"text", "workdir", "steps", "optim.peak"} <= set(few)


def test_flags_that_a_family_or_verb_refuses_are_not_listed(capsys):
    for recipe, absent, present in (
        ("gpt2_tiny", "--data.mask_rate", "--data.packed"),
        ("elmo_tiny", "--attention", "--data.negatives"),
        ("bert_tiny", "--optim.cooldown", "--data.mask_rate"),
    ):
        every = said(capsys, "pretrain", recipe, "--help-all")
        assert f"  {absent} " not in every and f"  {present} " in every
    tagging = said(capsys, "finetune", "ner", "--help")
    assert "--task.epochs" in tagging and "--task.text" not in tagging


def test_help_has_an_example_and_no_colours_boxes_or_jax(tmp_path):
    code = "import sys; from jaxlm.cli import main\ntry: main(['{}', '--help'])\n"
    code += "finally: print('jax' in sys.modules)"
    for verb in ("pretrain", "fill"):
        command = [sys.executable, "-c", code.format(verb)]
        for columns in ("50", "90"):
            env = {**os.environ, "COLUMNS": columns, "FORCE_COLOR": "1"}
            out = subprocess.run(command, capture_output=True, text=True, env=env)
            *lines, jax = out.stdout.splitlines()
            assert jax == "False" and not re.search(r"\x1b|[╭│]", out.stdout)
            assert f"  {example_of(verb)}" in lines
            fixed = r"  (jaxlm|--)|jaxlm|Flags|usage|$"  # one line, however long
            prose = [line for line in lines if not re.match(fixed, line)]
            assert 35 < max(map(len, prose)) <= int(columns)


@pytest.mark.parametrize(
    "verb, others",
    [
        ("pretrain bert_tiny --workdir w", "lr=optim.peak learning_rate=optim.peak "
         "epochs=steps batch_size=batch max_steps=steps output_dir=workdir "
         "max_seq_length=length n_layer=model.num_layers warmup_steps=optim.warmup "
         "fp16=precision gradient_accumulation_steps=accumulate train_file=text "
         "mlm_probability=data.mask_rate peak=optim.peak stpes=steps"),
        ("finetune sst2 --workdir w --init i --data d", "lr=optim.peak "
         "num_train_epochs=task.epochs train_file=data batch-size=batch "
         "max_seq_length=length model_name_or_path=init"),
        ("generate m", "max_new_tokens=max_tokens num_beams=beams temp=temperature"),
        ("embed m --text t --out o", "output_dir=out pool=pooling layer=layers"),
        ("plan bert_tiny --topology v5e:1x1", "batch_size=batch"),
    ],
)  # fmt: skip
def test_other_programs_flags_are_pointed_out(verb, others, capsys):
    for pair in others.split():
        other, ours = pair.split("=")
        line = mistake(capsys, *verb.split(), f"--{other}", "1")
        assert f"did you mean --{ours} " in line, line


def test_flags_that_are_meant_exist():
    """Of some verb with some recipe."""
    known = {"to", "out", "verify", "directory", "pooling", "layers"}
    for recipe in ("bert_tiny", "gpt2_tiny"):
        config = load_config(recipe)
        known |= {flag.name for flag in flags_of(Pretrain, {"config": config})}
    config = load_config("sst2")
    known |= {flag.name for flag in flags_of(Finetune, {"config": config})}
    known |= {field.name for field in dataclasses.fields(Generate)}
    assert {flag for flags in _others().values() for flag in flags} <= known


@pytest.mark.parametrize("argv", [[], ["help"], ["recipes", "--only", "bert"]])
@pytest.mark.parametrize("columns", [60, 200])
def test_lists_fit_the_terminal(argv, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(argv) == 0
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if not line.startswith("  jaxlm ")  # a command is not broken
    ]
    assert 45 < max(map(len, lines)) <= min(columns, 100) and len(lines) > 15
