"""One entry for every format that a model goes out in: `jaxlm export --to`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jaxlm.config.model import ElmoConfig, ModelConfig
from jaxlm.convert import Dtype, Format
from jaxlm.convert.gguf import export_gguf
from jaxlm.convert.huggingface import write_sentence_modules
from jaxlm.convert.model_directory import (
    encoder_from_params,
    export_model,
    from_params,
)
from jaxlm.convert.onnx import export_onnx
from jaxlm.convert.stablehlo import export_stablehlo
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

_FLOAT32 = ("elmo", "onnx", "stablehlo")


def export(
    out: Path,
    to: Format,
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    *,
    dtype: Dtype = "float32",
    origin: dict[str, Any],
) -> dict[str, str]:
    """Write a model, whole or not at all: name → SHA-256 of every file.

    Args:
        out: a directory, or a file for gguf and stablehlo.
        to: the format.
        config: of the model.
        params: of the model, in memory; on disk only for a format that jaxlm reads.
        tokenizer: of the model.
        dtype: of the weights.
        origin: where the model comes from.

    Raises:
        UserError: the model has no such form, or a library is not installed.
    """
    if to in _FLOAT32 and dtype != "float32":
        raise UserError(f"dtype {dtype}: --to {to} writes float32")
    if isinstance(config, ElmoConfig):
        if to != "elmo":
            raise UserError(f"an ELMo has no form --to {to}: pass --to elmo")
    elif to == "elmo":
        raise UserError("a model that is no ELMo has no form --to elmo: pass --to hf")
    elif to == "stablehlo":
        return export_stablehlo(out, config, params)
    elif to == "onnx":
        return export_onnx(out, config, params, tokenizer, origin)
    elif to == "gguf":
        return export_gguf(out, config, params, tokenizer, dtype, origin)
    elif to == "sentence":
        source = encoder_from_params(config, params)
        finish = functools.partial(write_sentence_modules, config=config)
        return export_model(
            out, source, tokenizer, dtype=dtype, origin=origin, finish=finish
        )
    source = from_params(config, params)
    return export_model(out, source, tokenizer, dtype=dtype, origin=origin)
