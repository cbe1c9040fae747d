"""From text to a pretrained ELMo, BERT, ERNIE or GPT, in one small JAX code base."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxlm.open import Model

__version__ = "0.1.0"


def load(directory: str | Path, *, step: int | None = None) -> "Model":
    """The model of a run or model directory; see `jaxlm.open.Model`.

    `step` names a checkpoint that a run keeps; by default the newest.
    """
    from jaxlm.open import load

    return load(directory, step=step)
