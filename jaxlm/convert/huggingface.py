"""A Hugging Face directory ↔ a model: config.json, safetensors, tokenizer files.

An import makes a `ModelFile` and an export writes it, so an import copies one tensor at
a time from file to file. Next: `model_directory.py` tells layouts apart.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.model import ModelConfig
from jaxlm.convert import Dtype
from jaxlm.convert.model_types import (
    HEADS,
    ConfigJson,
    canonical,
    model_type_of,
    part_of,
)
from jaxlm.convert.rules import ModelFile, Rule, TensorTable
from jaxlm.convert.tensors import WEIGHTS, Tensors, write_tensors
from jaxlm.families import parameter_shapes
from jaxlm.files import read_json, write_json
from jaxlm.text.tokenizers import Tokenizer, WordPiece
from jaxlm.text.tokenizers.tokenizer import padded
from jaxlm.types import UserError

# Tensors above the encoder: those of a BERT's and those of a task's head.
_BARE = ("cls.", "classifier.", "qa_outputs.", "score.", "multiple_choice_head.")

_MISSING = {"mlm": "head of masked words", "nsp": "head of next sentences"}
_PIPELINES = {  # by the end of the class's name
    "ForPreTraining": "fill-mask",
    "ForMaskedLM": "fill-mask",
    "Model": "feature-extraction",
    "LMHeadModel": "text-generation",
    "DoubleHeadsModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
}
# With the front matter that model hubs read.
_CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
tags: [jaxlm]
---

# {name}, by jaxlm

{config.num_layers} layers, {config.d_model} wide, {config.d_ff} in the MLP, \
{config.vocab_size:,} tokens, {config.max_length} positions; {dtype}.
{lacks}
```python
from transformers import AutoTokenizer, {name}

model = {name}.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```

## Where it comes from

{origin}

`jaxlm_export.json` has the SHA-256 of every file.
"""


def from_params(
    config: ModelConfig, params: Any, head: Sequence[Rule] = ()
) -> ModelFile:
    """A model's parameters as tensors; `head` has the rules of a task's head."""
    table = TensorTable([*model_type_of(config).rules(config, params), *head], params)
    lacking = parameter_shapes(config).keys() - params.keys()
    missing = tuple(name for name in HEADS if name in lacking and not head)
    return ModelFile.of(config, table, params, missing)


def fit_tensors(
    options: ConfigJson, tensors: Tensors, ignore: tuple[str, ...]
) -> ModelFile:
    """The model of a config.json and tensors with any of its family's names.

    A UserError lists where the config and the tensors do not match.
    """
    kind = options.model_type()
    names: dict[str, str] = {}  # in the table → in the file
    for real in tensors.shapes:
        name = canonical(real)
        if re.fullmatch(kind.buffers, name):
            continue
        if name in names:
            raise UserError(f"{tensors.source} has both {names[name]} and {real}")
        names[name] = real
    parts = {part for name in names if (part := part_of(name))}
    config = kind.from_json(options, parts)
    for copy, original in kind.copies.items():
        if copy not in names:
            continue
        real = names.pop(copy)
        if original not in names:
            names[original] = real
        elif not np.array_equal(tensors.read(real), tensors.read(names[original])):
            raise UserError(
                f"{tensors.source}: {real} is not {names[original]}: the head is not "
                "tied to the token table, as jaxlm's is"
            )
    ignored = [n for n in names if any(re.fullmatch(each, n) for each in ignore)]
    for name in ignored:
        del names[name]
    note = f"{len(ignored)} tensors ignored as asked: {', '.join(ignored)}"
    shapes = parameter_shapes(config)
    missing = tuple(name for name in HEADS if name in shapes and name not in parts)
    kept = {name: tree for name, tree in shapes.items() if name not in missing}
    table = TensorTable(kind.rules(config, kept), kept)
    table.check(
        {name: tensors.shapes[real] for name, real in names.items()},
        f"{tensors.source} does not fit {options.path}",
    )
    notes = (note,) if ignored else ()
    return ModelFile(
        config, table, lambda name: tensors.read(names[name]), missing, notes
    )


def write_config(
    directory: Path,
    source: ModelFile,
    tokenizer: Tokenizer,
    dtype: Dtype = "float32",
    head: str = "",
) -> str:
    """Write transformers' files other than weights; returns the class name's ending.

    The ending is `head` for a model with a task's head.
    """
    config, kind = source.config, model_type_of(source.config)
    has = source.table.tree.keys()
    usual = next(end for end, need in kind.classes.items() if has >= {*need})
    head, end = head or usual, tokenizer.end_of_document
    options = {"architectures": [kind.stem + head], **kind.to_json(config, end)}
    options["dtype"] = dtype
    if tokenizer.special is not None:
        options["pad_token_id"] = tokenizer.special.pad
    write_json(directory / "config.json", options)
    if kind.decoder:
        generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        write_json(directory / "generation_config.json", generation)
    tokenizer.save(directory)
    edit_json(directory / "tokenizer_config.json", model_max_length=config.max_length)
    return head


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file."""
    write_json(path, {**read_json(path), **changes})


def write_model(
    directory: Path,
    source: ModelFile,
    tokenizer: Tokenizer,
    dtype: Dtype,
    origin: dict[str, Any],
    head: str = "",
) -> None:
    """Write all files that transformers loads, and a model card."""
    head = write_config(directory, source, tokenizer, dtype, head)
    kind, shapes = model_type_of(source.config), source.table.shapes
    prefix = "" if head == "Model" else kind.prefix
    ours = {n if n.startswith(_BARE) else prefix + n: n for n in shapes}
    write_tensors(
        directory / WEIGHTS,
        {theirs: shapes[name] for theirs, name in ours.items()},
        lambda theirs: source.read(ours[theirs]),
        dtype,
    )
    origins = []
    for key, value in origin.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        origins.append(f"- {key}: {value}")
    card = _CARD.format(
        pipeline=_PIPELINES[head],
        name=kind.stem + head,
        config=source.config,
        dtype=dtype,
        lacks="".join(f"It has no {_MISSING[each]}.\n" for each in source.missing),
        origin="\n".join(origins),
    )
    (directory / "README.md").write_text(card)


def pad_vocabulary(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """`tokenizer` padded with `[unusedN]` entries to `size`, the rows of the table.

    UserError if it has more entries, or if it cannot be padded.
    """
    count = tokenizer.vocab_size
    if count == size:
        return tokenizer
    if count < size and isinstance(tokenizer, WordPiece):
        return WordPiece(
            padded(tokenizer.tokens, size),
            lowercase=tokenizer.lowercase,
            max_word=tokenizer.max_word,
        )
    raise UserError(
        f"the tokenizer has {count:,} entries, the model {size:,} rows: they do not "
        "belong together"
    )
