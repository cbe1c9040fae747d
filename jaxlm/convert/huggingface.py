"""A Hugging Face directory ↔ a model: config.json, safetensors, tokenizer files.

An import makes a `ModelFile` and an export writes it, so an import copies one tensor at
a time from file to file. Next: `model_directory.py` tells layouts apart.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.model import BertConfig, ModelConfig
from jaxlm.convert import Dtype
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.model_types import (
    canonical,
    check_config,
    model_type_in,
    model_type_of,
    part_of,
)
from jaxlm.convert.rules import HEADS, ModelFile, Rule, TensorTable
from jaxlm.convert.tensors import WEIGHTS, Tensors, write_tensors
from jaxlm.families import parameter_shapes
from jaxlm.files import read_json, write_json
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.tokenizers.library import LibraryTokenizer
from jaxlm.text.tokenizers.published import renamed
from jaxlm.text.tokenizers.tokenizer import SPECIAL
from jaxlm.types import UserError, note, plural

# Tensors above the encoder: those of a BERT's and those of a task's head.
_BARE = ("cls.", "classifier.", "qa_outputs.", "score.", "multiple_choice_head.")
_BARE += ("head.", "decoder.")

_MISSING = {"mlm": "head of masked words", "nsp": "head of next sentences"}
_MISSING |= {"pooler": "pooler"}
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
    """A model's parameters as tensors; `head` has the rules of a task's head.

    Parts that transformers' model does not have are left out.
    """
    kind = model_type_of(config)
    lost = {"pooler", "nsp"} & params.keys() - kind.parts
    if lost and isinstance(config, BertConfig):
        words = " and no ".join(_MISSING[each] for each in sorted(lost))
        note(f"transformers' {kind.stem} has no {words}: left out")
        params = {name: part for name, part in params.items() if name not in lost}
        config = dataclasses.replace(config, nsp=False)
    table = TensorTable([*kind.rules(config, params), *head], params)
    lacking = parameter_shapes(config).keys() - params.keys()
    missing = tuple(name for name in HEADS if name in lacking and not head)
    return ModelFile.of(config, table, params, missing)


def fit_tensors(
    options: ConfigJson, tensors: Tensors, ignore: tuple[str, ...]
) -> ModelFile:
    """The model of a config.json and tensors with any of its family's names.

    A UserError lists where the config and the tensors do not match.
    """
    kind = model_type_in(options)
    check_config(options)
    names: dict[str, str] = {}  # in the table → in the file
    for real in tensors.shapes:
        name = canonical(real)
        if re.fullmatch(kind.buffers, name):
            continue
        if name in names:
            raise UserError(f"{tensors.source} has both {names[name]} and {real}")
        names[name] = real
    for copy, original in kind.copies.items():
        if copy not in names:
            continue
        real = names.pop(copy)
        if original not in names:
            names[original] = real
        elif not np.array_equal(tensors.read(real), tensors.read(names[original])):
            this = f"{real} is not {names[original]}"
            raise UserError(f"{tensors.source}: {this}: jaxlm's head is tied to it")
    ignored = [n for n in names if any(re.fullmatch(each, n) for each in ignore)]
    for name in ignored:
        del names[name]
    if ignored:
        note(f"tensors ignored as asked: {', '.join(ignored)}")
    parts = {part for name in names if (part := part_of(name))}
    config = kind.from_json(options, parts)
    shapes = parameter_shapes(config)
    missing = tuple(name for name in HEADS if name in shapes and name not in parts)
    kept = {name: tree for name, tree in shapes.items() if name not in missing}
    table = TensorTable(kind.rules(config, kept), kept)
    table.check(
        {name: tensors.shapes[real] for name, real in names.items()},
        f"{tensors.source} does not fit {options.path}",
    )
    return ModelFile(config, table, lambda name: tensors.read(names[name]), missing)


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
    head = head or usual
    ends = {"bos_token_id": tokenizer.begin_of_text}
    ends["eos_token_id"] = end = tokenizer.end_of_document
    options = {"architectures": [kind.stem + head], **kind.to_json(config, ends)}
    options["dtype"] = dtype
    if tokenizer.special is not None:
        special = tokenizer.special
        options |= {name: getattr(special, role) for name, role in kind.ids.items()}
    write_json(directory / "config.json", options)
    if kind.decoder:
        generation = {**ends, "pad_token_id": end}
        write_json(directory / "generation_config.json", generation)
    tokenizer.save(directory)
    types = getattr(config, "num_token_types", 0)
    inputs = ["input_ids", *(["token_type_ids"] if types else [])]
    edit_json(
        directory / "tokenizer_config.json",
        model_max_length=config.max_length,
        model_input_names=[*inputs, "attention_mask"],
    )
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
    kind = model_type_of(source.config)
    sines = kind.sines(source.config)
    shapes = source.table.shapes | {name: x.shape for name, x in sines.items()}
    prefix = "" if head == "Model" else kind.prefix
    ours = {n if n.startswith(_BARE) else prefix + n: n for n in shapes}

    def make(theirs: str) -> np.ndarray:
        name = ours[theirs]
        return sines[name] if name in sines else source.read(name)

    by_theirs = {theirs: shapes[name] for theirs, name in ours.items()}
    write_tensors(directory / WEIGHTS, by_theirs, make, dtype)
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


def fit_tokenizer(
    tokenizer: Tokenizer, config: ModelConfig, directory: Path
) -> Tokenizer:
    """The tokenizer with an entry for each row of the model's table.

    Missing entries become `[unusedN]`. A decoder's texts begin and end with the tokens
    that the files of `directory` name. UserError if model and tokenizer do not fit.
    """
    count, rows = tokenizer.vocab_size, config.vocab_size
    if count > rows:
        more = ", ".join(map(repr, tokenizer.tokens[rows:][:5]))
        this = f"the tokenizer has {count:,} entries, the model {rows:,} rows"
        raise UserError(f"{this}: they do not belong together, none is left for {more}")
    decoder = model_type_of(config).decoder
    if count < rows:
        tokenizer = tokenizer.grown(rows)
        note(f"{plural(rows - count, 'row')} of the table without a token: [unusedN]")
    if decoder and (names := _ends(directory, tokenizer)):
        tokenizer = renamed(tokenizer, names)
    if tokenizer.special is None and not decoder:
        lacks = [each for each in SPECIAL if each not in tokenizer.special_names]
        raise UserError(f"the vocabulary lacks {', '.join(lacks)}, which a BERT needs")
    if isinstance(tokenizer, LibraryTokenizer):
        _check_frame(tokenizer, decoder)
    elif decoder and tokenizer.special is not None:
        note("transformers puts [CLS] and [SEP] around a text, jaxlm nothing")
    return tokenizer


def _ends(directory: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """The tokens that begin and end a decoder's texts by its files, if others."""
    found = {"begin": tokenizer.begin_of_text, "end": tokenizer.end_of_document}
    known = dict(found)
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        options = read_json(path) if path.is_file() else {}
        for role, key in (("begin", "bos_token_id"), ("end", "eos_token_id")):
            id = options.get(key)
            if isinstance(id, list):
                if len(id) > 1:
                    raise UserError(f"{path}: {key} = {id}: one is supported, not more")
                id = id[0] if id else None
            # transformers' GPT-2 has 50256 even where the vocabulary is smaller.
            if isinstance(id, int) and 0 <= id < tokenizer.vocab_size:
                found[role] = id
    changed = {role: id for role, id in found.items() if id != known[role]}
    return {role: tokenizer.token(id) for role, id in changed.items() if id is not None}


def _check_frame(tokenizer: LibraryTokenizer, decoder: bool) -> None:
    """Refuse a frame other than BERT's; note one that our rows do not have."""
    single, pair = ([tokenizer.token(id) for id in ids] for ids in tokenizer.framing)
    names = tokenizer.special_names
    cls, sep = names.get("[CLS]"), names.get("[SEP]")
    if (single, pair) not in (([], []), ([cls, sep], [cls, sep, sep])):
        around = " ".join(single) or " ".join(pair)
        raise UserError(f"tokenizer.json puts {around} around a text: not supported")
    if bool(single) == decoder:
        theirs = " and ".join(single) or "nothing"
        ours = "nothing" if decoder else f"{cls} and {sep}"
        note(f"tokenizer.json puts {theirs} around a text, jaxlm {ours}")
