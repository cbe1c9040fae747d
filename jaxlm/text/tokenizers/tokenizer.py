"""What every tokenizer has in common: tokens ↔ ids, texts → ids and word starts."""

from __future__ import annotations

import abc
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Library

from jaxlm.text.json_files import write_json
from jaxlm.types import SpecialTokens, UserError

Kind = Literal["wordpiece", "byte_bpe", "sentencepiece", "gpt1_bpe", "words"]
WordRule = Literal["basic", "spacy", "space"]  # see gpt1_bpe.py and word_vocab.py

# Of a vocabulary trained here, in this order, as ids 0 … 4.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What RoBERTa and others call them.
_ALSO = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
# Named so by GPT-2; stored after each document where a vocabulary has it.
END_OF_DOCUMENT = "<|endoftext|>"
# The file beside the exchange formats by which `load` knows what we saved.
OPTIONS_FILE = "jaxlm_tokenizer.json"


class Encoded(NamedTuple):
    """Texts as one run of tokens: text i has the next `counts[i]` of them."""

    ids: np.ndarray  # int32 [n]
    word_start: np.ndarray  # bool [n]
    counts: np.ndarray  # int64 [texts]
    oov_words: tuple[str, ...] = ()  # the words of ids from `vocab_size` on


class Tokenizer(abc.ABC):
    """A vocabulary and the way from text to its ids and back.

    Text is never searched for special tokens unless `specials=True`: a "[MASK]" in a
    corpus is four characters and a word, as in Google's code.
    """

    kind: ClassVar[Kind]
    line_end: ClassVar[str] = "\n"  # as tokens spell it

    def __init__(self, tokens: Sequence[str]):
        self.tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self.training: dict | None = None  # what `train_tokenizer` found

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to `vocab_size - 1`."""
        return len(self.tokens)

    @cached_property
    def special(self) -> SpecialTokens | None:
        """BERT's five; None where the vocabulary lacks one (GPT-2's lacks all)."""
        names = [self.special_names.get(role, "") for role in SPECIAL]
        if any(name not in self._ids for name in names):
            return None
        ids = [self._ids[name] for name in names]
        return SpecialTokens(*ids, vocab_size=self.vocab_size)

    @cached_property
    def special_names(self) -> dict[str, str]:
        """What may stand for a special token in a text → its name in the vocabulary."""
        names: dict[str, str] = {}
        for role, also in zip(SPECIAL, _ALSO, strict=True):
            if name := next((n for n in (role, also) if n in self._ids), None):
                names[role] = names[name] = name
        if END_OF_DOCUMENT in self._ids:
            names[END_OF_DOCUMENT] = END_OF_DOCUMENT
        return names

    @property
    def end_of_document(self) -> int | None:
        """Id of `<|endoftext|>`, which a corpus stores after each document."""
        return self._ids.get(END_OF_DOCUMENT)

    @property
    def boundaries(self) -> tuple[int, int] | None:
        """Ids stored before and after each sentence; None: none are."""
        return None

    @property
    def keeps_oov_words(self) -> bool:
        """Whether words outside the vocabulary have ids of their own, beyond it."""
        return False

    @cached_property
    def ends_line(self) -> np.ndarray:
        """bool [V]: tokens that hold a line end; none where it is mere white space."""
        return np.array([self.line_end in token for token in self.tokens])

    @cached_property
    def sha256(self) -> str:
        """Of everything that decides the ids, whatever file it was read from."""
        return hashlib.sha256(self._content()).hexdigest()

    @property
    @abc.abstractmethod
    def options(self) -> dict:
        """What decides the ids beside the vocabulary; plain data."""

    def _content(self) -> bytes:
        content = {"kind": self.kind, "tokens": self.tokens, **self.options}
        return json.dumps(content, sort_keys=True).encode()

    @abc.abstractmethod
    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """All `texts` at once: the fast way, and the one `prepare` takes."""

    def encode_batch(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Each text's ids (int32) and word starts (bool)."""
        ids, word_start, counts, _ = self.encode_flat(texts)
        ends = np.cumsum(counts).tolist()
        ranges = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        return [(ids[each], word_start[each]) for each in ranges]

    def encode(self, text: str, *, specials: bool = False) -> Encoded:
        """The tokens of one text; `specials`: "[MASK]" and its like mean their ids."""
        if not specials or not self.special_names:
            return self.encode_flat([text])
        pattern = "|".join(map(re.escape, self.special_names))
        parts = [self._part(part) for part in re.split(f"({pattern})", text)]
        ids = np.concatenate([ids for ids, _ in parts])
        word_start = np.concatenate([word_start for _, word_start in parts])
        return Encoded(ids, word_start, np.array([len(ids)]))

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        if name := self.special_names.get(part):
            return np.array([self._ids[name]], np.int32), np.array([True])
        return self.encode_flat([part])[:2]

    @abc.abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Readable text; special tokens stay as they are spelled."""

    def token(self, id: int | np.integer) -> str:
        """The token of an id; IndexError outside the vocabulary."""
        if not 0 <= id < self.vocab_size:
            raise IndexError(f"id {id} is not in [0, {self.vocab_size})")
        return self.tokens[id]

    def id(self, token: str) -> int | None:
        """The id of a token, None where the vocabulary lacks it."""
        return self._ids.get(token)

    def save(self, directory: str | Path) -> None:
        """Write what `load` and transformers read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._save_files(directory)
        content = {"kind": self.kind, **self.options, "sha256": self.sha256}
        if self.training is not None:
            content["training"] = self.training
        write_json(directory / OPTIONS_FILE, content)

    @abc.abstractmethod
    def _save_files(self, directory: Path) -> None: ...

    def _save_config(self, directory: Path, name: str, **more) -> None:
        roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        named = {
            role: self.special_names[special]
            for role, special in zip(roles, SPECIAL, strict=True)
            if special in self.special_names
        }
        if END_OF_DOCUMENT in self._ids:
            named["eos_token"] = END_OF_DOCUMENT
            if self.special is None:  # a decoder's: it begins a text, too
                named["bos_token"] = END_OF_DOCUMENT
        config = {"tokenizer_class": name, **more, **named}
        write_json(directory / "tokenizer_config.json", config)


