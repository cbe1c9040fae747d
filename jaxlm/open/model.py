"""A model in memory, whatever its family: forward, embed, fill, generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxlm.config import (
    BertConfig,
    ElmoConfig,
    GptConfig,
    ModelConfig,
    RunConfig,
)
from jaxlm.embed import Embedded, Layers, Pooling, embed
from jaxlm.generate.beam import beam_search
from jaxlm.generate.decode import Continuation, decode
from jaxlm.generate.sampling import Sampling
from jaxlm.generate.streaming import Generated, TextStream, encode_prompt
from jaxlm.models import build
from jaxlm.models.elmo import BiEncoded
from jaxlm.models.encoder import Encoded
from jaxlm.models.gpt import unstacked
from jaxlm.models.layers import causal_mask
from jaxlm.text.characters import check_characters
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

_BUCKET = 32  # lengths are rounded up to a multiple, so that few programs are compiled


class Guess(NamedTuple):
    """A word for a [MASK]."""

    token: str
    probability: float


class Model:
    """A trained model with its tokenizer; `params` is a plain nested dict.

    Of a model directory `step` is None, `run` has the model and defaults, and `params`
    lacks the heads that its files lack.
    """

    def __init__(
        self,
        run: RunConfig,
        params: Any,
        tokenizer: Tokenizer,
        step: int | None,
        files: Path,
    ) -> None:
        self.run, self.params, self.tokenizer, self.step = run, params, tokenizer, step
        self.files = files  # where the tokenizer is
        self.module = build(run.model)

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self.run.model

    @property
    def _an(self) -> str:
        return {"bert": "a BERT", "gpt": "a GPT", "elmo": "an ELMo"}[self.config.family]

    @property
    def _verb(self) -> str:
        """What its family is for."""
        return {
            "bert": "fill fills its blanks",
            "gpt": "generate continues a text",
            "elmo": "embed gives its vectors",
        }[self.config.family]

    def check_heads(self) -> None:
        """Refuse what needs a head that is not there.

        Raises:
            UserError: the model was imported without one.
        """
        if isinstance(self.config, BertConfig) and "mlm" not in self.params:
            raise UserError(
                f"{self.files} has no head of masked words, its files hold none: embed "
                "gives its vectors; pretrain --init trains one"
            )
        if isinstance(self.config, ElmoConfig) and not self.config.vocab_size:
            raise UserError(f"{self.files} has no softmax: embed gives its vectors")

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        whole = not isinstance(self.config, BertConfig) or "mlm" in self.params
        return jax.jit(
            lambda params, *args: self.module.apply(
                {"params": params}, *args, logits=whole
            )
        )

    @cached_property
    def _unstacked(self) -> Any:
        return jax.jit(unstacked)(self.params)

    def forward(
        self,
        tokens: ArrayLike,
        token_types: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Encoded | BiEncoded:
        """Hidden states [N+1, B, L, D], logits [B, L, V]; no dropout.

        A BERT adds the pooled vector [B, D] and NSP logits [B, 2]. An ELMo's hidden
        states are 2 D wide, forward and backward; it has logits [2, B, L, V], of the
        next word and of the one before, and its state.

        Args:
            tokens: [B, L], ids below the vocabulary's size; an ELMo's are characters
                [B, L, C] as `text/characters.py` numbers them.
            token_types: [B, L], 0 in the first segment, 1 in the second; all 0 by
                default. BERT only.
            mask: [B, L], True where a token is not padding; all of them by default.

        Raises:
            UserError: an id outside the vocabulary, or more tokens than positions.
        """
        tokens = np.asarray(tokens)
        if isinstance(self.config, ElmoConfig):
            return self._forward_elmo(tokens, token_types, mask)
        if (
            tokens.size
            and not 0 <= tokens.min() <= tokens.max() < self.config.vocab_size
        ):
            raise UserError(
                f"token ids run from {tokens.min()} to {tokens.max()}, the vocabulary "
                f"has {self.config.vocab_size}"
            )
        length = tokens.shape[1]
        if length > self.config.max_length:
            raise UserError(
                f"{length} tokens, the model has {self.config.max_length} positions: "
                "shorten the text"
            )
        if mask is None:
            mask = np.ones(tokens.shape, bool)
        ids, real = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, bool)
        with jax.default_matmul_precision("float32"):
            if isinstance(self.config, GptConfig):
                if token_types is not None:
                    raise UserError("a GPT has no token types")
                seen = causal_mask(length) & real[:, None]
                return self._forward(self.params, ids, None, seen)
            if token_types is None:
                token_types = np.zeros_like(tokens)
            types = jnp.asarray(token_types, jnp.int32)
            return self._forward(self.params, ids, types, real)

    def _forward_elmo(
        self, characters: np.ndarray, token_types: Any, mask: ArrayLike | None
    ) -> BiEncoded:
        assert isinstance(self.config, ElmoConfig)
        if token_types is not None:
            raise UserError("an ELMo has no token types")
        if characters.ndim != 3 or characters.shape[2] != self.config.max_characters:
            raise UserError(
                f"characters of shape {characters.shape} are not [B, L, "
                f"{self.config.max_characters}]: see jaxlm.text.characters"
            )
        check_characters(characters)
        real = None if mask is None else jnp.asarray(mask, bool)
        with jax.default_matmul_precision("float32"):
            ids = jnp.asarray(characters, jnp.int32)
            return self._forward(self.params, ids, None, real)

    def embed(
        self,
        texts: Sequence[str],
        *,
        layers: Layers = "last",
        pooling: Pooling = "mean",
        batch: int = 16,
        stateful: bool = False,
    ) -> np.ndarray | list[np.ndarray]:
        """Vectors of texts: [texts, D], or [texts, M, D] of all M layers.

        Without pooling a list, of each text [L, D] or [M, L, D]. See `jaxlm.embed`.

        Args:
            texts: any strings.
            layers: "last", "all", "mix" (their plain mean) or a number (0: embedding).
            pooling: "none", "mean" over the text's tokens, "cls" (BERT's), or
                "sentence", as sentence-transformers: see `jaxlm.embed`.
            batch: texts at a time.
            stateful: an ELMo goes on from text to text, as in the original.

        Raises:
            UserError: the family has no such layer, pooling or state.
        """
        found = self.embed_each(
            texts, layers=layers, pooling=pooling, batch=batch, stateful=stateful
        )
        vectors = [each.vectors for each in found]
        return vectors if pooling == "none" or not vectors else np.stack(vectors)

    def embed_each(self, texts: Iterable[str], **options: Any) -> Iterator[Embedded]:
        """`embed` one after the other, with the tokens of each text."""
        return embed(self.module, self.params, self.tokenizer, texts, **options)

    def fill(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """The likeliest words for each [MASK] of a text, best first.

        Raises:
            UserError: the text has no [MASK], or is too long; the model is no BERT.
        """
        if not isinstance(self.config, BertConfig):
            raise UserError(f"{self._an} fills no blanks: jaxlm {self._verb}")
        self.check_heads()
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

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        *,
        scored: bool = False,
        stream: Callable[[str], None] | None = None,
        **changes: Any,
    ) -> list[Generated]:
        """Continue each prompt, `samples` times in turn.

            model.generate(["Once upon"], max_tokens=50, temperature=0.0)

        A continuation ends at `max_tokens`, at <|endoftext|> or before a stop string.
        A prompt that does not fit the context together with `max_tokens` is truncated
        on the left. Equal prompt, sample number, settings and seed give equal text,
        whatever else is in the call.

        Args:
            prompts: texts; an empty one starts from <|endoftext|>.
            sampling: the settings.
            scored: return log-probabilities.
            stream: called with each piece of the first continuation as it comes.
            **changes: fields of `sampling` that differ.

        Raises:
            UserError: the model is no GPT, or a setting is out of range.
        """
        if not isinstance(self.config, GptConfig):
            raise UserError(f"{self._an} continues no text: jaxlm {self._verb}")
        sampling = dataclasses.replace(sampling, **changes)
        most = self.config.max_length - 1
        if sampling.max_tokens > most:
            raise UserError(
                f"max_tokens = {sampling.max_tokens} is not in [1, {most}]: the prompt "
                "needs a place in the context too"
            )
        if not prompts:
            raise UserError("there is nothing to generate: no prompt")
        room = self.config.max_length - sampling.max_tokens
        rows = [encode_prompt(self.tokenizer, prompt, room) for prompt in prompts]
        texts = TextStream(self.tokenizer, tuple(sampling.stop), stream)
        module: Any = self.module
        end = self.tokenizer.end_of_document
        if not sampling.beams:
            found = decode(
                module,
                self._unstacked,
                rows,
                sampling,
                end=end,
                scored=scored,
                watch=texts.watch,
            )
            return [texts.finish(i, each) for i, each in enumerate(found)]
        best = beam_search(module, self._unstacked, rows, sampling, end=end)
        ranked = [beam for beams in best for beam in beams[: sampling.samples]]
        return [
            texts.finish(i, Continuation(tokens, None))._replace(scores=score)
            for i, (tokens, score) in enumerate(ranked)
        ]
