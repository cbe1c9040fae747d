"""The originals' own files: TensorFlow checkpoints of BERT, numpy archives of GPT-1.

google-research/bert: `bert_config.json`, `bert_model.ckpt.index` and its data, read by
TensorFlow where it is installed. openai/finetune-transformer-lm: `params_shapes.json`
and `params_0.npy` … `params_9.npy`, one vector of all weights in ten pieces. Both
become tensors by transformers' names, which the family's table then takes.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.checkpoints.leaf_files import first_line
from jaxlm.convert import optional
from jaxlm.convert.model_types import ConfigJson
from jaxlm.convert.tensors import Tensors, finite
from jaxlm.text.json_files import read_json
from jaxlm.types import UserError

BERT_CONFIG, GPT1_SHAPES = "bert_config.json", "params_shapes.json"
_HEAD = 64  # width of a head in every GPT-1; its files do not say
_LAYER = ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")


def checkpoint_of(directory: Path) -> Path | None:
    """The prefix of a directory's TensorFlow checkpoint of a BERT, if it has one."""
    found = sorted(directory.glob("*.ckpt*.index"))
    known = (directory / BERT_CONFIG).is_file()
    return found[0].with_suffix("") if known and len(found) == 1 else None


def read_checkpoint(prefix: Path) -> tuple[ConfigJson, Tensors]:
    """A TensorFlow checkpoint, without its optimiser's slots."""
    path = prefix.parent / BERT_CONFIG
    options = ConfigJson(path, {**read_json(path), "model_type": "bert"})
    tf = optional("tensorflow", f"reading {prefix}.index", "tensorflow-cpu")
    try:
        reader: Any = tf.train.load_checkpoint(str(prefix))
        found: dict[str, list[int]] = reader.get_variable_to_shape_map()
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{prefix} cannot be read as a checkpoint: {reason}") from None
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

    def read(name: str) -> np.ndarray:
        try:
            array = reader.get_tensor(names[name])
        except Exception as error:
            what = f"{prefix}: {names[name]} cannot be read"
            raise UserError(f"{what}: {first_line(error)}") from None
        return finite(name, array.T if name in kernels else array, prefix)

    return options, Tensors(prefix, shapes, read)


def _by_transformers(name: str) -> str:
    """bert/encoder/layer_0/output/dense/bias → encoder.layer.0.output.dense.bias."""
    name = re.sub(r"layer_(\d+)", r"layer.\1", name.removeprefix("bert/"))
    name = name.replace("seq_relationship/output_weights", "seq_relationship/weight")
    name = name.replace("output_bias", "bias")
    name = re.sub(r"/(kernel|gamma)$", "/weight", name)
    name = re.sub(r"/beta$", "/bias", name)
    if name.endswith("_embeddings"):
        name += "/weight"
    return name.replace("/", ".")


def read_numpy(directory: Path) -> tuple[ConfigJson, Tensors]:
    """GPT-1's release: ten arrays and the shapes of its tensors."""
    path = directory / GPT1_SHAPES
    files = [directory / f"params_{i}.npy" for i in range(10)]
    try:
        shapes = [tuple(map(int, shape)) for shape in json.loads(path.read_text())]
        flat = np.concatenate([np.load(file).reshape(-1) for file in files])
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{directory} is no GPT-1 of OpenAI's: {error}") from None
    layers, rest = divmod(len(shapes) - 2, 12)
    ends = np.cumsum([*map(math.prod, shapes)]).tolist()
    if rest or layers < 1 or flat.size != ends[-1]:
        raise UserError(
            f"{directory}: {len(shapes)} tensors are not two tables and twelve a layer,"
            f" or {flat.size:,} numbers are not the {ends[-1]:,} of {GPT1_SHAPES}"
        )
    names = ["positions_embed.weight", "tokens_embed.weight"]
    names += [
        f"h.{i}.{part}.{leaf}"
        for i in range(layers)
        for part in _LAYER
        for leaf in ("weight", "bias")
    ]
    arrays = {
        # Convolutions of width 1 have an axis for it.
        name: part.reshape(shape[1:] if len(shape) == 3 else shape)
        for name, part, shape in zip(
            names, np.split(flat, ends[:-1]), shapes, strict=True
        )
    }
    (positions, width), (words, _) = shapes[:2]
    options = {
        "model_type": "openai-gpt",
        "vocab_size": words,
        "n_positions": positions,
        "n_embd": width,
        "n_layer": layers,
        "n_head": width // _HEAD,
    }
    tensors = Tensors(
        directory,
        {name: array.shape for name, array in arrays.items()},
        lambda name: finite(name, arrays[name], directory),
    )
    return ConfigJson(path, options), tensors
