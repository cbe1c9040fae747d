"""Weights of other frameworks: what a family is called and how it lies in a file.

Imports nothing heavy: the command line reads its names.
"""

from typing import Literal

Format = Literal["hf", "sentence", "elmo", "gguf", "onnx", "stablehlo"]
Dtype = Literal["float32", "bfloat16", "float16"]
READABLE = ("hf", "sentence", "elmo")  # formats that jaxlm reads, too
