"""A config → the flags that would change nothing; the command line refuses them.

    idle(config)      {"eval_rows": "has no effect without --eval_every", …}

A name stands for its field or, of a group such as `text`, for all fields of the group.
"""

import dataclasses
import typing
from typing import Any

from jaxlm.config.model import AnyData, MaskedData
from jaxlm.config.run import RunConfig
from jaxlm.config.task import FinetuneConfig


def foreign_data(config: RunConfig) -> dict[str, str]:
    """The data fields that only other kinds of run have."""
    mine, found = {f.name for f in dataclasses.fields(config.data)}, {}
    what = f"this config is of {config.data.of}"
    if isinstance(config, FinetuneConfig):
        what = "the rows of a task are not masked, paired or streamed"
    for kind in typing.get_args(AnyData):
        for each in dataclasses.fields(kind):
            if each.name not in mine:
                found[f"data.{each.name}"] = f"is for {kind.of}: {what}"
    return found


def idle(config: RunConfig) -> dict[str, str]:
    """Name → why it would change nothing, beside `foreign_data`."""
    optim, adagrad = config.optim, config.optim.name == "adagrad"
    rules = [
        (not adagrad, "optim.accumulator", f"is adagrad's, optim.name = {optim.name}"),
        (adagrad, "optim.b1 optim.b2 optim.eps", "is for optimisers with two moments"),
    ]
    if isinstance(config, FinetuneConfig):
        rules += _of_task(config)
    else:
        rules += _of_pretraining(config)
    return {name: why for on, names, why in rules if on for name in names.split()}


def _of_pretraining(config: RunConfig) -> list[tuple[bool, str, str]]:
    data, text = config.data, config.text
    model: Any = config.model
    rules = [
        (not config.eval_every, "eval_rows", "has no effect without --eval_every"),
        (
            bool(config.phases),
            "length batch predictions accumulate",
            "is overridden by the phases of this config: see --phases",
        ),
        (
            text.tokenizer not in ("gpt1_bpe", "words"),
            "text.words",
            f"is for gpt1_bpe and words, text.tokenizer = {text.tokenizer}",
        ),
        (
            text.tokenizer not in ("wordpiece", "words"),
            "text.lowercase",
            f"is for wordpiece and words, text.tokenizer = {text.tokenizer}",
        ),
    ]
    if not isinstance(data, MaskedData):
        return [
            *rules,
            (True, "predictions", "is for masked words: this model predicts all words"),
        ]
    levels = data.levels or any(phase.levels for phase in config.phases)
    pairs = model.nsp and not text.dialogues
    return [
        *rules,
        (not pairs, "data.short_rate", "is for pairs of sentences, and there are none"),
        (
            not pairs and not text.dialogues,
            "data.second",
            "is for pairs of sentences, and there are none",
        ),
        (bool(levels), "data.whole_words", "is overridden by data.levels"),
        (
            not levels and not data.whole_words,
            "data.replace",
            "is for units of several tokens: pass --data.whole_words or --data.levels",
        ),
    ]


def _of_task(config: FinetuneConfig) -> list[tuple[bool, str, str]]:
    task = config.task
    spans, words = task.kind == "spans", task.kind == "tokens"
    return [
        (True, "text", "is for corpora: the tokenizer of --init reads a task's files"),
        (True, "smoothing", "is for corpora of several languages"),
        (True, "predictions", "is for masked words"),
        (True, "phases", "is for pretraining: a fine-tuning run has one phase"),
        (True, "eval_rows", "is for pretraining: all of the dev file is evaluated"),
        (True, "steps", "follows from the passes: pass --task.epochs"),
        (
            not spans,
            "task.question task.stride task.answer task.null_threshold task.rules",
            f"is for spans, task.kind = {task.kind}",
        ),
        (
            spans or words,
            "task.text task.pair task.label task.pooling",
            f"is for classes, numbers and choice, task.kind = {task.kind}",
        ),
        (
            spans or task.kind == "number",
            "task.labels",
            f"is for classes, task.kind = {task.kind}",
        ),
        (
            task.body == "none",
            "task.width task.depth",
            "is for a BiLSTM: pass --task.body bilstm",
        ),
    ]
