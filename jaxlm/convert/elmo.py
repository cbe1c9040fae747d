"""bilm-tf's and AllenNLP's `options.json` and `weights.hdf5` ↔ config and parameters.

    with open_elmo(options, weights) as source:      nothing is read yet
        source.config ; source.params(place)
    write_elmo(directory, source, tokenizer)

The file has a dataset for each leaf, layer and direction. They are TensorFlow's
variables: the columns of the kernel are the gates i, j, f, o in blocks, and the bias of
the forget gate excludes the 1 that the cell adds. The table of characters has 261 rows,
for all ids of `text/characters.py` except 0. The files do not have the softmax, so the
config's vocabulary is 0.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.config.model import ElmoConfig
from jaxlm.convert.hdf5 import read_hdf5, write_hdf5
from jaxlm.convert.rules import ModelFile, Rule, TensorTable
from jaxlm.convert.tensors import finite, named
from jaxlm.families import parameter_shapes
from jaxlm.families.elmo import with_words
from jaxlm.files import read_json, write_json
from jaxlm.models.elmo import CHARACTERS
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.text.tokenizers.tokenizer import OPTIONS_FILE, read_vocabulary
from jaxlm.text.tokenizers.words import MARKS, WordVocab
from jaxlm.types import UserError

WEIGHTS, OPTIONS = "weights.hdf5", "options.json"
# An option → our field, and its value where the option is absent; None: it is required.
_FIELDS: dict[str, tuple[str, Any]] = {
    "lstm.use_skip_connections": ("skip", False),
    "lstm.projection_dim": ("d_model", None),
    "lstm.cell_clip": ("cell_clip", 0.0),
    "lstm.proj_clip": ("proj_clip", 0.0),
    "lstm.dim": ("d_ff", None),
    "lstm.n_layers": ("num_layers", 1),
    "char_cnn.activation": ("activation", None),
    "char_cnn.filters": ("filters", None),
    "char_cnn.n_highway": ("num_highways", 0),
    "char_cnn.embedding.dim": ("d_character", None),
    "char_cnn.n_characters": ("n_characters", None),
    "char_cnn.max_characters_per_token": ("max_characters", None),
    "dropout": ("dropout", 0.1),
}


@contextlib.contextmanager
def open_elmo(options: Path, weights: Path) -> Iterator[ModelFile]:
    """The model in two files, whose datasets are read on request.

    The options may be those of training (261 characters) or of inference (262).
    """
    config = read_options(options)
    table = _table(config)
    with read_hdf5(weights) as found:
        shapes = {name: each.shape for name, each in found.items()}
        what = f"{weights} does not fit its options"
        if shapes.get("char_embed", (0,))[0] == CHARACTERS + 1:
            what += (
                f" (its table has {CHARACTERS + 1} characters: a model trained with "
                f"n_characters = {CHARACTERS + 1}, which reads every word one byte off)"
            )
        table.check(shapes, what)

        def read(name: str) -> np.ndarray:
            with named(f"{weights}: {name} cannot be read"):
                array = found[name][...]
            return finite(name, array, weights)

        yield ModelFile(config, table, read)


def files_of(directory: Path) -> tuple[Path, Path] | None:
    """The options and weights of a directory, by their usual names, or None."""
    options = sorted(directory.glob("*options.json"))
    usual = directory / WEIGHTS
    weights = [usual] if usual.is_file() else sorted(directory.glob("*weights.hdf5"))
    return (options[0], weights[0]) if len(options) == len(weights) == 1 else None


def words_of(files: Path, words: str = "") -> Tokenizer:
    """The tokenizer of a model directory or of a file of words.

    Words are cut as `words` says, else as the vocabulary was saved, else by BERT's
    rules. The file may lack the marks: without a softmax their ids are not used.
    """
    path = files / "vocab.txt" if files.is_dir() else files
    if (files / OPTIONS_FILE).is_file():
        return with_words(load_tokenizer(files), words)
    if not (path.is_file() or files_of(files)):
        raise UserError(f"{files} has no list of words, vocab.txt")
    found = read_vocabulary(path) if path.is_file() else ()
    return WordVocab(
        (*MARKS, *(w for w in found if w not in MARKS)), words=words or "basic"
    )


def read_options(path: Path) -> ElmoConfig:
    """The config that an `options.json` describes."""
    options = read_json(path)
    try:
        found = {
            ours: _option(options, name, default)
            for name, (ours, default) in _FIELDS.items()
        }
        count = found.pop("n_characters")
        found["filters"] = _by_width(found["filters"], found["max_characters"])
        config = ElmoConfig(vocab_size=0, **found)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as options: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except KeyError as error:
        raise UserError(f"{path} has no option {error}") from None
    # One table, two counts: training counts 261 characters, use counts a padding too.
    if count not in (CHARACTERS, CHARACTERS + 1):
        usual = f"it is {CHARACTERS} in training and {CHARACTERS + 1} in use"
        raise UserError(f"{path}: n_characters = {count}, {usual}")
    if config.d_ff <= config.d_model:
        sizes = f"lstm.dim = {config.d_ff}, projection_dim = {config.d_model}"
        raise UserError(f"{path}: {sizes}: LSTMs without a projection are not read")
    return config


def _option(options: Any, name: str, default: Any) -> Any:
    *outer, last = name.split(".")
    for key in outer:
        options = options[key]
    value = options[last] if default is None else options.get(last)
    if value is None:
        return default
    return type(default)(value) if isinstance(default, bool | float) else value


def _by_width(pairs: list[list[int]], longest: int) -> tuple[int, ...]:
    """The numbers of filters over 1, 2, 3 … characters; `pairs` are width and number,
    `longest` are the characters of a word."""
    filters = {width: number for width, number in pairs}
    widths = [width for width, _ in pairs]
    most = max(widths, default=0)
    if widths != sorted(filters) or min(widths, default=1) < 1:
        raise UserError(f"filters have widths {widths}, not ascending ones")
    if most > longest:
        raise UserError(f"a filter is {most} characters wide, longer than any word")
    return tuple(filters.get(n, 0) for n in range(1, most + 1))


def from_params(config: ElmoConfig, params: Any) -> ModelFile:
    """A model's parameters as the tensors of its files, without the softmax."""
    return ModelFile.of(config, _table(config), params)


