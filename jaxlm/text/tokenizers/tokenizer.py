"""The base class of all tokenizers: tokens ↔ ids, texts → ids and word starts."""

import abc
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers.processors import TemplateProcessing

from jaxlm.files import write_file, write_json
from jaxlm.text.sources import read_file
from jaxlm.types import SpecialTokens, UserError

Kind = Literal["wordpiece", "byte_bpe", "sentencepiece", "gpt1_bpe", "words"]

# Of a vocabulary that is trained here: ids 0 … 4, in this order.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Their names in RoBERTa and others.
_ALSO = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
SPECIAL_OF = dict(zip(_ROLES, SPECIAL, strict=True))  # transformers' word → ours
# GPT-2's name; stored after each document if a vocabulary has it.
END_OF_DOCUMENT = "<|endoftext|>"
LINE_END = "\n</w>"  # ends a document where the vocabulary, GPT-1's, has no other
# Special tokens that have a part in rows, wherever they come from.
USUAL = frozenset((*SPECIAL, *_ALSO, END_OF_DOCUMENT))
LIBRARY_FILE = "tokenizer.json"
# The file by which `load_tokenizer` knows what we saved.
OPTIONS_FILE = "jaxlm_tokenizer.json"

_UNUSED = re.compile(r"\[unused\d+\]")
CACHED = 1 << 18  # runs of text whose ids are kept: runs recur, to cut one is costly
LONGEST_CACHED = 32  # characters; longer runs rarely recur


class Encoded(NamedTuple):
    """The tokens of several texts end to end; text i has `counts[i]` tokens."""

    ids: np.ndarray  # int32 [n]
    word_start: np.ndarray  # bool [n]
    counts: np.ndarray  # int64 [texts]
    oov_words: tuple[str, ...] = ()  # the words of ids from `vocab_size` on


