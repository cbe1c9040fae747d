"""Weights of other programs: import, export, and comparison with those programs.

Imports nothing heavy, because the command line imports this file.
"""

from typing import Literal

Format = Literal["hf", "sentence", "elmo", "gguf", "onnx", "stablehlo"]
Dtype = Literal["float32", "bfloat16", "float16"]
READABLE = ("hf", "sentence", "elmo")  # formats that jaxlm reads, too