def _table(config: ElmoConfig) -> TensorTable:
    """The table leaves ↔ datasets, without the softmax."""
    cell = "RNN_{1}/RNN/MultiRNNCell/Cell{0}/LSTMCell"
    rules = [
        Rule(("words/embed/table",), "char_embed", inputs=1),
        Rule(("layers/kernel",), f"{cell}/W_0", inputs=1),
        Rule(("layers/bias",), f"{cell}/B"),
        Rule(("layers/projection",), f"{cell}/W_P_0", inputs=1),
    ]

    def dense(ours: str, weight: str, bias: str, **kernel: Any) -> None:
        rules.append(Rule((f"words/{ours}/kernel",), weight, **kernel))
        rules.append(Rule((f"words/{ours}/bias",), bias))

    filters = [(w, n) for w, n in enumerate(config.filters, start=1) if n]
    for i, (width, number) in enumerate(filters):
        shape = (1, width, config.d_character, number)
        dense(f"filters_{width}", f"CNN/W_cnn_{i}", f"CNN/b_cnn_{i}", view=shape)
    for gate in ("carry", "transform") if config.num_highways else ():
        at = "CNN_high_{0}"
        dense(f"highways/{gate}", f"{at}/W_{gate}", f"{at}/b_{gate}", inputs=1)
    if sum(config.filters) != config.d_model:
        dense("projection", "CNN_proj/W_proj", "CNN_proj/b_proj", inputs=1)
    shapes = parameter_shapes(config)
    return TensorTable(rules, {name: shapes[name] for name in ("words", "layers")})


def write_elmo(directory: Path, source: ModelFile, tokenizer: Tokenizer) -> None:
    """Write the files that AllenNLP and bilm-tf read, and the words for jaxlm."""
    config: Any = source.config
    values = {**vars(config), "n_characters": CHARACTERS + 1}  # as for using a model
    values["filters"] = [[w, n] for w, n in enumerate(config.filters, 1) if n]
    options: dict[str, Any] = {}
    for name, (ours, _) in _FIELDS.items():
        *outer, last = name.split(".")
        inner = options
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = values[ours]
    write_json(directory / OPTIONS, options)
    with write_hdf5(directory / WEIGHTS) as put:
        for name in source.table.shapes:
            put(name, source.read(name).astype(np.float32, copy=False))
    tokenizer.save(directory)
