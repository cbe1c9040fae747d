"""From text to a pretrained ELMo, BERT, ERNIE or GPT, in one small JAX code base."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxlm.open import Model

__version__ = "0.1.0"


def load(*args: Any, **named: Any) -> "Model":
    """The model of a run or model directory; see `jaxlm.open.Model`."""
    from jaxlm.open import load

    return load(*args, **named)
