"""How texts become vectors: the arguments of `Model.embed` and of `jaxlm embed`."""

from dataclasses import dataclass
from typing import Literal

from jaxlm.types import UserError

Pooling = Literal["none", "mean", "cls", "sentence"]


@dataclass(frozen=True, kw_only=True)
class VectorOptions:
    """Which layers of a text to return, and how to pool its tokens."""

    layers: Literal["last", "all", "mix"] | int = "last"
    """mix is the mean of all layers, where `ScalarMix` starts; a number is one layer, 0
    the embedding, -1 the last."""
    pooling: Pooling = "mean"
    """A vector a token (none), their mean, that of BERT's [CLS], or, as in
    sentence-transformers, the mean of all with [CLS] and [SEP], of length 1."""
    batch: int = 16
    """Texts at a time."""
    stateful: bool = False
    """ELMo: a text continues, in both directions, from the state of the text --batch
    before it, as in the original (allenai/bilm-tf); texts are then read whole."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"batch = {self.batch} must be positive")
