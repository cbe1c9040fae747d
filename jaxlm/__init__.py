"""From text to a pretrained ELMo, BERT, ERNIE or GPT, in one small JAX code base.

    run = jaxlm.pretrain("bert_modern_tiny", text="books/*.txt", workdir="runs/a")
    model = jaxlm.load("runs/a")
    model.fill("She was very [MASK] to see him.")

The functions are verbs of the command line and take its flags: `jaxlm help` lists them.
What they return is described in `help(jaxlm.Model)` and `help(jaxlm.Run)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxlm.api import (
    evaluate,
    export,
    finetune,
    import_,
    load,
    predict,
    prepare,
    pretrain,
)
from jaxlm.types import Note, UserError

if TYPE_CHECKING:
    from jaxlm.generate.sampling import Sampling
    from jaxlm.open import Model, Run

__version__ = "0.1.0"
__all__ = [
    "Model",
    "Note",
    "Run",
    "Sampling",
    "UserError",
    "evaluate",
    "export",
    "finetune",
    "import_",
    "load",
    "predict",
    "prepare",
    "pretrain",
]
_LATER = {"Model": "open", "Run": "open", "Sampling": "generate.sampling"}


def __getattr__(name: str) -> Any:
    """The classes that import JAX, when they are asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")
    return getattr(import_module(f"jaxlm.{_LATER[name]}"), name)
