"""Every flag changes something, or is refused in one line that says why."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from reviews import reviews
from roads import mistake

import jaxlm
from jaxlm.cli import main
from jaxlm.config import FinetuneConfig, MaskedData, Phase, RunConfig, load_config
from jaxlm.config.idle import foreign, idle
from jaxlm.types import UserError

SHAPE = "--model.num_layers 1 --model.num_heads 1 --model.d_model 8 --model.d_ff 32"
TINY = {
    "bert_tiny": f"{SHAPE} --model.vocab_size 150 --predictions 3",
    "gpt2_tiny": f"{SHAPE} --model.vocab_size 300",
    "elmo_tiny": "--model.vocab_size 30 --model.d_model 4 --model.d_ff 6 "
    "--model.filters 2 3 --model.max_characters 8",
}
STEP = """
    --batch 8 --length 16 --steps 2 --eval_every 1 --eval_rows 8 --optim.warmup 1
    --log.tensorboard false --holdout 0.3 --processes 1
"""
# Read through methods of the configs; `family` names the class.
DERIVED = {"phases", "length", "batch", "predictions", "accumulate", "keep_every"}
DERIVED |= {
    "optim.warmup",
    "optim.cooldown",
    "data.causal_share",
    "model.family",
    "skip",
}


@pytest.mark.parametrize(
    "command, flag, why",
    [
        ("pretrain bert_tiny --data.negatives 5", "data.negatives", "an ELMo"),
        ("pretrain elmo_tiny --data.packed true", "data.packed", "a BERT or a GPT"),
        ("pretrain gpt2_tiny --data.mask_rate .3", "data.mask_rate", "a BERT"),
        ("pretrain gpt2_tiny --predictions=3", "predictions", "predicts all"),
        ("pretrain elmo_tiny --data.levels 1 0 0", "data.levels", "a BERT"),
        ("pretrain bert_tiny --model.rope_base 9", "model.rope_base", "rope"),
        (
            "pretrain roformer_tiny --model.global_every 2",
            "model.global_every",
            "--model.window",
        ),
        ("pretrain bert_base --length 64", "length", "phases"),
        ("pretrain gpt2_tiny --phases.0.until 9", "phases.0.until", "pass --steps"),
        ("pretrain bert_base --phases.2.until 9", "phases.2.until", "is 1"),
        ("finetune sst2 --phases.0.length 9", "phases.0.length", "pretraining"),
        ("pretrain roformer_tiny --model.window 126", "model.window", "64 tokens"),
        (
            "pretrain roformer_tiny --model.window 16 --model.global_every 1",
            "model.window",
            "all are global",
        ),
        ("pretrain bert_tiny --optim.cooldown 9", "optim.cooldown", "wsd"),
        ("pretrain bert_tiny --optim.accumulator .1", "optim.accumulator", "adagrad"),
        (
            "pretrain bert_tiny --model.nsp false --data.short_rate 0",
            "data.short_rate",
            "pairs",
        ),
        ("finetune sst2 --data.mask_rate .3", "data.mask_rate", "a task"),
        ("finetune sst2 --eval_rows 7", "eval_rows", "dev file"),
        ("finetune sst2 --text.lowercase false", "text.lowercase", "--init"),
        ("finetune sst2 --task.stride 4", "task.stride", "spans"),
        ("finetune sst2 --steps 9", "steps", "--task.epochs"),
        ("finetune sst2 --model.nsp false", "model.nsp", "task.pooling"),
        ("finetune sst2 --model.init_std .1", "model.init_std", "--task.fresh"),
        ("finetune sst2_elmo --task.pack true", "task.pack", "body"),
        ("finetune squad --task.null_threshold 1", "task.null_threshold", "best_f1"),
    ],
)
def test_idle_flags_are_refused_with_the_reason(command, flag, why, capsys, tmp_path):
    words = [*command.split(), "--workdir", str(tmp_path / "run")]
    if words[0] == "finetune":
        words += ["--init", str(model(tmp_path)), "--data", str(tmp_path)]
    message = mistake(capsys, *words)
    assert f"--{flag} " in message and why in message
    assert not (tmp_path / "run").exists()


def model(where: Path) -> Path:
    """A model directory."""
    import exported

    exported.export(where / "model", "bert")
    return where / "model"


def names(kind: type, at: str = "") -> set[str]:
    return {at + field.name for field in dataclasses.fields(kind)}


def all_names(config: RunConfig) -> set[str]:
    """Dotted names of all fields."""
    found = set()
    for name in names(type(config)):
        value = getattr(config, name)
        inner = dataclasses.is_dataclass(value)
        found |= names(type(value), f"{name}.") if inner else {name}
    return found


def recorded(monkeypatch, config: RunConfig) -> set[str]:
    """A set that fills with the fields that code outside of `jaxlm.config` reads."""
    found: set[str] = set()
    parts = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config)
    }
    kinds = {type(v): f"{k}." for k, v in parts.items() if dataclasses.is_dataclass(v)}
    for kind, at in {type(config): "", **kinds}.items():
        fields, get = names(kind), object.__getattribute__

        def read(self, name, at=at, fields=fields, get=get):
            caller = sys._getframe(1).f_code.co_filename
            if (
                name in fields
                and "/jaxlm/" in caller
                and "/jaxlm/config/" not in caller
            ):
                found.add(at + name)
            return get(self, name)

        monkeypatch.setattr(kind, "__getattribute__", read)
    return found


@pytest.mark.parametrize("recipe", TINY)
def test_every_flag_of_pretraining_is_read_or_refused(recipe, monkeypatch, tmp_path):
    texts = [text for text, _ in reviews(200)]
    documents = [" .\n".join(texts[i : i + 8]) for i in range(0, 200, 8)]
    (tmp_path / "text.txt").write_text(" .\n\n".join(documents) + " .\n")
    config = load_config(recipe)
    found = recorded(monkeypatch, config)
    where = ["--text", str(tmp_path / "text.txt"), "--workdir", str(tmp_path / "run")]
    assert main(["pretrain", recipe, *TINY[recipe].split(), *STEP.split(), *where]) == 0
    refused = {**foreign(config), **idle(config)}
    silent = all_names(config) - found - refused.keys() - DERIVED
    assert not silent


PASS = """
    --batch 4 --length 16 --task.buckets 16 --task.epochs 1 --log.tensorboard false
    --save_every 1
