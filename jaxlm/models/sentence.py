"""Hidden states of a text → its one vector, as sentence-transformers' modules have it.

[CLS] the cat [SEP]   →   pooled, the poolings joined   →   Dense, Normalize, …
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxlm.types import UserError

# (states of the tokens [..., L, D], their places from 1 [L, 1]) → [..., D]
POOLINGS: dict[str, Callable[[Any, Any], Any]] = {
    "cls": lambda x, _: x[..., 0, :],
    "max": lambda x, _: x.max(-2),
    "mean": lambda x, _: x.mean(-2),
    "mean_sqrt_len_tokens": lambda x, _: x.sum(-2) / np.sqrt(x.shape[-2]),
    "weightedmean": lambda x, places: (x * places).sum(-2) / places.sum(),
    "lasttoken": lambda x, _: x[..., -1, :],
}
# By the names of torch's classes.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "Tanh": jax.nn.tanh,
    "Identity": jax.nn.identity,
    "ReLU": jax.nn.relu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "Sigmoid": jax.nn.sigmoid,
    "SiLU": jax.nn.silu,
}


class Dense(NamedTuple):
    """A dense layer after the pooling."""

    kernel: Float[np.ndarray, "inputs outputs"]
    bias: Float[np.ndarray, "outputs"]
    activation: str


class SentenceModel(NamedTuple):
    """What makes one vector of the hidden states of a text.

    By default: the mean of all tokens, of length 1, of texts of any length.
    """

    pooling: tuple[str, ...] = ("mean",)
    layers: tuple[Dense | None, ...] = (None,)  # None: scale to length 1
    max_length: int = 0  # tokens of a row; the rest of a text is cut off; 0: no limit
    lowercase: bool = False
    prompts: Mapping[str, str] = {}  # name → what is put in front of a text
    prompt: str = ""  # name of the usual one
    pools_prompt: bool = True
    files: Mapping[str, Any] = {}  # path → the JSON that this was read from

    def prompt_of(self, name: str) -> str:
        """The prompt of a name, or the usual one; "" if there is none."""
        name = name or self.prompt
        if name and name not in self.prompts:
            have = ", ".join(self.prompts) or "none"
            raise UserError(f"prompt = {name}: the sentence model has {have}")
        return self.prompts.get(name, "")

    def as_read(self, text: str) -> str:
        """A text as the tokenizer gets it."""
        return text.lower() if self.lowercase else text

    def vector(self, hidden: np.ndarray, prompt: int) -> np.ndarray:
        """[..., E] of the hidden states [..., L, D] of a row, whose first `prompt`
        tokens are those of the prompt."""
        if not hidden.shape[-2]:  # a GPT's empty text
            hidden = np.zeros((*hidden.shape[:-2], 1, hidden.shape[-1]), np.float32)
        count = hidden.shape[-2]
        skip = 0 if self.pools_prompt else min(prompt, count - 1)
        places = np.arange(skip + 1, count + 1, dtype=np.float32)[:, None]
        x = [POOLINGS[each](hidden[..., skip:, :], places) for each in self.pooling]
        x = np.concatenate(x, axis=-1)
        for layer in self.layers:
            if layer is None:
                x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
            else:
                x = ACTIVATIONS[layer.activation](x @ layer.kernel + layer.bias)
        return np.asarray(x)

    def __str__(self) -> str:
        parts = [" and ".join(self.pooling)]
        for each in self.layers:
            parts.append(
                f"{each.activation} of {len(each.bias)}" if each else "length 1"
            )
        prompts = "".join(f", prompt {k} {v!r}" for k, v in self.prompts.items() if v)
        usual = f", {self.prompt} by default" if self.prompt else ""
        return f"{' → '.join(parts)}, texts of {self.max_length} tokens{prompts}{usual}"
