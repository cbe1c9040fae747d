"""A Hugging Face directory ↔ a model: config.json, safetensors, tokenizer files.

    with open_directory(directory) as source:      nothing is read yet
        source.config ; source.params(place)
    write_model(directory, source, tokenizer, dtype)

An export writes what an import reads, a `ModelFile`, so an import goes from file to
file a tensor at a time. Next: `model_directory.py` tells layouts apart.
"""

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxlm.config.model import BertConfig, GptConfig, ModelConfig
from jaxlm.convert import Dtype, bert, gpt
from jaxlm.convert.config_json import ConfigJson
from jaxlm.convert.rules import ModelFile, Rule, TensorTable
from jaxlm.convert.tensors import WEIGHTS, Tensors, open_tensors, write_tensors
from jaxlm.families import parameter_shapes
from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.tokenizers import Tokenizer, WordPiece
from jaxlm.text.tokenizers.tokenizer import padded
from jaxlm.types import UserError

_MODULES = {"bert": bert, "ernie": bert, "gpt2": gpt, "openai-gpt": gpt}
_STEMS = {"bert": "Bert", "ernie": "Ernie", "gpt2": "GPT2", "openai-gpt": "OpenAIGPT"}
# Tensors above the encoder: those of a BERT's and those of a task's head.
_BARE = ("cls.", "classifier.", "qa_outputs.", "score.", "multiple_choice_head.")


def module_of(config: ModelConfig) -> Any:
    """The module with the table of a config's family; UserError for an ELMo."""
    match config:
        case BertConfig():
            return bert
        case GptConfig():
            return gpt
    raise UserError("transformers has no ELMo: export --to elmo")


def from_params(
    config: ModelConfig, params: Any, head: Sequence[Rule] = ()
) -> ModelFile:
    """A model in memory or on disk; `head` has the rules of a task's head."""
    module = module_of(config)
    table = TensorTable([*module.rules(config, set(params)), *head], params)
    lacking = parameter_shapes(config).keys() - params.keys()
    missing = tuple(name for name in module.HEADS if name in lacking and not head)
    return ModelFile.of(config, table, params, missing)


@contextlib.contextmanager
def open_directory(
    directory: Path, *, pickle: bool = False, ignore: tuple[str, ...] = ()
) -> Iterator[ModelFile]:
    """The model of a directory in transformers' layout; see `import_model`.

    Raises:
        UserError: its architecture is unknown, or config and tensors do not fit.
    """
    path = directory / "config.json"
    options = ConfigJson(path, read_json(path))
    options.values["model_type"] = _model_type(options)
    with open_tensors(directory, pickle=pickle) as tensors:
        yield fit_tensors(options, tensors, ignore)


def _model_type(options: ConfigJson) -> str:
    """The model_type of a config.json, or that of its architecture.

    Raises:
        UserError: jaxlm does not read it; the nearest one is named.
    """
    kind = options.values.get("model_type")
    if kind is None:
        name = str((options.values.get("architectures") or [""])[0])
        stem = re.sub(r"(For|LMHead|DoubleHeads|Model).*", "", name)
        kinds = {stem: kind for kind, stem in _STEMS.items()}
        kind = kinds.get(stem, name or None)
    if kind in _MODULES:
        return str(kind)
    if kind is None:
        raise UserError(f"{options.path} names no model_type: no model's config")
    near = difflib.get_close_matches(str(kind), _MODULES, n=1, cutoff=0.3)
    hint = f"the nearest is {near[0]}; " if near else ""
    raise UserError(
        f"{options.path}: model_type {kind!r} is not read: {hint}there are "
        f"{', '.join(_MODULES)} and ELMo"
    )


