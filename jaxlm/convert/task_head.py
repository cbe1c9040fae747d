"""A fine-tuned model → transformers' files: encoder, head and labels.

                  BERT, ModernBERT                 GPT-1 (GPT2… of GPT-2)
class, number     BertForSequenceClassification    OpenAIGPTForSequenceClassification
choice            BertForMultipleChoice            OpenAIGPTDoubleHeadsModel
tokens            BertForTokenClassification       (RoFormerFor…, too)
spans             BertForQuestionAnswering         (RoFormerFor…, too)

A GPT's three new tokens are in its table and in its tokenizer, which puts them around
one or two texts. The class is predicted at the last token, without a bias.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers.processors import TemplateProcessing

from jaxlm.config import BertConfig, ElmoConfig, GptConfig, ModelConfig, TaskConfig
from jaxlm.convert import Dtype
from jaxlm.convert.huggingface import edit_json, from_params, write_model
from jaxlm.convert.model_directory import atomic, write_digests
from jaxlm.convert.rules import module_rules
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import GPT_FRAME, UserError

# Kind of task → (end of the class's name, name of the head).
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
_PROBLEMS = {"class": "single_label_classification", "number": "regression"}


def export_task(
    out: Path,
    config: ModelConfig,
    task: TaskConfig,
    params: Any,
    tokenizer: Tokenizer,
    *,
    dtype: Dtype = "float32",
    origin: dict[str, Any],
) -> dict[str, str]:
    """Write a directory that transformers loads; returns file → SHA-256.

    `config` is that of the encoder, or of the decoder with its three new tokens;
    `params` are those of the model and of `task`; the card tells the `origin`.
    """
    _check(config, task)
    kinds = _DECODER if isinstance(config, GptConfig) else _ENCODER
    kind, head = kinds[task.kind]
    modern = isinstance(config, BertConfig) and config.layout == "modernbert"
    head = "classifier" if modern else head
    rules = [
        rule
        for rule in module_rules({"task": head}, transpose=True)
        if rule.ours[0].removeprefix("task/") in params["task"]
    ]
    with atomic(out) as beside:
        source = from_params(config, params, rules)
        write_model(beside, source, tokenizer, dtype, origin, kind)
        pooling = {"classifier_pooling": task.pooling} if modern else {}
        edit_json(beside / "config.json", **_labels(task), **pooling)
        if isinstance(config, GptConfig):
            _add_frame(beside, config, tokenizer.tokens, task.kind)
        return write_digests(beside, origin)


def _check(config: ModelConfig, task: TaskConfig) -> None:
    """Raise a UserError for a model of a task that transformers does not have."""
    again = "fine-tune with --task"
    if isinstance(config, ElmoConfig):
        raise UserError("transformers has no ELMo: use jaxlm predict")
    if task.both_orders:
        this = "transformers reads two texts in one order"
        raise UserError(f"{this}: {again}.both_orders false")
    if task.mix != "none" or task.body != "none":
        this = "transformers reads the last layer, without a mix or a body"
        raise UserError(f"{this}: {again}.mix none --task.body none")
    layout = getattr(config, "layout", None)
    need, theirs = "pooler", "a BERT classifies by its pooler"
    if isinstance(config, GptConfig):
        need, theirs = "last", "a GPT is read off its last token"
    elif task.kind not in ("class", "number", "choice"):
        return
    elif layout == "roformer":
        this = f"task.kind = {task.kind}: transformers' RoFormer has another head"
        raise UserError(f"{this} for it, and one like this for tokens and spans alone")
    elif layout == "modernbert":
        need = "mean" if task.pooling == "mean" else "cls"
        theirs = "a ModernBERT is read by cls or mean"
    if task.pooling != need:
        this = f"task.pooling = {task.pooling}: in transformers {theirs}"
        raise UserError(f"{this}: {again}.pooling {need}")


def _labels(task: TaskConfig) -> dict[str, Any]:
    """The fields of config.json about labels; multiple choice has no labels."""
    labels = {"number": ("LABEL_0",), "choice": ()}.get(task.kind, task.labels)
    options: dict[str, Any] = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": _PROBLEMS.get(task.kind),
    }
    return {name: each for name, each in options.items() if each}


def _add_frame(
    directory: Path, config: GptConfig, tokens: Sequence[str], kind: str
) -> None:
    """Add the three tokens of a GPT's rows to its tokenizer and its config."""
    first = len(tokens)
    # The class is read off the last token that is not the padding token.
    changes: dict[str, Any] = {"pad_token_id": first}
    if kind == "choice":
        changes |= {
            "num_labels": 1,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "summary_proj_to_labels": True,
            "summary_activation": None,
            "summary_first_dropout": config.dropout,
        }
    edit_json(directory / "config.json", **changes)
    path = directory / "tokenizer.json"
    if not path.is_file():
        return  # spaCy splits its words, which `tokenizers` cannot do
    library: Any = Library.from_file(str(path))
    rest = tokens[library.get_vocab_size() :]  # rows that are no token
    library.add_special_tokens([*rest, *GPT_FRAME])
    start, between, end = GPT_FRAME
    library.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {between} $B {end}",
        special_tokens=[(each, first + i) for i, each in enumerate(GPT_FRAME)],
    )
    path.write_text(library.to_str(pretty=True), encoding="utf-8")
    edit_json(
        directory / "tokenizer_config.json",
        # The class for GPT-1 would build a tokenizer from the other files.
        tokenizer_class="PreTrainedTokenizerFast",
        pad_token=start,
    )
