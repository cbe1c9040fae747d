"""Weights of other programs: import, export, and comparison with those programs.

Imports nothing heavy, because the command line imports this file.
"""

import importlib
from typing import Any, Literal

from jaxlm.types import UserError

Format = Literal["hf", "sentence", "elmo", "gguf", "onnx", "stablehlo"]
Dtype = Literal["float32", "bfloat16", "float16"]
READABLE = ("hf", "sentence", "elmo")  # formats that jaxlm reads, too


def optional(module: str, use: str, package: str = "") -> Any:
    """An optional module; if it is missing, a UserError names `use` and `package`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        command = f"pip install {package or module}"
        raise UserError(f"{use} needs {module}: {command}") from None
