"""A config → the flags that would change nothing; the command line refuses them.

    idle(config)      {"eval_rows": "has no effect without --eval_every", …}

A name means a field, or all fields of a group such as `text`.
"""

import dataclasses
from typing import Any, cast, get_args

from jaxlm.config.model import AnyData, MaskedData
from jaxlm.config.run import RunConfig
from jaxlm.config.task import FinetuneConfig

Rule = tuple[bool, str, str]  # whether fields are idle, their names, and why


def foreign(config: RunConfig) -> dict[str, str]:
    """Name → reason, for fields that only other kinds of run have: data and phases."""
    what = f"this config is of {config.data.of}"
    if config.finetunes:
        what = "the rows of a task are not masked, paired or streamed"
    mine = {field.name for field in dataclasses.fields(config.data)}
    owners: dict[str, list[str]] = {}
    for kind in get_args(AnyData):
        for field in dataclasses.fields(kind):
            owners.setdefault(field.name, []).append(kind.of)
    refused = {
        f"data.{name}": f"is for {' or '.join(kinds)}: {what}"
        for name, kinds in owners.items()
        if name not in mine
    }
    last = len(config.phases) - 1
    if config.finetunes:
        refused["phases"] = "is for pretraining: a fine-tuning run has one phase"
    elif not config.phases:
        flags = "--steps, --length, --batch, …, --data.mask_rate, …"
        refused["phases"] = f"is for a recipe with phases: for this one, pass {flags}"
    else:
        refused[f"phases.{last + 1}"] = f"is too many: the last of them is {last}"
    return refused


def idle(config: RunConfig) -> dict[str, str]:
    """Name → why the flag would change nothing, apart from those of `foreign`."""
    optim, adagrad = config.optim.name, config.optim.name == "adagrad"
    wsd = config.optim.decay.startswith("wsd")
    samples = optim == "adamw" and getattr(config.data, "negatives", 0)
    rope = getattr(config.model, "positions", "") == "rope"
    windows = getattr(config.model, "window", 0) > 0
    depths = config.model.num_layers, getattr(config.model, "global_every", 1)
    rules: list[Rule] = [
        (not adagrad, "optim.accumulator", f"is adagrad's, optim.name = {optim}"),
        (config.model.carries_state, "attention", "is for transformers"),
        (not wsd, "optim.cooldown", f"is wsd's, optim.decay = {config.optim.decay}"),
        (adagrad, "optim.b1 optim.b2 optim.eps", "is for optimisers with two moments"),
        (not config.drops, "dropout_bits", "is for dropout, and the rate is 0"),
        (not samples, "optim.lazy", "is for adamw and an ELMo's --data.negatives"),
        (not rope, "model.rope_base", "is for --model.positions rope"),
        (not windows, "model.global_every", "is for --model.window"),
        (min(depths) == 1, "model.window", "is for local layers: all are global"),
        (not rope or not windows, "model.local_rope_base", "is for rope in a window"),
    ]
    task = isinstance(config, FinetuneConfig)
    rules += _of_task(config) if task else _of_pretraining(config)
    return {
        name: why for is_idle, names, why in rules if is_idle for name in names.split()
    }


def _of_pretraining(config: RunConfig) -> list[Rule]:
    data, text, model = config.data, config.text, cast(Any, config.model)
    masked = isinstance(data, MaskedData)
    pairs = masked and model.nsp
    levels = masked and bool(data.levels or any(p.levels for p in config.phases))
    no_pairs = "is for pairs of sentences, and there are none"
    kind, this = text.tokenizer, f"text.tokenizer = {text.tokenizer}"
    cuts, folds = kind in ("gpt1_bpe", "words"), kind in ("wordpiece", "words")
    shape = "length batch predictions accumulate"
    of_phases = " ".join(
        f"phases.{i}.{name}"
        for i in range(len(config.phases))
        for name in ("levels", "mask_rate", "causal_share")
    )
    longest = max(phase.length for phase in config.all_phases)
    wide = masked and 0 < longest <= model.window // 2 + 1
    wide = wide and model.rope_base == model.local_rope_base
    reaches = f"is as wide as the rows of {longest} tokens: each layer sees all of them"
    return [
        (not config.eval_every, "eval_rows", "has no effect without --eval_every"),
        (bool(config.phases), shape, "is overridden by the --phases of this config"),
        (not cuts, "text.words", f"is for gpt1_bpe and words, {this}"),
        (not folds, "text.lowercase", f"is for wordpiece and words, {this}"),
        (
            not masked,
            f"predictions {of_phases}",
            "is for masked words, and this model predicts all",
        ),
        (not pairs or text.dialogues, "data.short_rate", no_pairs),
        (not pairs and not text.dialogues, "data.second", no_pairs),
        (levels, "data.whole_words", "is overridden by data.levels"),
        (wide, "model.window", reaches),
    ]


def _of_task(config: FinetuneConfig) -> list[Rule]:
    task, this = config.task, f"task.kind = {config.task.kind}"
    spans, number = task.kind == "spans", task.kind == "number"
    by_token, choice = spans or task.kind == "tokens", task.kind == "choice"
    pools = "task.text task.pair task.label task.pooling"
    windows = "task.question task.stride task.answer task.null_threshold task.rules"
    masked, trained = config.model.data is MaskedData, not task.fresh
    packable = masked and not choice and task.body == "none"
    random = "is for parameters that start at random: pass --task.fresh"
    return [
        (True, "text", "is for corpora: the tokenizer of --init reads a task's files"),
        (True, "smoothing", "is for corpora of several languages"),
        (True, "data.cache", "is for corpora: a task's files are read where they are"),
        (True, "predictions", "is for masked words"),
        (True, "fork skip", "is for pretraining"),
        (True, "eval_rows", "is for pretraining: all of the dev file is evaluated"),
        (True, "steps", "follows from the passes: pass --task.epochs"),
        (True, "model.vocab_size", "is that of the tokenizer of --init"),
        (True, "model.nsp", "is for pretraining: task.pooling says what is trained"),
        # A GPT gets new tokens, which start at random.
        (trained and masked, "model.init_std", random),
        (trained, "model.position_std model.scale_residual", random),
        (not config.eval_every, "task.patience", "has no effect without --eval_every"),
        (not task.unanswerable, "task.null_threshold", "is for task.metric = best_f1"),
        (not spans, windows, f"is for spans, {this}"),
        (by_token, pools, f"is for classes, numbers and choice, {this}"),
        (spans or number, "task.labels", f"is for classes, {this}"),
        (task.body == "none", "task.width task.depth", "is for task.body = bilstm"),
        (not packable, "task.pack", "is for a BERT without a body, not for choice"),
    ]