class Tokenizer(abc.ABC):
    """A vocabulary, with text → ids and ids → text.

    A text is cut into runs, mostly at white space, whose ids do not depend on their
    neighbours, and the ids of a run are cached. Special tokens are recognised only with
    `specials=True`: a "[MASK]" in a corpus is just characters, as in Google's code. The
    ids depend on the vocabulary and on `options`, which are plain data.
    """

    kind: ClassVar[Kind | Literal["library"]]
    line_end: str = "\n"  # as tokens spell it
    boundaries: ClassVar[tuple[int, int] | None] = None  # ids stored round a sentence
    keeps_oov_words: ClassVar[bool] = False  # words that are not in it have ids, too
    hf_class: str = ""  # of transformers, which reads the saved files

    def __init__(self, tokens: Sequence[str], **options: Any):
        self.tokens = tuple(tokens)
        self.options = options
        self.training: dict | None = None  # what `train_tokenizer` found
        self.hf_options: dict[str, Any] = {}  # what transformers has to know
        # Names that are not the usual ones: of `SPECIAL`, and of the "end" of a
        # document and the "begin" of a text.
        self.names: Mapping[str, str] = {}
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._known = functools.lru_cache(CACHED)(self._cut)

    @abc.abstractmethod
    def _runs(self, text: str) -> list[str]:
        """The parts of a text that `_cut` handles independently."""

    @abc.abstractmethod
    def _cut(self, run: str) -> tuple[int, ...]:
        """The ids of a run's tokens; a token that starts a word has ~id instead."""

    @property
    def vocab_size(self) -> int:
        """The number of entries; ids run from 0 to `vocab_size - 1`."""
        return len(self.tokens)

    @functools.cached_property
    def special(self) -> SpecialTokens | None:
        """The ids of BERT's five special tokens; None if the vocabulary lacks one."""
        names = [self.special_names.get(role, "") for role in SPECIAL]
        if not all(names):
            return None
        ids = (self._ids[name] for name in names)
        return SpecialTokens(*ids, vocab_size=self.vocab_size)

    @functools.cached_property
    def special_names(self) -> dict[str, str]:
        """Spelling of a special token in a text → its name in the vocabulary."""
        names: dict[str, str] = {}
        for role, also in zip(SPECIAL, _ALSO, strict=True):
            every = (self.names.get(role), role, also)
            if name := next((n for n in every if n in self._ids), None):
                names[role] = names[name] = name
        ends = (self.names.get(role, END_OF_DOCUMENT) for role in ("end", "begin"))
        return names | {name: name for name in ends if name in self._ids}

    @property
    def end_of_document(self) -> int | None:
        """Id that a corpus stores after each document; None: it stores none."""
        end = self._ids.get(self.names.get("end", END_OF_DOCUMENT))
        return self._ids.get(LINE_END) if end is None else end

    @property
    def begin_of_text(self) -> int | None:
        """Id that an empty prompt stands for."""
        return self._ids.get(self.names.get("begin", ""), self.end_of_document)

    @property
    def drawn(self) -> int:
        """Ids from here on only pad the vocabulary; they are `[unusedN]`."""
        fill = itertools.takewhile(_UNUSED.fullmatch, reversed(self.tokens))
        return self.vocab_size - sum(1 for _ in fill)

    @property
    def like(self) -> Kind:
        """The kind that it is, or that it resembles."""
        assert self.kind != "library"
        return self.kind

    def grown(self, size: int) -> "Tokenizer":
        """With `[unusedN]` entries, up to `size`."""
        return type(self)(padded(self.tokens, size), **self.options)

    @functools.cached_property
    def ends_line(self) -> np.ndarray:
        """bool [V]: whether each token contains a line end."""
        return np.array([self.line_end in token for token in self.tokens])

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of everything that decides the ids; it is independent of files."""
        return hashlib.sha256(self._content()).hexdigest()

    def _content(self) -> bytes:
        content = {"kind": self.kind, "tokens": self.tokens, **self.options}
        return json.dumps(content, sort_keys=True).encode()

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """The tokens of all texts, in the fastest way."""
        flat, known, cut = itertools.chain.from_iterable, self._known, self._cut

        def ids_of(run: str) -> tuple[int, ...]:
            return known(run) if len(run) <= LONGEST_CACHED else cut(run)

        parts = [list(flat(map(ids_of, self._runs(text)))) for text in texts]
        counts = np.fromiter(map(len, parts), np.int64, len(parts))
        ids = np.fromiter(flat(parts), np.int32, int(counts.sum()))
        return Encoded(np.where(ids < 0, ~ids, ids), ids < 0, counts)

    def encode(self, text: str, *, specials: bool = False) -> Encoded:
        """The tokens of a text; with `specials`, "[MASK]" in it becomes that token."""
        if not specials or not self.special_names:
            return self.encode_flat([text])
        pattern = "|".join(map(re.escape, self.special_names))
        parts = re.split(f"({pattern})", text)  # text, name, text, name … text
        found = self.encode_flat(parts[::2])
        named = [self._ids[self.special_names[name]] for name in parts[1::2]]
        places = np.cumsum(found.counts)[:-1]
        ids = np.insert(found.ids, places, named)
        word_start = np.insert(found.word_start, places, True)
        return Encoded(ids, word_start, np.array([len(ids)]))

    @abc.abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; special tokens are spelled out."""

    def token(self, id: int | np.integer) -> str:
        """The token with this id; IndexError if it is outside the vocabulary."""
        if not 0 <= id < self.vocab_size:
            raise IndexError(f"id {id} is not in [0, {self.vocab_size})")
        return self.tokens[id]

    def id(self, token: str) -> int | None:
        """The id of a token; None if the vocabulary lacks the token."""
        return self._ids.get(token)

    def library(self) -> Library | None:
        """This tokenizer as one of the `tokenizers` library; None if not supported."""
        return None

    def library_text(self) -> str:
        """The content of a tokenizer.json, "" if there is none; [CLS] and [SEP] are put
        around a text."""
        library = self.library()
        if library and self.special is not None:
            names = self.special_names
            return with_frame(library, names["[CLS]"], names["[SEP]"])
        return library.to_str(pretty=True) if library else ""

    @classmethod
    def read(cls, directory: Path, **options: Any) -> "Tokenizer":
        """The tokenizer that `save` wrote."""
        return cls(read_vocabulary(directory / "vocab.txt"), **options)

    def _save_vocabulary(self, directory: Path) -> None:
        lines = "".join(f"{token}\n" for token in self.tokens)
        write_file(directory / "vocab.txt", lines)

    def save(self, directory: str | Path) -> None:
        """Write the files that `load_tokenizer` and transformers read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._save_vocabulary(directory)
        if text := self.library_text():
            # The library's own `save` raises bare exceptions.
            write_file(directory / LIBRARY_FILE, text)
        if self.hf_class:
            config = {"tokenizer_class": self.hf_class, **self.hf_options}
            for role, special in SPECIAL_OF.items():
                if special in self.special_names:
                    config[role] = self.special_names[special]
            end = self.names.get("end", END_OF_DOCUMENT)
            if end in self._ids:
                config["eos_token"] = end
                if self.special is None:  # a decoder's: it begins a text, too
                    config["bos_token"] = self.names.get("begin", end)
            write_json(directory / "tokenizer_config.json", config)
        content = {"kind": self.kind, **self.options, "sha256": self.sha256}
        if self.training is not None:
            content["training"] = self.training
        write_json(directory / OPTIONS_FILE, content)


def with_frame(library: Any, cls: str, sep: str) -> str:
    """The tokenizer.json that puts two tokens around a text, as BERT has them."""
    library.post_processor = TemplateProcessing(
        f"{cls} $A {sep}",
        f"{cls} $A {sep} $B:1 {sep}:1",
        [(each, library.token_to_id(each)) for each in (cls, sep)],
    )
    return library.to_str(pretty=True)


def signed(ids: Sequence[int], words: Sequence[int | None]) -> tuple[int, ...]:
    """`ids`; ~id where another word begins, by the numbers of their words."""
    pairs = zip(ids, itertools.pairwise([None, *words]), strict=True)
    return tuple(id if word == before else ~id for id, (before, word) in pairs)


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The tokens of a `vocab.txt`: one a line, or "token<TAB>id".

    Blanks at the end of a line are not part of a token, unless there is nothing else.
    """
    lines = [line.rstrip("\r") for line in read_file(str(path)).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    pairs = [line.rpartition("\t") for line in lines]
    if lines and all(tab and id.isdecimal() for _, tab, id in pairs):
        return in_order(((int(id), token) for token, _, id in pairs), path)
    return checked_tokens([line.rstrip() or line for line in lines], path)


def in_order(pairs: Iterable[tuple[Any, str]], path: Path) -> tuple[str, ...]:
    """Tokens by id; UserError unless ids are 0 … n - 1, each once."""
    pairs = list(pairs)
    if {type(id) for id, _ in pairs} <= {int}:
        pairs.sort()
        if [id for id, _ in pairs] == list(range(len(pairs))):
            return checked_tokens([token for _, token in pairs], path)
    raise UserError(f"{path}: ids are not 0 to {len(pairs) - 1}, each once")


def checked_tokens(tokens: Sequence[str], path: str | Path) -> tuple[str, ...]:
    """`tokens`, checked: UserError if there are none or if a token is repeated."""
    seen: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if seen.setdefault(token, i) != i:
            first = seen[token]
            raise UserError(f"{path}: token {token!r} stands at {first} and at {i}")
    if not tokens:
        raise UserError(f"{path} is an empty vocabulary")
    return tuple(tokens)


def padded(tokens: Sequence[str], size: int) -> tuple[str, ...]:
    """`tokens` padded with `[unused0]`, `[unused1]` … to `size` tokens."""
    present = set(tokens)
    names = (f"[unused{i}]" for i in range(size + len(tokens)))
    fresh = (name for name in names if name not in present)
    return (*tokens, *itertools.islice(fresh, size - len(tokens)))
