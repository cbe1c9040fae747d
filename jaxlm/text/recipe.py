"""How text is read: one record for the command line, `prepare` and the manifest.

Imports nothing heavy, because `jaxlm prepare --help` imports this file.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from jaxlm.config import RunConfig, TextConfig
from jaxlm.types import UserError

Sentences = Literal["auto", "split", "lines"]
Errors = Literal["strict", "replace"]
ANNOTATED = ("pku", "conll")  # formats in which the text gives its own spans
_WITH_FIELDS = ("jsonl", "csv", "parquet", "tfds")  # kinds of sources


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How any text is read."""

    sentences: Sentences = "auto"
    """lines: each line is a sentence; split: lines are paragraphs; auto: detect."""
    errors: Errors = "strict"
    """Bytes that are not UTF-8: stop, or replace and count them."""
    field: str = ""
    """Field or column with the text in .jsonl, .csv, .parquet and tfds; empty: text, or
    turns of dialogues."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions(FileOptions):
    """How text is read: the options that are not part of a run's config."""

    spans: str = "none"
    """What finds words, phrases and entities, for ERNIE's masks and whole words:
    rjieba, spacy (or spacy:MODEL), or annotations in the text: pku (word/tag), conll
    (columns)."""
    lexicon: str = ""
    """File of your own entities, one a line, which take precedence over --spans."""
    holdout: float = 0.0
    """Share of documents, chosen by hash, that are kept for evaluation."""

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise UserError(f"holdout = {self.holdout} is not in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Recipe(ReadOptions, TextConfig):
    """Everything that a corpus depends on, except its sources."""

    languages: tuple[str, ...] = ("en",)
    """Languages of the text, by language id."""
    seed: int = 0
    """Chooses held-out documents, and the sample that the vocabulary learns from."""
    smoothing: float = 1.0
    """Exponent by which languages are sampled for the vocabulary."""
    vocab_size: int = 0
    """Entries of the vocabulary."""
    given: str = ""
    """SHA-256 of the tokenizer that was given; empty: one is trained."""
    lexicon_sha256: str = ""
    """Digest of the lexicon's entries; the same list may move to another file."""
    held_below: float = 0.0
    """Documents with a hash below this are held out; 0: below `holdout`."""

    def __post_init__(self) -> None:
        ReadOptions.__post_init__(self)
        TextConfig.__post_init__(self)

    @classmethod
    def of(cls, config: RunConfig, options: ReadOptions, **more: Any) -> "Recipe":
        """The recipe for a run's config and options; `more` has its other fields."""
        values = {f.name: getattr(options, f.name) for f in fields(ReadOptions)}
        values |= {f.name: getattr(config.text, f.name) for f in fields(TextConfig)}
        values |= {"seed": config.seed, "smoothing": config.smoothing}
        return cls(**values | {"vocab_size": config.model.vocab_size} | more)

    @classmethod
    def stored(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe stored in a manifest; missing fields have their defaults."""
        values = dict(values)
        if "given" not in values:  # as corpora of the first version have it
            tokenizer = values.pop("tokenizer")
            trained = tokenizer.removeprefix("trained ")
            values["given" if trained == tokenizer else "tokenizer"] = trained
            values["languages"] = values.get("languages") or [values["language"]]
            values["lexicon_sha256"] = values.pop("lexicon", "")
        return cls(**values | {"languages": tuple(values["languages"])})

    @property
    def annotated(self) -> bool:
        """Whether the text is annotated with spans."""
        return self.spans in ANNOTATED

    @property
    def marks_spans(self) -> bool:
        """Whether phrases and entities are marked."""
        return self.spans != "none" or bool(self.lexicon or self.lexicon_sha256)

    def difference(self, before: "Recipe") -> str | None:
        """The first field that would change the corpus, with both values, or None."""
        old, new = before._deciding(), self._deciding()
        for name in dict.fromkeys(["given", *old, *new]):
            if old.get(name) != new.get(name):
                called = "tokenizer" if name == "given" else name
                return f"{called} is {new.get(name)!r}, was {old.get(name)!r}"
        return None

    def _deciding(self) -> dict[str, Any]:
        """Name → value of the fields that the corpus depends on."""
        idle = {"errors", "lexicon", "language", "unused", "held_below"}
        if self.given:
            idle |= {"tokenizer", "vocab_size", "lowercase", "words", "smoothing"}
            idle |= set() if self.holdout else {"seed"}
        if len(self.languages) == 1:
            idle |= {"smoothing"}
        if self.tokenizer != "words":
            idle |= {"words"}
        every = dataclasses.asdict(self)
        return {name: every[name] for name in every if name not in idle}

    def check(self, sources: Sequence[Any]) -> None:
        """Raise UserError if options conflict with each other or with the sources."""
        chosen = f"sentences = {self.sentences!r}, but"
        own = self.sentences != "auto"
        plain = [each.name for each in sources if each.kind not in _WITH_FIELDS]
        if self.field and len(plain) == len(sources):
            raise UserError(f"--field {self.field}: {plain[0]} has no fields")
        if self.dialogues:
            lists = ("jsonl", "parquet")
            other = next((each.name for each in sources if each.kind not in lists), "")
            if other or own:
                raise UserError(
                    'text.dialogues: a dialogue is a line of .jsonl with "turns", each '
                    f"a sentence; {f'not {other}' if other else 'leave sentences out'}"
                )
        if self.verbatim and own:
            raise UserError(f"{chosen} text.verbatim splits no line: leave it out")
        if self.marks_spans and (self.verbatim or self.tokenizer != "wordpiece"):
            remedy = "take an encoder's recipe, or leave --spans and --lexicon out"
            raise UserError(f"phrases and entities need WordPiece's tokens: {remedy}")
        if self.spans == "conll" and own:
            raise UserError(f"{chosen} files of columns have their own: leave it out")
        if self.annotated and self.chinese != "as_is":
            this = f"text.chinese = {self.chinese}"
            raise UserError(f"{this}: convert annotated files beforehand")