def fit_tensors(
    options: ConfigJson, tensors: Tensors, ignore: tuple[str, ...]
) -> ModelFile:
    """The model of a config.json and of tensors under any of its family's names.

    Raises:
        UserError: config and tensors do not fit each other.
    """
    module: Any = _MODULES[options.values["model_type"]]
    names = _canonical_names(module, tensors)
    parts = {part for name in names if (part := module.part_of(name))}
    config = module.from_options(options, parts)
    _drop_copies(module.copies(config), names, tensors)
    ignored = [n for n in names if any(re.fullmatch(each, n) for each in ignore)]
    for name in ignored:
        del names[name]
    notes = [f"{len(ignored)} tensors ignored as asked: {', '.join(ignored)}"]
    shapes = parameter_shapes(config)
    missing = tuple(g for g in module.HEADS if g in shapes and g not in parts)
    kept = {name: tree for name, tree in shapes.items() if name not in missing}
    table = TensorTable(module.rules(config, set(kept)), kept)
    table.check(
        {name: tensors.shapes[real] for name, real in names.items()},
        f"{tensors.source} does not fit {options.path}",
    )
    return ModelFile(
        config,
        table,
        lambda name: tensors.read(names[name]),
        missing,
        tuple(notes if ignored else ()),
    )


def _canonical_names(module: ModuleType, tensors: Tensors) -> dict[str, str]:
    """The table's name → the file's, without buffers."""
    names: dict[str, str] = {}
    for real in tensors.shapes:
        name = module.canonical(real)
        if re.fullmatch(module.BUFFERS, name):
            continue
        if name in names:
            raise UserError(f"{tensors.source} has both {names[name]} and {real}")
        names[name] = real
    return names


def _drop_copies(
    copies: dict[str, str], names: dict[str, str], tensors: Tensors
) -> None:
    """Remove tensors that repeat others from `names`; UserError where they differ."""
    for copy, original in copies.items():
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


def write_config(
    directory: Path,
    source: ModelFile,
    tokenizer: Tokenizer,
    dtype: Dtype,
    head: str = "",
) -> str:
    """Write what transformers reads beside the weights; the prefix of tensors' names.

    Args:
        directory: an empty one.
        source: the model.
        tokenizer: with as many entries as the model.
        dtype: of the tensors.
        head: end of the class's name, where a task's head is above the encoder.

    Raises:
        UserError: transformers has no such model.
    """
    config, module = source.config, module_of(source.config)
    kind = module.model_type(config)
    parts = {part for name in source.table.shapes if (part := module.part_of(name))}
    name, prefix = module.architecture(config, parts)
    end = tokenizer.end_of_document
    options = {
        "architectures": [f"{_STEMS[kind]}{head or name}"],
        **module.to_options(config, end),
        "dtype": dtype,
    }
    if tokenizer.special is not None:
        options["pad_token_id"] = tokenizer.special.pad
    write_json(directory / "config.json", options)
    if isinstance(config, GptConfig):
        generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        write_json(directory / "generation_config.json", generation)
    tokenizer.save(directory)
    edit_json(directory / "tokenizer_config.json", model_max_length=config.max_length)
    return prefix or (f"{kind}." if head else "")


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file."""
    write_json(path, {**read_json(path), **changes})


def write_model(
    directory: Path,
    source: ModelFile,
    tokenizer: Tokenizer,
    dtype: Dtype = "float32",
    head: str = "",
) -> None:
    """Write what transformers loads: see `write_config`."""
    prefix = write_config(directory, source, tokenizer, dtype, head)
    shapes = source.table.shapes
    ours = {n if n.startswith(_BARE) else prefix + n: n for n in shapes}
    write_tensors(
        directory / WEIGHTS,
        {theirs: shapes[name] for theirs, name in ours.items()},
        lambda theirs: source.read(ours[theirs]),
        dtype,
    )


def write_sentence_modules(directory: Path, config: ModelConfig) -> None:
    """Write what makes a model directory one of sentence-transformers.

    Its vectors are means of all tokens, [CLS] and [SEP] among them, scaled to length 1:
    `embed --pooling sentence` here.
    """
    steps = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    kind = "sentence_transformers.models"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{kind}.{name}"}
        for i, (name, path) in enumerate(steps.items())
    ]
    for path in steps.values():
        (directory / path).mkdir(exist_ok=True)
    pooling = {
        "word_embedding_dimension": config.d_model,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    length = {"max_seq_length": config.max_length, "do_lower_case": False}
    write_json(directory / "modules.json", modules)
    write_json(directory / "1_Pooling" / "config.json", pooling)
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
