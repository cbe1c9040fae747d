"""How texts become vectors: the arguments of `Model.embed` and of `jaxlm embed`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxlm.config.checks import Checked

Pooling = Literal["none", "mean", "cls", "sentence"]


@dataclass(frozen=True, kw_only=True)
class VectorOptions(Checked):
    """Which layers of a text to return, and how to pool its tokens."""

    layers: Literal["last", "all", "mix"] | int = "last"
    """mix: the mean of all layers; a number: one layer, from 0 (the embedding) or, from
    the end, -1."""
    pooling: Pooling = "mean"
    """none: a vector for each token; mean: their mean; cls: that of BERT's [CLS];
    sentence: the one that the model's sentence-transformers modules make, else the mean
    with [CLS] and [SEP], of length 1."""
    prompt: str = ""
    """Name of the sentence model's prompt to put in front; empty: its default."""
    words: Literal["", "basic", "space"] = ""
    """ELMo: how words are cut. basic: by BERT's rules; space: at white space, for text
    that is cut already; empty: as the vocabulary was saved, else basic."""
    batch: Annotated[int, "[1, 65536]"] = 16
    """Texts at a time."""
    stateful: bool = False
    """ELMo: a text starts, in both directions, with the state of the text --batch texts
    earlier, as in the original (allenai/bilm-tf); texts are then read whole."""

    def _mistakes(self) -> Iterator[str]:
        if self.prompt and self.pooling != "sentence":
            yield f"prompt = {self.prompt} is for pooling = sentence"
