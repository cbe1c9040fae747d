"""Tensors on disk → arrays by transformers' names; arrays → a safetensors file.

    with open_tensors(directory) as tensors:      nothing is read yet
        tensors.shapes ; tensors.read(name)
    read_checkpoint(prefix)                       google-research/bert: bert_config.json
                                                  and a checkpoint of TensorFlow
    read_numpy(directory)                         openai/finetune-transformer-lm: one
                                                  vector in params_0.npy … params_9.npy
    write_tensors(path, shapes, make, dtype)      one tensor in memory at a time

No code from a file is run here: a pickle is read only on request, and only by torch's
weights-only loader. Next: `rules.py`, which maps the arrays to parameters.
"""

import contextlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import safe_open

from jaxlm.checkpoints.leaf_files import first_line
from jaxlm.config.checks import optional
from jaxlm.convert import Dtype
from jaxlm.convert.config_json import ConfigJson
from jaxlm.files import read_json
from jaxlm.types import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt")

BERT_CONFIG, GPT1_SHAPES = "bert_config.json", "params_shapes.json"
_HEAD = 64  # width of a head in every GPT-1; its files do not say
_LAYER = ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")
_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_FLOATS = {"F64", *_NAMES.values()}


class Tensors(NamedTuple):
    """The tensors of a model by name, each read on request."""

    source: Path  # named in messages
    shapes: dict[str, tuple[int, ...]]
    get: Callable[[str], np.ndarray]

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32; UserError if an element is NaN or infinite."""
        return finite(name, self.get(name), self.source)


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Make a library's error a UserError of one line: `what`, then the reason."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what}: {first_line(error)}") from None


@contextlib.contextmanager
def open_tensors(directory: Path, *, pickle: bool = False) -> Iterator[Tensors]:
    """The tensors of a model directory: one file, parts with an index, or a pickle."""
    if (directory / WEIGHTS).is_file():
        files: dict[Path, set[str]] = {directory / WEIGHTS: set()}
    elif (directory / INDEX).is_file():
        files = _parts(directory)
    else:
        yield _pickled(directory, pickle)
        return
    where: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with contextlib.ExitStack() as stack:
        for path, indexed in files.items():
            _check_fetched(path)
            with named(f"{path} is not a sound safetensors file"):
                # Not mapped: the pages would count as memory of this process.
                file = safe_open(path, framework="np", backend="pread")
                names = set(stack.enter_context(file).keys())
            for name in sorted(indexed - names):
                raise UserError(f"{directory / INDEX}: {name} is not in {path.name}")
            for name in sorted(indexed or names):
                part = file.get_slice(name)
                if part.get_dtype() in _FLOATS:
                    where[name] = file
                    shapes[name] = tuple(part.get_shape())
        source = directory / WEIGHTS
        yield Tensors(source, shapes, lambda name: where[name].get_tensor(name))


def _check_fetched(path: Path) -> None:
    """Refuse a Git LFS pointer, which a clone has in place of a large file."""
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise UserError(f"{path} is a Git LFS pointer: get it by git lfs pull")


def _parts(directory: Path) -> dict[Path, set[str]]:
    """File → names of its tensors, from the index."""
    index = directory / INDEX
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} has no weight_map")
    files: dict[Path, set[str]] = {}
    for tensor, file in names.items():
        if not isinstance(file, str) or PurePosixPath(file).name != file:
            what = "not the name of a file beside it"
            raise UserError(f"{index} puts {tensor} into {file!r}: {what}")
        if not (directory / file).is_file():
            raise UserError(f"{index} names {file}, which is not there")
        files.setdefault(directory / file, set()).add(tensor)
    return files


def _pickled(directory: Path, allowed: bool) -> Tensors:
    found = [name for name in PICKLES if (directory / name).is_file()]
    if not found:
        raise UserError(f"{directory} has no weights: neither {WEIGHTS} nor {INDEX}")
    path = directory / found[0]
    _check_fetched(path)
    if not allowed:
        raise UserError(
            f"{path} is a pickle, which can run code as it is read: take safetensors, "
            "or pass --allow-pickle to read it by torch's weights-only loader"
        )
    if path.suffix == ".json":
        raise UserError(f"{path}: pickles in parts are not read; join them first")
    torch = optional("torch", f"reading {path}")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        this = f"torch {torch.__version__} runs code even of weights-only pickles"
        raise UserError(f"{this} (CVE-2025-32434): pip install 'torch>=2.6'")
    with named(f"{path} is refused by torch's loader"):
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not tensors by name")
    tensors = {
        name: each
        for name, each in state.items()
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    }
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    return Tensors(path, shapes, lambda name: tensors[name].float().numpy())


def checkpoint_of(directory: Path) -> Path | None:
    """The prefix of the TensorFlow checkpoint of a BERT in a directory, or None."""
    found = sorted(directory.glob("*.ckpt*.index"))
    known = (directory / BERT_CONFIG).is_file()
    return found[0].with_suffix("") if known and len(found) == 1 else None


def read_checkpoint(prefix: Path) -> tuple[ConfigJson, Tensors]:
    """The config and tensors of a TensorFlow checkpoint, without optimiser slots."""
    path = prefix.parent / BERT_CONFIG
    options = ConfigJson(path, {**read_json(path), "model_type": "bert"})
    tf = optional("tensorflow", f"reading {prefix}.index", "tensorflow-cpu")
    with named(f"{prefix} cannot be read as a checkpoint"):
        reader: Any = tf.train.load_checkpoint(str(prefix))
        found: dict[str, list[int]] = reader.get_variable_to_shape_map()
    names = {
        _by_transformers(name): name
        for name in found
        if not re.search(r"/adam_[mv]$|^global_step$", name)
    }
    kernels = {name for name, real in names.items() if real.endswith("/kernel")}
    shapes = {
        name: tuple(found[real][:: -1 if name in kernels else 1])
        for name, real in names.items()
    }

    def get(name: str) -> np.ndarray:
        with named(f"{prefix}: {names[name]} cannot be read"):
            array = reader.get_tensor(names[name])
        return array.T if name in kernels else array

    return options, Tensors(prefix, shapes, get)


def _by_transformers(name: str) -> str:
    """TensorFlow's name → transformers': bert/encoder/layer_0/… → encoder.layer.0.…"""
    name = re.sub(r"layer_(\d+)", r"layer.\1", name.removeprefix("bert/"))
    name = re.sub(r"/(kernel|gamma|output_weights)$", "/weight", name)
    name = re.sub(r"/(beta|output_bias)$", "/bias", name)
    name = re.sub(r"_embeddings$", "_embeddings/weight", name)
    return name.replace("/", ".")


def read_numpy(directory: Path) -> tuple[ConfigJson, Tensors]:
    """The config and tensors of GPT-1's release: ten arrays, and a file of shapes."""
    path = directory / GPT1_SHAPES
    files = [directory / f"params_{i}.npy" for i in range(10)]
    shapes = read_json(path, list)
    try:
        shapes = [tuple(map(int, shape)) for shape in shapes]
        # Mapped: no size in a header is believed, and no pickle is read.
        parts = [np.lib.format.open_memmap(file, mode="r") for file in files]
        flat = np.concatenate([part.reshape(-1) for part in parts])
        odd = min(map(min, shapes)) < 1 or {2} != {len(each) for each in shapes[:2]}
        odd |= any(len(each) == 3 and each[0] != 1 for each in shapes)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{directory} is not OpenAI's GPT-1: {error}") from None
    layers, rest = divmod(len(shapes) - 2, 12)
    ends = np.cumsum([*map(math.prod, shapes)]).tolist()
    if odd or rest or layers < 1 or flat.size != ends[-1]:
        raise UserError(
            f"{directory}: {len(shapes)} tensors are not two tables and twelve a layer,"
            f" or {flat.size:,} numbers are not the {ends[-1]:,} of {GPT1_SHAPES}"
        )
    names = ["positions_embed.weight", "tokens_embed.weight"]
    every = itertools.product(range(layers), _LAYER, ("weight", "bias"))
    names += [f"h.{i}.{part}.{leaf}" for i, part, leaf in every]
    parts = zip(names, np.split(flat, ends[:-1]), shapes, strict=True)
    # Convolutions of width 1 have an axis for it.
    arrays = {name: part.reshape(shape[-2:]) for name, part, shape in parts}
    (positions, width), (words, _) = shapes[:2]
    options = {
        "model_type": "openai-gpt",
        "vocab_size": words,
        "n_positions": positions,
        "n_embd": width,
        "n_layer": layers,
        "n_head": width // _HEAD,
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    return ConfigJson(path, options), Tensors(directory, shapes, arrays.__getitem__)


def finite(name: str, array: np.ndarray, source: Path) -> np.ndarray:
    """`array` in float32; UserError if an element is NaN or infinite."""
    with np.errstate(over="ignore"):
        array = np.asarray(array, np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        which = f"{bad:,} of {array.size:,} elements of {name}"
        raise UserError(f"{source}: {which} are NaN or infinite")
    return array


def cast(name: str, array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """`array` cast to `dtype`; UserError if an element is too large for it."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(over="ignore"):
        out = array.astype(kind, copy=False)
    if dtype == "float16" and not np.isfinite(out).all():
        worst = np.abs(array).max()
        raise UserError(f"{name} reaches {worst:.3g}, float16 65504: take bfloat16")
    return out


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[str], np.ndarray],
    dtype: Dtype,
) -> None:
    """Write a safetensors file in the order of `shapes`.

    `make` returns a tensor by name. One tensor is in memory at a time; the library's
    writer needs all. The format is the length of the header in eight bytes, the header
    in JSON, and the tensors without gaps.
    """
    size, end = (4 if dtype == "float32" else 2), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        offsets = [end, end := end + size * math.prod(shape)]
        each = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": offsets}
        header[name] = each
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            array = cast(name, make(name), dtype)
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
