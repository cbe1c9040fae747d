"""A Hugging Face directory ↔ a model: config.json, safetensors, tokenizer files.

    with open_directory(directory) as source:      nothing is read yet
        source.config ; source.table.params(source.read, place)
    write_model(directory, source, tokenizer, dtype)

The same `ModelFile` is what an export writes and what an import reads, so an import
goes from file to file a tensor at a time.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.convert import bert, gpt
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.model_file import ModelFile
from jaxlm.convert.rules import TensorTable, check
from jaxlm.convert.tensors import WEIGHTS, Dtype, Tensors, open_tensors, write_tensors
from jaxlm.families import parameter_shapes
from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.tokenizers import Tokenizer, WordPiece
from jaxlm.text.tokenizers.tokenizer import padded
from jaxlm.types import UserError

_FAMILIES = {"bert": bert, "ernie": bert, "gpt2": gpt, "openai-gpt": gpt}
_CLASSES = {"Bert": "bert", "Ernie": "ernie", "GPT2": "gpt2", "OpenAIGPT": "openai-gpt"}


def from_params(config: ModelConfig, params: Any) -> ModelFile:
    """A model in memory."""
    table = TensorTable(_family(config).rules(config, set(params)), params)
    wanted = parameter_shapes(config)
    missing = tuple(g for g in _family(config).HEADS if g in wanted and g not in params)
    return ModelFile.of(config, table, params, missing)


@contextlib.contextmanager
def open_directory(
    directory: Path, *, pickle: bool = False, ignore: tuple[str, ...] = ()
) -> Iterator[ModelFile]:
    """What a directory holds.

    Args:
        directory: of transformers' layout.
        pickle: weights that are pickles may be read.
        ignore: regular expressions of tensors that need no use.

    Raises:
        UserError: it is of an unknown architecture, or config and tensors do not fit.
    """
    options = ConfigJson(
        directory / "config.json", read_json(directory / "config.json")
    )
    options.values["model_type"] = model_type(options)
    with open_tensors(directory, pickle=pickle) as tensors:
        yield fit_tensors(options, tensors, ignore)


def fit_tensors(
    options: ConfigJson, tensors: Tensors, ignore: tuple[str, ...]
) -> ModelFile:
    """A model of tensors under any of its family's names.

    Raises:
        UserError: config and tensors do not fit each other.
    """
    family: Any = _FAMILIES[options.values["model_type"]]
    names = _named(family, tensors)
    groups = {g for name in names if (g := family.group_of(name))}
    config = family.from_options(options, groups)
    names, notes = _without_copies(config, family, names, tensors)
    dropped = [n for n in names if any(re.fullmatch(each, n) for each in ignore)]
    if dropped:
        notes.append(f"{len(dropped)} tensors ignored as asked: {', '.join(dropped)}")
    names = {name: real for name, real in names.items() if name not in dropped}
    shapes = parameter_shapes(config)
    missing = tuple(g for g in family.HEADS if g in shapes and g not in groups)
    kept = {name: tree for name, tree in shapes.items() if name not in missing}
    table = TensorTable(family.rules(config, set(kept)), kept)
    check(
        table,
        {name: tensors.shapes[real] for name, real in names.items()},
        f"{tensors.source} does not fit {options.path}",
    )
    return ModelFile(
        config, table, lambda name: tensors.read(names[name]), missing, tuple(notes)
    )


def _named(family: ModuleType, tensors: Tensors) -> dict[str, str]:
    """The table's name → the file's, without buffers."""
    names: dict[str, str] = {}
    for real in tensors.shapes:
        name = family.canonical(real)
        if re.fullmatch(family.BUFFERS, name):
            continue
        if name in names:
            raise UserError(f"{tensors.source} has both {names[name]} and {real}")
        names[name] = real
    return names


def _without_copies(
    config: ModelConfig, family: ModuleType, names: dict[str, str], tensors: Tensors
) -> tuple[dict[str, str], list[str]]:
    """`names` without tensors that are tied to others; UserError where they differ."""
    names = dict(names)
    for copy, original in family.copies(config).items():
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
    return names, []


def model_type(options: ConfigJson) -> str:
    """Of a config.json, from its architecture where it does not say.

    Raises:
        UserError: none of ours; the nearest one is named.
    """
    kind = options.values.get("model_type")
    if kind is None:
        name = str((options.values.get("architectures") or [""])[0])
        stem = re.sub(r"(For|LMHead|DoubleHeads|Model).*", "", name)
        kind = _CLASSES.get(stem, name or None)
    if kind in _FAMILIES:
        return str(kind)
    if kind is None:
        raise UserError(f"{options.path} names no model_type: no model's config")
    near = difflib.get_close_matches(str(kind), _FAMILIES, n=1, cutoff=0.3)
    hint = f"the nearest is {near[0]}; " if near else ""
    raise UserError(
        f"{options.path}: model_type {kind!r} is not read: {hint}there are "
        f"{', '.join(_FAMILIES)} and ELMo"
    )


def _family(config: ModelConfig) -> ModuleType:
    match config:
        case BertConfig():
            return bert
        case GptConfig():
            return gpt
    raise UserError("transformers has no ELMo: export --to elmo")


def write_config(
    directory: Path, source: ModelFile, tokenizer: Tokenizer, dtype: Dtype
) -> str:
    """What transformers reads but for the weights, into an empty directory.

    Args:
        directory: to write into.
        source: the model.
        tokenizer: of as many entries as the model.
        dtype: of the tensors.

    Returns:
        The prefix of the names of its tensors.

    Raises:
        UserError: transformers has no such model.
    """
    config, family = source.config, _family(source.config)
    parts = {g for each in source.table.shapes if (g := family.group_of(each))}
    name, prefix = family.written(config, parts)
    end = tokenizer.end_of_document
    options = {
        "architectures": [name],
        **family.to_options(config, end),
        "dtype": dtype,
    }
    if tokenizer.special is not None:
        options["pad_token_id"] = tokenizer.special.pad
    write_json(directory / "config.json", options)
    if isinstance(config, GptConfig):
        generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        write_json(directory / "generation_config.json", generation)
    tokenizer.save(directory)
    settings = directory / "tokenizer_config.json"
    limit = {"model_max_length": config.max_length}
    write_json(settings, {**read_json(settings), **limit})
    return prefix


def write_model(
    directory: Path, source: ModelFile, tokenizer: Tokenizer, dtype: Dtype = "float32"
) -> str:
    """What transformers loads, into an empty directory.

    Args:
        directory: see `write_config`.
        source: likewise.
        tokenizer: likewise.
        dtype: likewise.

    Returns:
        SHA-256 of the file of weights.

    Raises:
        UserError: transformers has no such model, or `dtype` cannot hold a value.
    """
    prefix = write_config(directory, source, tokenizer, dtype)
    named = {
        (each if each.startswith("cls.") else prefix + each): each
        for each in source.table.shapes
    }
    shapes = {theirs: source.table.shapes[ours] for theirs, ours in named.items()}
    return write_tensors(
        directory / WEIGHTS, shapes, lambda each: source.read(named[each]), dtype
    )


def write_sentence_modules(directory: Path, config: ModelConfig) -> None:
    """What makes a model directory one of sentence-transformers: mean, then length 1.

    Its mean is over [CLS] and [SEP] too: `embed --pooling sentence` here.
    """
    module = "sentence_transformers.models"
    steps = (
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Normalize", "2_Normalize"),
    )
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{module}.{name}"}
        for i, (name, path) in enumerate(steps)
    ]
    write_json(directory / "modules.json", modules)
    (directory / "1_Pooling").mkdir()
    (directory / "2_Normalize").mkdir()
    pooling = {
        "word_embedding_dimension": config.d_model,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    write_json(directory / "1_Pooling" / "config.json", pooling)
    length = {"max_seq_length": config.max_length, "do_lower_case": False}
    write_json(directory / "sentence_bert_config.json", length)


def pad_vocabulary(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """`tokenizer` with `[unusedN]` entries up to the rows of a model's table.

    Raises:
        UserError: it has more entries than the model, or is of a kind that cannot grow.
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
