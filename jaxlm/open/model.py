"""A model in memory: encode, forward, embed, score, fill, generate, save."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxlm.config import ElmoConfig, ModelConfig, RunConfig
from jaxlm.config.checks import changed, shown, text_of, texts_of, whole
from jaxlm.config.vectors import VectorOptions
from jaxlm.convert import Dtype
from jaxlm.convert.model_directory import export, export_path
from jaxlm.convert.sentence import read_sentence_model
from jaxlm.families import family_of, num_parameters
from jaxlm.families.family import Frame
from jaxlm.generate.beam import beam_search
from jaxlm.generate.decode import Continuation, decode
from jaxlm.generate.sampling import Sampling
from jaxlm.generate.streaming import Generated, TextStream, encode_prompt
from jaxlm.models.encoder import Encoded
from jaxlm.models.sentence import SentenceModel
from jaxlm.open.origin import check_out, origin_of
from jaxlm.scoring import Scored, Scorer, Scoring
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.types import UserError, plural
from jaxlm.vectors import Embedded, bucket, embed


class Rows(NamedTuple):
    """Several texts as rows of one length."""

    tokens: np.ndarray  # int32 [B, L]; an ELMo's characters uint16 [B, L, C]
    mask: np.ndarray  # bool [B, L], False at padding


class Guess(NamedTuple):
    """A word predicted for a [MASK]."""

    token: str
    probability: float


@dataclass(eq=False, repr=False)
class Model:
    """A trained model of any family, in memory."""

    run: RunConfig  # of a model directory: its model, and defaults
    params: Any  # plain nested dict; lacks the heads that a model directory lacks
    tokenizer: Tokenizer
    step: int | None  # of a run
    files: Path  # where the tokenizer is
    directory: str  # as it was opened
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        self.config: ModelConfig = self.run.model
        self.family = family_of(self.config)
        self.module = self.family.build(self.config, dtype=jnp.dtype(self.dtype))

    def __repr__(self) -> str:
        config, count = self.config, num_parameters(self.params, self.config)
        kind = self.family.article.split()[-1]
        at = "" if self.step is None else f" at step {self.step:,}"
        return (
            f"<{kind}: {plural(config.num_layers, 'layer')} of width {config.d_model}, "
            f"vocabulary {config.vocab_size:,}, {count:,} parameters in {self.dtype}; "
            f"{self.directory}{at}>"
        )

    @overload
    def encode(self, texts: str) -> np.ndarray: ...
    @overload
    def encode(self, texts: Iterable[str]) -> Rows: ...
    def encode(self, texts: str | Iterable[str]) -> np.ndarray | Rows:
        """The ids of texts with the special tokens round them, as `forward` reads them.

        A string gives one row [L]; several texts are padded on the right. "[MASK]" and
        the like in a text become that token. An ELMo's ids are characters [L, C].

        >>> tokens, mask = model.encode(["it was", "it was a truth"])
        >>> mask.sum(1) < tokens.shape[1]
        array([ True, False])
        """
        rows = [self._frame.whole(text) for text in texts_of(texts, "texts")]
        if isinstance(texts, str):
            return rows[0]
        if not rows:
            raise UserError("there is nothing to encode: no text")
        return Rows(*self._frame.padded(rows, max(map(len, rows))))

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text as strings, without the special tokens round it.

        >>> model.tokenize("It was [MASK].")
        ['it', 'was', '[MASK]', '.']
        """
        return self._frame.spelled(text_of(text), specials=True)[1]

    def decode(self, ids: Rows | ArrayLike) -> str | list[str]:
        """The text of a row of ids, or the texts of `Rows`; special tokens are spelled
        out.

        >>> model.decode(model.encode("It was a [MASK]."))
        '[CLS] it was a [MASK]. [SEP]'
        """
        if isinstance(ids, Rows):
            rows = zip(*ids, strict=True)
            return [self._frame.text(row[mask]) for row, mask in rows]
        return self._frame.text(np.asarray(ids))

    @cached_property
    def _frame(self) -> Frame:
        return self.family.frame(self.config, self.tokenizer)

    def _unfit(self, lacks: str) -> UserError:
        return UserError(f"{self.family.article} {lacks}: jaxlm {self.family.purpose}")

    def check_heads(self) -> None:
        """Raise a UserError if the model was imported without its output head."""
        missing = self.family.missing_head(self.config, self.params)
        if missing:
            raise UserError(f"{self.files} has {missing}")

    def check_attends(self) -> None:
        """Raise a UserError if the model has no attention."""
        if not self.family.attends:
            raise UserError(
                f"{self.family.article} has no attention, it reads word by word: see "
                "its layers by jaxlm probe senses and jaxlm probe edge"
            )

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        whole = not self.family.missing_head(self.config, self.params)

        def forward(params: Any, *inputs: Any, **facts: Any) -> Encoded:
            variables = {"params": params}
            out: Any = self.module.apply(variables, *inputs, **facts, logits=whole)
            return out._replace(last=None, table=None, head=None)

        return jax.jit(forward, static_argnames="looks")

    def forward(
        self,
        tokens: str | Iterable[str] | ArrayLike,
        token_types: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        attention: bool = False,
    ) -> Encoded:
        """Hidden states [N+1, B, L, D] and logits [B, L, V], without dropout.

        A BERT also gives the pooled vector [B, D] and NSP logits [B, 2]. An ELMo gives
        hidden states of width 2 D (forward, backward), logits [2, B, L, V] of the next
        and of the previous word, and its state.

        Args:
            tokens: a text, several texts, or ids [B, L] or [L] below the vocabulary's
                size; for an ELMo, characters [B, L, C] as `encode` gives them.
            token_types: [B, L], 0 in the first segment, 1 in the second; default: all
                0. BERT only.
            mask: [B, L], True at tokens, False at padding; default: no padding,
                or that of the texts.
            attention: also give `.attention` [N, B, H, L, L], how much each token takes
                from each other one, in all layers and heads; padding sees padding.

        >>> out = model.forward(["it was", "it was a truth"])
        >>> out.hidden.shape[:2], out.pooled.shape
        ((3, 2), (2, 128))
        """
        if texts := _texts(tokens):
            tokens, own = self.encode(texts)
            mask = own if mask is None and not own.all() else mask
        inputs, facts = self.family.inputs(self.config, tokens, token_types, mask)
        if attention:
            self.check_attends()
            facts["looks"] = _all
        with jax.default_matmul_precision("float32"):
            return self._forward(self.params, *inputs, **facts)

    def embed(
        self,
        texts: str | Iterable[str],
        options: VectorOptions = VectorOptions(),  # noqa: B008  (frozen)
        **changes: Any,
    ) -> np.ndarray | list[np.ndarray]:
        """The vectors of texts: [texts, D], or [texts, M, D] for all M layers.

        Without pooling, a list with [L, D] or [M, L, D] for each text. A string is one
        text and gives its own vector, [D] or [M, D]. `changes` replace fields of
        `options`.

        >>> model.embed(["A bank.", "It lends."], layers="all", pooling="mean").shape
        (2, 3, 128)
        """
        options = changed(options, VectorOptions, changes)
        each = self.embed_each(texts_of(texts, "texts"), options)
        vectors = [found.vectors for found in each]
        if not vectors:
            raise UserError("there is nothing to embed: no text")
        if isinstance(texts, str):
            return vectors[0]
        return np.stack(vectors) if options.pooling != "none" else vectors

    def embed_each(
        self, texts: Iterable[str], options: VectorOptions
    ) -> Iterator[Embedded]:
        """The vectors and the tokens of each text, one text after the other."""
        sentence = self.sentence if options.pooling == "sentence" else None
        model = self.config, self.params, self.tokenizer
        return embed(*model, texts, options, sentence)

    @cached_property
    def sentence(self) -> SentenceModel | None:
        """The modules that make one vector of a text; None if the files have none."""
        if isinstance(self.config, ElmoConfig):
            return None
        return read_sentence_model(self.files, self.config)

    def score(
        self,
        texts: str | Iterable[str],
        prompts: str | Iterable[str] = "",
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        **changes: Any,
    ) -> Scored | list[Scored]:
        """The log-probabilities of the tokens of texts, in nats; see `scoring.py`.

        A string is one text. `prompts`, one for all or one for each, come before the
        texts and are not scored; without, a GPT's text begins a document. A BERT's
        score is a pseudo-log-likelihood. `changes` replace fields of `scoring`.

        >>> gpt = jaxlm.load("models/gpt")
        >>> one, other = gpt.score([" sleep.", " sleeps."], "The cats")
        >>> one.total < 0
        True
        """
        scoring = changed(scoring, Scoring, changes)
        every = list(texts_of(texts, "texts"))
        if isinstance(prompts, str):
            before = [text_of(prompts)] * len(every)
        else:
            before = list(texts_of(prompts, "prompts"))
        if len(before) != len(every):
            counts = f"{plural(len(every), 'text')} and {plural(len(before), 'prompt')}"
            raise UserError(f"{counts}: give one prompt for all, or one for each")
        self.check_heads()
        scorer = Scorer(self.module, self.params, self.tokenizer)
        found = scorer.score(every, before, scoring)
        return found[0] if isinstance(texts, str) else found

    def fill(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """The `top_k` likeliest words for each [MASK] of a text, best first.

        >>> (guesses,) = model.fill("It was a [MASK].", top_k=2)
        >>> guesses[0].probability > guesses[1].probability
        True
        """
        if not self.family.fills:
            raise self._unfit("fills no blanks")
        self.check_heads()
        top_k = whole("top_k", top_k, 1, self.config.vocab_size)
        row = self.encode(text_of(text))
        special: Any = self.tokenizer.special
        holes = np.flatnonzero(row == special.mask)
        if not len(holes):
            raise UserError(f"no [MASK] in {shown(text)}")
        warn_unknown(self.tokenizer, counted(self.tokenizer, row))
        length = min(bucket(len(row)), self.config.max_length)
        tokens, mask = self._frame.padded([row], max(length, len(row)))
        found = self.forward(tokens, mask=mask).logits
        logits = np.asarray(found, np.float32)[0, holes]
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        best = np.argsort(-scores[:, : self.tokenizer.drawn], axis=-1)[:, :top_k]
        return [
            [Guess(self.tokenizer.token(int(i)), float(score[i])) for i in order]
            for order, score in zip(best, scores, strict=True)
        ]

    def generate(
        self,
        prompts: str | Iterable[str],
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        *,
        scored: bool = False,
        stream: Callable[[str], None] | None = None,
        **changes: Any,
    ) -> list[Generated]:
        """Continue each prompt `samples` times with a GPT.

        A continuation ends at `max_tokens`, at <|endoftext|> or before a stop string.
        A prompt that does not fit the context together with `max_tokens` is truncated
        on the left. Equal prompt, sample number, settings and seed give equal text,
        whatever else is in the call.

        Args:
            prompts: several or one; an empty one starts from <|endoftext|>.
            scored: return log-probabilities.
            stream: called with each piece of the first continuation as it comes.
            **changes: replace fields of `sampling`.

        >>> gpt = jaxlm.load("models/gpt")
        >>> len(gpt.generate(["Once upon"], max_tokens=5, temperature=0.0)[0].tokens)
        5
        """
        if self.family.bidirectional:
            raise self._unfit("continues no text")
        sampling = changed(sampling, Sampling, changes)
        prompts = list(texts_of(prompts, "prompts"))
        if not isinstance(scored, bool) or not (stream is None or callable(stream)):
            raise UserError("scored is True or False, stream a function of a str")
        if not prompts:
            raise UserError("there is nothing to generate: no prompt")
        most = self.config.max_length - 1
        if sampling.max_tokens > most:
            this = f"max_tokens = {sampling.max_tokens} is not in [1, {most}]"
            raise UserError(f"{this}: the prompt needs a place in the context too")
        room = self.config.max_length - sampling.max_tokens
        rows = [encode_prompt(self.tokenizer, prompt, room) for prompt in prompts]
        warn_unknown(self.tokenizer, counted(self.tokenizer, np.concatenate(rows)))
        texts = TextStream(self.tokenizer, tuple(sampling.stop), stream)
        module: Any = self.module
        ends = {"end": self.tokenizer.end_of_document, "drawn": self.tokenizer.drawn}
        what = module, self.params, rows, sampling
        if not sampling.beams:
            seen: Any = {"scored": scored, "watch": texts.watch}
            found = decode(*what, **ends, **seen)
            return [texts.finish(i, each) for i, each in enumerate(found)]
        best = beam_search(*what, **ends)
        ranked = [beam for beams in best for beam in beams[: sampling.samples]]
        return [
            texts.finish(i, Continuation(tokens, None))._replace(scores=score)
            for i, (tokens, score) in enumerate(ranked)
        ]

    def save(self, directory: str | os.PathLike, dtype: Dtype = "float32") -> None:
        """Write a model directory, as `jaxlm export` does: Hugging Face's layout, or
        for an ELMo AllenNLP's.

        >>> model.save("models/a")
        """
        to = "elmo" if isinstance(self.config, ElmoConfig) else "hf"
        check_out(str(directory), self.directory)
        with export_path(str(directory)) as out:
            origin = origin_of(self.directory, self.run, self.step)
            export(out, to, self, dtype=dtype, origin=origin)


def _texts(given: Any) -> list[str]:
    """`given` as texts; none if it is anything else."""
    if isinstance(given, str):
        return [given]
    if hasattr(given, "dtype") and given.dtype.kind in "biuf":
        return []
    found = list(given) if isinstance(given, Iterable) else []
    return found if found and isinstance(found[0], str) else []


def _all(p_BHLL: Any) -> Any:
    return p_BHLL