"""
REVIEWS = [dict(zip(("sentence", "label"), each, strict=True)) for each in reviews(8)]
QUESTION = {"question": "the end ?", "answers": [{"text": "film", "answer_start": 4}]}
PARAGRAPHS = [
    {"context": f"the film {i} is dull", "qas": [{"id": f"q{i}", **QUESTION}]}
    for i in range(4)
]
# Values that some tasks have and the others refuse.
ELSEWHERE = {"both_orders": True, "quoted": True, "choices": ("a", "b")}
ELSEWHERE |= {"layers": (0,), "normalise": True, "penalty": 1.0}
# Recipe and flags of a fine-tuning run, the family of its model, and its file.
TASKS = {
    "sst2": ("bert", REVIEWS),
    "sst2_gpt": ("gpt2", REVIEWS),
    "stsb": (
        "bert",
        [
            {"sentence1": "the film", "sentence2": "a film", "score": score / 2}
            for score in range(8)
        ],
    ),
    "choice --task.choices ending0 ending1": (
        "bert",
        [
            {
                "sent1": "the",
                "sent2": "film",
                "ending0": "is",
                "ending1": "a",
                "label": i,
            }
            for i in (0, 1) * 4
        ],
    ),
    "ner": ("bert", "the O\nfilm B-X\n\nis O\na O\n\n" * 4),
    "squad": ("bert", {"data": [{"paragraphs": PARAGRAPHS}]}),
}


EVERY_DAY = {"sst2", "squad"}


@pytest.mark.parametrize(
    "words",
    [
        each if each in EVERY_DAY else pytest.param(each, marks=pytest.mark.long)
        for each in TASKS
    ],
)
def test_every_flag_of_fine_tuning_is_read_or_refused(words, monkeypatch, tmp_path):
    import exported

    family, content = TASKS[words]
    exported.export(tmp_path / "model", family)
    text, kind = content, "txt"
    if isinstance(content, list):
        text, kind = "\n".join(json.dumps(row) for row in content), "jsonl"
    elif isinstance(content, dict):
        text, kind = json.dumps(content), "json"
    for name in ("train", "dev"):
        (tmp_path / f"{name}.{kind}").write_text(text)
    recipe, *flags = words.split()
    config = load_config(recipe)
    model = jaxlm.load(tmp_path / "model").config
    config = dataclasses.replace(config, model=model, length=16)
    found = recorded(monkeypatch, config)
    where = ["--init", f"{tmp_path}/model", "--data", str(tmp_path)]
    where += ["--workdir", str(tmp_path / "run")]
    assert main(["finetune", recipe, *flags, *PASS.split(), *where]) == 0
    monkeypatch.undo()
    refused = {**foreign(config), **idle(config)}
    mine = {name for name in all_names(config) if name.split(".")[0] not in refused}
    for name in mine - found - refused.keys() - DERIVED:
        field = name.removeprefix("task.")
        with pytest.raises(UserError):  # a task has no such thing
            dataclasses.replace(config.task, **{field: ELSEWHERE[field]})


def test_masks_of_phases_are_idle_for_a_decoder():
    config = load_config("gpt2_tiny")
    phase = Phase(until=config.steps)
    found = idle(dataclasses.replace(config, phases=(phase,)))
    assert found["phases.0.mask_rate"] == found["phases.0.causal_share"]
    assert "masked words" in found["phases.0.mask_rate"]


def test_names_of_idle_flags_are_names_of_fields():
    configs = [load_config(name) for name in (*TINY, "bert_base", "elmo_original")]
    configs += [FinetuneConfig(), load_config("squad"), load_config("ner")]
    known = {"text", *all_names(FinetuneConfig())}
    known |= all_names(RunConfig()) | all_names(load_config("gpt2_tiny"))
    for config in configs:
        assert idle(config).keys() <= known | {"phases"}
    assert foreign(RunConfig()).keys() == {"data.negatives", "data.carry", "phases"}
    assert foreign(FinetuneConfig()).keys() > names(MaskedData, "data.") - {
        "data.threads",
        "data.cache",
    }