def encoded(
    parts: Sequence[tuple[Sequence[int] | np.ndarray, np.ndarray]],
) -> Encoded:
    """(ids, word starts) of each text as one run."""
    if not parts:
        ids, word_start, counts = (np.empty(0, t) for t in (np.int32, bool, np.int64))
        return Encoded(ids, word_start, counts)
    return Encoded(
        np.concatenate([np.array(ids, np.int32) for ids, _ in parts]),
        np.concatenate([word_start for _, word_start in parts]),
        np.array([len(ids) for ids, _ in parts], np.int64),
    )


def write_library(directory: Path, library: Library) -> None:
    """The `tokenizer.json` that Hugging Face's clients read."""
    # The library's own `save` raises bare exceptions.
    text = library.to_str(pretty=True)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")


def checked_tokens(tokens: Sequence[str], path: str | Path) -> tuple[str, ...]:
    """`tokens`, none twice; UserError names the first one that is."""
    seen: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if seen.setdefault(token, i) != i:
            raise UserError(
                f"{path}: token {token!r} stands at {seen[token]} and again at {i}"
            )
    if not tokens:
        raise UserError(f"{path} is an empty vocabulary")
    return tuple(tokens)


def padded(tokens: Sequence[str], size: int) -> tuple[str, ...]:
    """`tokens` and as many `[unused0]`, `[unused1]` … as make `size` of them."""
    present = set(tokens)
    names = (f"[unused{i}]" for i in range(size + len(tokens)))
    fresh = (name for name in names if name not in present)
    return (*tokens, *(next(fresh) for _ in range(size - len(tokens))))
