"""A model in memory, whatever its family: forward, embed, fill, generate."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxlm.config import ModelConfig, RunConfig
from jaxlm.config.vectors import VectorOptions
from jaxlm.families import family_of
from jaxlm.generate.beam import beam_search
from jaxlm.generate.decode import Continuation, decode
from jaxlm.generate.sampling import Sampling
from jaxlm.generate.streaming import Generated, TextStream, encode_prompt
from jaxlm.models.encoder import Encoded
from jaxlm.models.gpt import unstacked
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError
from jaxlm.vectors import Embedded, embed

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
        self.family = family_of(run.model)
        self.module = self.family.build(run.model)

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self.run.model

    def _unfit(self, lacks: str) -> UserError:
        return UserError(f"{self.family.article} {lacks}: jaxlm {self.family.purpose}")

    def check_heads(self) -> None:
        """Refuse what needs a head that is not there.

        Raises:
            UserError: the model was imported without one.
        """
        missing = self.family.missing_head(self.config, self.params)
        if missing:
            raise UserError(f"{self.files} has {missing}")

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        whole = not self.family.missing_head(self.config, self.params)

        @jax.jit
        def forward(params: Any, *inputs: Any, **facts: Any) -> Encoded:
            out: Any = self.module.apply(
                {"params": params}, *inputs, **facts, logits=whole
            )
            return out._replace(last=None, table=None)

        return forward

    @cached_property
    def _unstacked(self) -> Any:
        return jax.jit(unstacked)(self.params)

    def forward(
        self,
        tokens: ArrayLike,
        token_types: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Encoded:
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
        inputs, facts = self.family.inputs(
            self.config, np.asarray(tokens), token_types, mask
        )
        with jax.default_matmul_precision("float32"):
            return self._forward(self.params, *inputs, **facts)

    def embed(
        self,
        texts: Sequence[str],
        options: VectorOptions = VectorOptions(),  # noqa: B008  (frozen)
        **changes: Any,
    ) -> np.ndarray | list[np.ndarray]:
        """Vectors of texts: [texts, D], or [texts, M, D] of all M layers.

            model.embed(["A text."], layers="all", pooling="mean")

        Without pooling a list, of each text [L, D] or [M, L, D].

        Args:
            **changes: fields of `options` that differ.

        Raises:
            UserError: the family has no such layer, pooling or state.
        """
        options = dataclasses.replace(options, **changes)
        vectors = [each.vectors for each in self.embed_each(texts, options)]
        pooled = vectors and options.pooling != "none"
        return np.stack(vectors) if pooled else vectors

    def embed_each(
        self,
        texts: Iterable[str],
        options: VectorOptions = VectorOptions(),  # noqa: B008  (frozen)
        **changes: Any,
    ) -> Iterator[Embedded]:
        """`embed` one after the other, with the tokens of each text."""
        model = self.config, self.params, self.tokenizer
        return embed(*model, texts, options, **changes)

    def fill(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """The likeliest words for each [MASK] of a text, best first.

        Raises:
            UserError: the text has no [MASK], or is too long; the model is no BERT.
        """
        if not self.family.fills:
            raise self._unfit("fills no blanks")
        self.check_heads()
        frame = self.family.frame(self.config, self.tokenizer)
        row = frame.row(self.tokenizer.encode(text, specials=True).ids)
        special = self.tokenizer.special
        assert special is not None
        holes = np.flatnonzero(row == special.mask)
        if not len(holes):
            raise UserError(f"no [MASK] in {text!r}")
        length = min(-(-len(row) // _BUCKET) * _BUCKET, self.config.max_length)
        tokens, mask = frame.padded([row], max(length, len(row)))
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
        if self.family.bidirectional:
            raise self._unfit("continues no text")
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
