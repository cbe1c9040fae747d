"""A run directory → a model to use: forward, fill. `jaxlm.load(directory)`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxlm.checkpoints import Checkpoints
from jaxlm.config import BertConfig, RunConfig
from jaxlm.models.bert import Bert
from jaxlm.models.stack import Encoded
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.train.state import abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError

_BUCKET = 32  # lengths are rounded up to a multiple, so that few programs are compiled


class Guess(NamedTuple):
    """A word for a [MASK]."""

    token: str
    probability: float


class Model:
    """A trained model with its tokenizer; `params` is a plain nested dict."""

    def __init__(
        self, run: RunConfig, params: Any, tokenizer: Tokenizer, step: int
    ) -> None:
        self.run, self.params, self.tokenizer, self.step = run, params, tokenizer, step
        self.module = Bert(run.model)

    @property
    def config(self) -> BertConfig:
        """Of the model."""
        return self.run.model

    @cached_property
    def _forward(self):
        return jax.jit(
            lambda params, *args: self.module.apply({"params": params}, *args)
        )

    def forward(
        self,
        tokens: ArrayLike,
        token_types: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Encoded:
        """Hidden states [N+1, B, L, D], pooled [B, D], logits, NSP logits; no dropout.

        Args:
            tokens: [B, L], ids below the vocabulary's size.
            token_types: [B, L], 0 in the first segment, 1 in the second; all 0 by
            default.
            mask: [B, L], True where a token is not padding; all of them by default.

        Raises:
            UserError: an id outside the vocabulary, or more tokens than positions.
        """
        tokens = np.asarray(tokens)
        if (
            tokens.size
            and not 0 <= tokens.min() <= tokens.max() < self.config.vocab_size
        ):
            raise UserError(
                f"token ids run from {tokens.min()} to {tokens.max()}, the vocabulary "
                f"has {self.config.vocab_size}"
            )
        if tokens.shape[1] > self.config.max_length:
            raise UserError(
                f"{tokens.shape[1]} tokens, the model has {self.config.max_length} "
                "positions: shorten the text"
            )
        if token_types is None:
            token_types = np.zeros_like(tokens)
        if mask is None:
            mask = np.ones(tokens.shape, bool)
        with jax.default_matmul_precision("float32"):
            return self._forward(
                self.params,
                jnp.asarray(tokens, jnp.int32),
                jnp.asarray(token_types, jnp.int32),
                jnp.asarray(mask, bool),
            )

    def fill(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """The likeliest words for each [MASK] of a text, best first.

        Raises:
            UserError: the text has no [MASK], or is too long.
        """
        special = self.tokenizer.special
        assert special is not None
        ids = self.tokenizer.encode(text, specials=True).ids
        row = np.concatenate([[special.cls], ids, [special.sep]])
        holes = np.flatnonzero(row == special.mask)
        if not len(holes):
            raise UserError(f"no [MASK] in {text!r}")
        length = min(-(-len(row) // _BUCKET) * _BUCKET, self.config.max_length)
        length = max(length, len(row))
        tokens = np.full((1, length), special.pad)
        tokens[0, : len(row)] = row
        mask = np.arange(length)[None] < len(row)
        logits = np.asarray(self.forward(tokens, mask=mask).logits)[0, holes]
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        best = np.argsort(-scores, axis=-1)[:, :top_k]
        return [
            [Guess(self.tokenizer.token(int(i)), float(score[i])) for i in order]
            for order, score in zip(best, scores, strict=True)
        ]


def load(directory: str | Path) -> Model:
    """The newest checkpoint of a run directory, verified, on the default device.

    Raises:
        UserError: it is no run directory, holds no checkpoint, or a damaged one.
    """
    config = read_config(directory)
    abstract = abstract_params(Bert(config.model))
    restored = Checkpoints(directory).restore(abstract, part="params/")
    if restored is None:
        raise UserError(f"{directory} has no checkpoint yet")
    tokenizer = load_tokenizer(Path(directory) / "tokenizer")
    return Model(config, restored.state, tokenizer, restored.step)
