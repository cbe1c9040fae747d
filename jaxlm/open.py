"""`jaxlm.load`: a run or model directory → a model: forward, embed, fill, generate."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from numpy.typing import ArrayLike

from jaxlm.checkpoints import RunFiles, restore_params
from jaxlm.config import ElmoConfig, FinetuneConfig, ModelConfig, RunConfig, TextConfig
from jaxlm.config.checks import changed, shown, text_of, texts_of, whole
from jaxlm.config.vectors import VectorOptions
from jaxlm.convert.model_directory import Loaded, is_model, read_model
from jaxlm.convert.sentence import read_sentence_model
from jaxlm.families import build, family_of
from jaxlm.files import local, place
from jaxlm.generate.beam import beam_search
from jaxlm.generate.decode import Continuation, decode
from jaxlm.generate.sampling import Sampling
from jaxlm.generate.streaming import Generated, TextStream, encode_prompt
from jaxlm.models.encoder import Encoded
from jaxlm.models.sentence import SentenceModel
from jaxlm.tasks.finetuned import Finetuned, best_seed, open_finetuned
from jaxlm.tasks.model import OWN
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.text.unknown_words import counted, warn_unknown
from jaxlm.train.state import Pretrained, abstract_params
from jaxlm.train.workdir import read_config
from jaxlm.types import UserError
from jaxlm.vectors import Embedded, bucket, embed

_UNUSED = re.compile(r"\[unused\d+\]").fullmatch


class Guess(NamedTuple):
    """A word predicted for a [MASK]."""

    token: str
    probability: float


@dataclass(eq=False)
class Model:
    """A trained model of any family, in memory."""

    run: RunConfig  # of a model directory: its model, and defaults
    params: Any  # plain nested dict; lacks the heads that a model directory lacks
    tokenizer: Tokenizer
    step: int | None  # of a run
    files: Path  # where the tokenizer is

    def __post_init__(self) -> None:
        self.config: ModelConfig = self.run.model
        self.family = family_of(self.config)
        self.module = self.family.build(self.config)

    def _unfit(self, lacks: str) -> UserError:
        return UserError(f"{self.family.article} {lacks}: jaxlm {self.family.purpose}")

    def check_heads(self) -> None:
        """Raise a UserError if the model was imported without its output head."""
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
            return out._replace(last=None, table=None, head=None)

        return forward

    def forward(
        self,
        tokens: ArrayLike,
        token_types: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Encoded:
        """Hidden states [N+1, B, L, D] and logits [B, L, V], without dropout.

        A BERT also gives the pooled vector [B, D] and NSP logits [B, 2]. An ELMo gives
        hidden states of width 2 D (forward, backward), logits [2, B, L, V] of the next
        and of the previous word, and its state.

        Args:
            tokens: ids [B, L] below the vocabulary's size; for an ELMo, characters
                [B, L, C] as numbered in `text/characters.py`.
            token_types: [B, L], 0 in the first segment, 1 in the second; default: all
                0. BERT only.
            mask: [B, L], True at tokens, False at padding; default: no padding.
        """
        inputs, facts = self.family.inputs(self.config, tokens, token_types, mask)
        with jax.default_matmul_precision("float32"):
            return self._forward(self.params, *inputs, **facts)

    def embed(
        self,
        texts: str | Iterable[str],
        options: VectorOptions = VectorOptions(),  # noqa: B008  (frozen)
        **changes: Any,
    ) -> np.ndarray | list[np.ndarray]:
        """The vectors of texts: [texts, D], or [texts, M, D] for all M layers.

            model.embed(["A text."], layers="all", pooling="mean")

        Without pooling, a list with [L, D] or [M, L, D] for each text. A string is one
        text and gives its own vector, [D] or [M, D]. `changes` replace fields of
        `options`.
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

    def fill(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """The `top_k` likeliest words for each [MASK] of a text, best first."""
        if not self.family.fills:
            raise self._unfit("fills no blanks")
        self.check_heads()
        top_k = whole("top_k", top_k, 1, self.config.vocab_size)
        frame = self.family.frame(self.config, self.tokenizer)
        ids = self.tokenizer.encode(text_of(text), specials=True).ids
        row = frame.row(ids)
        special: Any = self.tokenizer.special
        holes = np.flatnonzero(row == special.mask)
        if not len(holes):
            raise UserError(f"no [MASK] in {shown(text)}")
        warn_unknown(self.tokenizer, counted(self.tokenizer, row))
        length = min(bucket(len(row)), self.config.max_length)
        tokens, mask = frame.padded([row], max(length, len(row)))
        logits = np.asarray(self.forward(tokens, mask=mask).logits)[0, holes]
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        drawn = scores[:, : self.tokenizer.drawn]
        best = np.argsort(-drawn, axis=-1)[:, :top_k]
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

            model.generate(["Once upon"], max_tokens=50, temperature=0.0)

        A continuation ends at `max_tokens`, at <|endoftext|> or before a stop string.
        A prompt that does not fit the context together with `max_tokens` is truncated
        on the left. Equal prompt, sample number, settings and seed give equal text,
        whatever else is in the call.

        Args:
            prompts: several or one; an empty one starts from <|endoftext|>.
            scored: return log-probabilities.
            stream: called with each piece of the first continuation as it comes.
            **changes: replace fields of `sampling`.
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


def load(directory: str | os.PathLike, *, stay: bool = False) -> Model:
    """The model of a directory, on the default device.

    A run directory gives its newest checkpoint, verified. A model directory gives its
    weights, compared with the digests that `export` and `import` stored. With `stay`, a
    run's parameters stay on disk and are read and verified each time they are used,
    which suits an export (`checkpoints.StoredLeaf`).
    """
    path = local(_existing(directory))
    if is_model(path):
        loaded = read_model(path, lambda _, array: jax.device_put(array))
        return Model(_run_of(loaded), loaded.params, loaded.tokenizer, None, path)
    config = read_config(directory)
    if isinstance(config, FinetuneConfig):
        raise UserError(f"{directory} is a model of a task: jaxlm predict uses it")
    abstract = abstract_params(build(config.model))
    files = path / "tokenizer"
    tokenizer = load_tokenizer(files)
    run = RunFiles(config, {"tokenizer_sha256": tokenizer.sha256})
    restored = restore_params(directory, abstract, stored=stay, run=run)
    return Model(config, restored.state, tokenizer, restored.step, files)


def _existing(directory: Any) -> epath.Path:
    if not isinstance(directory, str | os.PathLike) or not str(directory):
        raise UserError(
            f"{shown(directory)} is not the path of a run or model directory"
        )
    path = place(directory)
    if not path.is_dir():
        how = "is a file: name its directory" if path.exists() else "does not exist"
        raise UserError(f"{path} {how}")
    return path


def _run_of(loaded: Loaded) -> RunConfig:
    """A run config for an imported model: its model and text settings, and defaults."""
    tokenizer, longest = loaded.tokenizer, loaded.config.max_length
    text = TextConfig(
        tokenizer=tokenizer.like,
        lowercase=getattr(tokenizer, "lowercase", False),
        unused=loaded.unused,
        words=tokenizer.options.get("words", "basic"),
        verbatim=not family_of(loaded.config).bidirectional,
    )
    return RunConfig(model=loaded.config, text=text, length=max(8, min(128, longest)))


def is_task(directory: str | os.PathLike) -> bool:
    """Whether a directory is a run of `jaxlm finetune`, or has its seeds."""
    path = best_seed(directory)
    if not (path / "config.json").is_file() or is_model(local(path)):
        return False
    return isinstance(read_config(path), FinetuneConfig)


def open_task(
    directory: str | os.PathLike, columns: Mapping[str, Any] | None = None
) -> Finetuned:
    """`open_finetuned`; UserError if the directory holds a model and not a run."""
    if is_model(local(directory)):
        raise UserError(
            f"{directory} is a model: fine-tune it first, with jaxlm finetune --init"
        )
    return open_finetuned(directory, columns)


def model_of(directory: str) -> tuple[ModelConfig, Tokenizer]:
    """The config and the tokenizer of the model in a run or model directory."""
    here = local(directory)
    if is_model(here):
        loaded = read_model(here, None)
        return loaded.config, loaded.tokenizer
    run = best_seed(directory)
    return read_config(run).model, load_tokenizer(local(run / "tokenizer"))


def pretrained(directory: str) -> Pretrained:
    """The parameters of `--init` without a task's; those of a run stay on disk."""
    check_init(directory)
    here, files = local(directory), None
    if is_model(here):
        read = read_model(here, lambda _, leaf: leaf)
        return Pretrained(directory, read.params)
    run = str(path := best_seed(directory))
    if (path / "config.json").is_file():
        digest = load_tokenizer(local(path / "tokenizer")).sha256
        files = RunFiles(read_config(path), {"tokenizer_sha256": digest})
    found = restore_params(run, stored=True, run=files)
    params = {name: each for name, each in found.state.items() if name not in OWN}
    return Pretrained(f"{run} at step {found.step}", params)


def check_init(directory: str) -> None:
    """Refuse a directory that does not exist."""
    if not place(directory).is_dir():
        raise UserError(f"--init {directory}: there is no such directory")


def other_settings(directory: str, model: ModelConfig) -> list[str]:
    """A note if settings that no shape shows differ from those of `--init`."""
    theirs, _ = model_of(directory)
    names = ["activation", "norm_eps"]
    ropes = [getattr(each, "positions", "") == "rope" for each in (theirs, model)]
    windows = [getattr(each, "window", 0) > 0 for each in (theirs, model)]
    names += ["rope_base"] if all(ropes) else []
    names += ["window"] if any(windows) else []
    names += ["global_every"] if all(windows) else []
    names += ["local_rope_base"] if all(windows) and all(ropes) else []
    others = [
        f"model.{name} = {there} there and {here} here"
        for name in names
        if (there := getattr(theirs, name, None))
        != (here := getattr(model, name, None))
    ]
    return [f"--init {directory} has {', '.join(others)}"] if others else []


def check_vocabulary(directory: str, tokenizer: Tokenizer, *, other: bool) -> list[str]:
    """Compare the vocabulary of `--init` with that of a corpus: notes on differences.

    An entry that is another word is a UserError, unless `other` allows it. `[unusedN]`
    fits any word: words of a domain may take its place.
    """
    config, known = model_of(directory)
    if not config.vocab_size or known.sha256 == tokenizer.sha256:
        return []  # an ELMo without a softmax reads characters alone
    pairs = list(itertools.zip_longest(known.tokens, tokenizer.tokens))
    others = [
        f"{i}, {theirs!r} there and {mine!r} here"
        for i, (theirs, mine) in enumerate(pairs)
        if theirs != mine and not any(map(_UNUSED, (str(theirs), str(mine))))
    ]
    said = (
        f"--init {directory} has tokenizer sha256 {known.sha256[:12]}…, the corpus "
        f"{tokenizer.sha256[:12]}…"
    )
    if not others:
        return [f"{said}: the words are equal, their [unused] places or cuts are not"]
    said += (
        f": {len(others):,} of {len(pairs):,} entries are other words, the first is "
        f"entry {others[0]}"
    )
    if other:
        return [said]
    model = is_model(local(directory))
    files = directory if model else f"{best_seed(directory)}/tokenizer"
    way = "--other_vocabulary to keep the rows of the table under the new words"
    raise UserError(
        f"{said}; prepare the corpus with --tokenizer {files}, or pass {way}"
    )
