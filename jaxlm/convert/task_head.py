"""A fine-tuned model as transformers has it: its trunk's files, a head and its labels.

                  BERT                             GPT-1 (GPT2… of GPT-2)
class, number     BertForSequenceClassification    OpenAIGPTForSequenceClassification
choice            BertForMultipleChoice            OpenAIGPTDoubleHeadsModel
tokens            BertForTokenClassification
spans             BertForQuestionAnswering

A GPT's three new tokens go with it, in the table and in the tokenizer, which puts them
round a text or two: the class is read off the last token, and there is no bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers.processors import TemplateProcessing

from jaxlm.config import BertConfig, GptConfig, TaskConfig
from jaxlm.convert import bert, gpt
from jaxlm.convert.atomic import atomic_directory, write_digests
from jaxlm.convert.card import card
from jaxlm.convert.huggingface import write_config
from jaxlm.convert.model_file import ModelFile
from jaxlm.convert.rules import TensorTable, dense
from jaxlm.convert.tensors import WEIGHTS, Dtype, write_tensors
from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import GPT_FRAME, UserError

_ENCODER = {
    "class": ("ForSequenceClassification", "classifier"),
    "number": ("ForSequenceClassification", "classifier"),
    "choice": ("ForMultipleChoice", "classifier"),
    "tokens": ("ForTokenClassification", "classifier"),
    "spans": ("ForQuestionAnswering", "qa_outputs"),
}
_DECODER = {
    "class": ("ForSequenceClassification", "score"),
    "number": ("ForSequenceClassification", "score"),
    "choice": ("DoubleHeadsModel", "multiple_choice_head.summary"),
}


def export_task(
    out: Path,
    config: BertConfig | GptConfig,
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
        config: of the encoder, or of the decoder with its three more tokens.
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
    _check(config, task)
    decoder = isinstance(config, GptConfig)
    kind, head = (_DECODER if decoder else _ENCODER)[task.kind]
    family, model_type = (gpt if decoder else bert), _model_type(config)
    rules = [
        rule
        for rule in dense("task", head, transpose=True)
        if rule.ours[0].removeprefix("task/") in params["task"]
    ]
    rules += family.rules(config, set(params) - {"task"})  # pyrefly: ignore
    source = ModelFile.of(config, TensorTable(rules, params), params, ())
    with atomic_directory(out) as beside:
        write_config(beside, source, tokenizer, dtype)
        path = beside / "config.json"
        name = f"{_STEMS[model_type]}{kind}"
        write_json(path, {**read_json(path), "architectures": [name], **_labels(task)})
        prefix = f"{model_type}."
        if decoder:
            prefix = "transformer."
            _frame(beside, tokenizer.vocab_size, task)
        named = {
            each if each.startswith(head) else prefix + each: each
            for each in source.table.shapes
        }
        shapes = {theirs: source.table.shapes[ours] for theirs, ours in named.items()}
        digest = write_tensors(
            beside / WEIGHTS, shapes, lambda each: source.read(named[each]), dtype
        )
        text = card(beside, config, (), origin, dtype)
        (beside / "README.md").write_text(text)
        return write_digests(beside, origin, {WEIGHTS: digest})


_STEMS = {"bert": "Bert", "ernie": "Ernie", "gpt2": "GPT2", "openai-gpt": "OpenAIGPT"}


def _model_type(config: BertConfig | GptConfig) -> str:
    decoder = isinstance(config, GptConfig)
    return gpt.model_type(config) if decoder else bert.model_type(config)


def _check(config: BertConfig | GptConfig, task: TaskConfig) -> None:
    if task.both_orders:
        raise UserError(
            "two texts in both orders are no class of transformers, which reads one: "
            "fine-tune with --task.both_orders false"
        )
    if task.mix != "none" or task.body != "none":
        raise UserError(
            "a mix of layers or a body is no class of transformers, which reads the "
            "last layer: fine-tune with --task.mix none --task.body none"
        )
    if isinstance(config, GptConfig):
        if task.pooling != "last":
            raise UserError(
                f"a row pooled by {task.pooling} has no class in transformers, whose "
                "GPT is read off its last token: fine-tune with --task.pooling last"
            )
    elif task.kind in ("class", "number", "choice") and task.pooling != "pooler":
        raise UserError(
            f"a row pooled by {task.pooling} has no class in transformers, whose BERT "
            "classifies by its pooler: fine-tune with --task.pooling pooler"
        )


def _labels(task: TaskConfig) -> dict[str, Any]:
    """What config.json says of the answers; a choice is one of what it is given."""
    labels = task.labels if task.kind != "choice" else ()
    if task.kind == "number":
        labels = ("LABEL_0",)
    options: dict[str, Any] = {}
    if labels:
        options["id2label"] = {str(i): label for i, label in enumerate(labels)}
        options["label2id"] = {label: i for i, label in enumerate(labels)}
    if task.kind in ("class", "number"):
        single = "single_label_classification"
        options["problem_type"] = "regression" if task.kind == "number" else single
    return options


def _frame(directory: Path, first: int, task: TaskConfig) -> None:
    """The three tokens of a GPT's rows, in its tokenizer and its config."""
    options = read_json(directory / "config.json")
    # The class is read off the last token that is not this one.
    options |= {"pad_token_id": first}
    if task.kind == "choice":
        options |= {
            "num_labels": 1,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "summary_proj_to_labels": True,
            "summary_activation": None,
            "summary_first_dropout": options["resid_pdrop"],
        }
    write_json(directory / "config.json", options)
    path = directory / "tokenizer.json"
    if not path.is_file():
        return  # its words are cut by spaCy, as no library of others cuts them
    library: Any = Library.from_file(str(path))
    library.add_special_tokens(list(GPT_FRAME))
    start, between, end = GPT_FRAME
    library.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {between} $B {end}",
        special_tokens=[(each, first + i) for i, each in enumerate(GPT_FRAME)],
    )
    path.write_text(library.to_str(pretty=True), encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    # A class of GPT-1's own would make its words anew, from the other files.
    more = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": start}
    write_json(settings, {**read_json(settings), **more})
