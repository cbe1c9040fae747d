"""Weights of other frameworks: what a family is called and how it lies in a file.

Imports nothing heavy: the command line reads its names.
"""

import importlib
from typing import Any, Literal

from jaxlm.types import UserError

Format = Literal["hf", "sentence", "elmo", "gguf", "onnx", "stablehlo"]
Dtype = Literal["float32", "bfloat16", "float16"]
READABLE = ("hf", "sentence", "elmo")  # formats that jaxlm reads, too


def optional(module: str, use: str, package: str = "") -> Any:
    """The module that `use` needs; a UserError says which `package` has it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        command = f"pip install {package or module}"
        raise UserError(f"{use} needs {module}: {command}") from None
