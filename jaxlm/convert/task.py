"""A fine-tuned BERT as transformers has it: its encoder's files, a head and its labels.

class, number    BertForSequenceClassification    classifier
tokens           BertForTokenClassification       classifier
spans            BertForQuestionAnswering         qa_outputs
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxlm.config import BertConfig, TaskConfig
from jaxlm.convert import bert
from jaxlm.convert.card import card
from jaxlm.convert.huggingface import write_config
from jaxlm.convert.output import whole_directory, write_digests
from jaxlm.convert.rules import Table, dense
from jaxlm.convert.source import Source
from jaxlm.convert.tensors import WEIGHTS, Dtype, write_tensors
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.vocabulary import read_json, write_json
from jaxlm.types import UserError

_HEADS = {
    "class": ("SequenceClassification", "classifier"),
    "number": ("SequenceClassification", "classifier"),
    "tokens": ("TokenClassification", "classifier"),
    "spans": ("QuestionAnswering", "qa_outputs"),
}


def export_task(
    out: Path,
    config: BertConfig,
    task: TaskConfig,
    params: Any,
    tokenizer: Tokenizer,
    *,
    dtype: Dtype = "float32",
    origin: dict[str, Any],
) -> dict[str, str]:
    """Write a directory that transformers loads, whole or not at all.

    Args:
        out: takes the place of an earlier export.
        config: of the encoder.
        task: what it tells.
        params: of the encoder and `task`.
        tokenizer: its own.
        dtype: of the tensors.
        origin: where the model comes from, for the card.

    Returns:
        Name → SHA-256 of every file.

    Raises:
        UserError: transformers has no such head.
    """
    kind, head = _HEADS[task.kind]
    if kind == "SequenceClassification" and task.pooling != "pooler":
        raise UserError(
            f"a row pooled by {task.pooling} has no class in transformers, whose BERT "
            "classifies by its pooler: fine-tune with --task.pooling pooler"
        )
    rules = bert.rules(config, set(params) - {"task"})
    rules += dense("task", head, transpose=True)
    source = Source.of(config, Table(rules, params), params, ())
    with whole_directory(out) as beside:
        write_config(beside, source, tokenizer, dtype)
        path, family = beside / "config.json", bert.model_type(config)
        name = f"{family.capitalize()}For{kind}"
        labels = task.labels or (("LABEL_0",) if task.kind == "number" else ())
        more: dict[str, Any] = {"architectures": [name]}
        if labels:
            more["id2label"] = {str(i): label for i, label in enumerate(labels)}
            more["label2id"] = {label: i for i, label in enumerate(labels)}
        if kind == "SequenceClassification":
            single = "single_label_classification"
            more["problem_type"] = "regression" if task.kind == "number" else single
        write_json(path, {**read_json(path), **more})
        named = {
            each if each.startswith(head) else f"{family}.{each}": each
            for each in source.table.shapes
        }
        shapes = {theirs: source.table.shapes[ours] for theirs, ours in named.items()}
        write_tensors(
            beside / WEIGHTS, shapes, lambda each: source.read(named[each]), dtype
        )
        text = card(beside, config, (), origin, dtype)
        (beside / "README.md").write_text(text)
        return write_digests(beside, origin)
