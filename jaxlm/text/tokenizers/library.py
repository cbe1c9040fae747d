"""A `tokenizer.json`, run as it is by the `tokenizers` library.

A word, for masking and for `word_start`, is a piece that the pre-tokenizer cuts off;
without a pre-tokenizer, words begin after white space.
"""

import bisect
import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from jaxlm.text.sources import read_file
from jaxlm.text.tokenizers.bpe import RUN, WORD_END, byte_runs
from jaxlm.text.tokenizers.tokenizer import (
    LIBRARY_FILE,
    USUAL,
    Encoded,
    Kind,
    Tokenizer,
    checked_tokens,
    signed,
)
from jaxlm.types import UserError

_WORD = re.compile(r"\s*\S+")
_LIKE: dict[str, Kind] = {"WordPiece": "wordpiece", "Unigram": "sentencepiece"}
_BERT = "BertNormalizer"
_GPT2 = {"add_prefix_space": False, "use_regex": True}
# Options that make a BPE differ from GPT-2's, given equal tokens and merges.
_OF_BPE = "continuing_subword_prefix end_of_word_suffix byte_fallback ignore_merges"


class LibraryTokenizer(Tokenizer):
    """A tokenizer.json, with names of special tokens and a vocabulary without gaps.

    Added tokens are found in any text, except the special tokens of rows (`USUAL` and
    `names`), which are found only with `specials=True`. Ids without a token get
    `[unusedN]`.
    """

    kind = "library"
    hf_class = "PreTrainedTokenizerFast"

    def __init__(
        self,
        text: str,
        *,
        names: Mapping[str, str] | None = None,
        size: int = 0,
        path: Path | str = LIBRARY_FILE,
    ):
        roles = USUAL | set((names or {}).values())
        self._text, (self._rules, library) = text, _opened(text, roles, path)
        ids = library.get_vocab(with_added_tokens=True)
        roles -= {added["content"] for added in self._rules["added_tokens"]}
        library.add_special_tokens([name for name in roles if name in ids])
        library.encode_special_tokens = True  # read as characters
        tokens = _by_id(ids, size, path)
        options = {"names": dict(names)} if names else {}
        super().__init__(tokens, size=len(tokens), **options)
        self._library, self.names = library, options.get("names", {})
        self._normalizer: dict[str, Any] = self._rules.get("normalizer") or {}
        self._cutter: dict[str, Any] = self._rules.get("pre_tokenizer") or {}
        searched = any(not added["special"] for added in self._rules["added_tokens"])
        self._split = None if searched else self._cuts
        self.line_end = "Ċ" if "ByteLevel" in json.dumps(self._cutter) else "\n"
        if self._normalizer.get("type") == _BERT:
            rules = "lowercase", "strip_accents", "handle_chinese_chars"
            words = "do_lower_case", "strip_accents", "tokenize_chinese_chars"
            found = (self._normalizer.get(rule) for rule in rules)
            self.hf_options = dict(zip(words, found, strict=True))
        if self._cutter.get("type") == "ByteLevel":
            self.hf_options = {"add_prefix_space": self._cutter["add_prefix_space"]}

    @property
    def _cuts(self) -> Callable[[str], list[str]] | None:
        """A function that splits a text into runs with independent ids, or None."""
        kind, normalizer = self._cutter.get("type"), self._normalizer.get("type")
        if kind == "BertPreTokenizer" and normalizer in (None, _BERT):
            return RUN.findall
        if kind == "ByteLevel" and normalizer is None:
            rules = {**_GPT2, **self._cutter}
            return byte_runs if rules.items() >= _GPT2.items() else None
        return None

    def _runs(self, text: str) -> list[str]:
        return self._split(text) if self._split else [text]

    def _cut(self, run: str) -> tuple[int, ...]:
        try:
            found = self._library.encode(run, add_special_tokens=False)
        except Exception as error:  # an unknown token that is not in the vocabulary
            raise UserError(f"{LIBRARY_FILE} cannot encode {run!r}: {error}") from None
        if self._cutter and self._cutter.get("split", True):
            return signed(found.ids, found.word_ids)
        bounds = [word.start() for word in _WORD.finditer(run)]
        words = [bisect.bisect_right(bounds, start) for start, _ in found.offsets]
        return signed(found.ids, words)

    def encode(self, text: str, *, specials: bool = False) -> Encoded:
        """See `Tokenizer`."""
        if not specials:
            return self.encode_flat([text])
        for role, name in self.special_names.items() if self.special else ():
            text = text.replace(role, name)
        self._library.encode_special_tokens = False
        try:
            ids = np.array(self._cut(text), np.int32)
        finally:
            self._library.encode_special_tokens = True
        return Encoded(np.where(ids < 0, ~ids, ids), ids < 0, np.array([len(ids)]))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the tokens, by the file's own decoder."""
        return self._library.decode([int(id) for id in ids], skip_special_tokens=False)

    @cached_property
    def framing(self) -> tuple[list[int], list[int]]:
        """The ids that the post-processor adds to one text, and to two texts."""
        one, two = self._library.encode("a"), self._library.encode("a", "a")
        pairs = (zip(x.ids, x.special_tokens_mask, strict=True) for x in (one, two))
        first, second = ([id for id, special in each if special] for each in pairs)
        return first, second

    @property
    def like(self) -> Kind:
        """See `Tokenizer`."""
        model = self._rules["model"]
        words = model.get("end_of_word_suffix") == WORD_END
        return _LIKE.get(model.get("type"), "gpt1_bpe" if words else "byte_bpe")

    @property
    def lowercase(self) -> bool:
        """Whether it lower-cases as BERT does."""
        return bool(self._normalizer.get("lowercase"))

    def _content(self) -> bytes:
        model = self._rules["model"]
        plain = not self.names and model.get("type") == "BPE"
        if (
            plain
            and self._split == byte_runs
            and not any(map(model.get, _OF_BPE.split()))
        ):
            # The digest of a `ByteBpe`, which gives the same ids.
            content = {"kind": "byte_bpe", "tokens": self.tokens, "prefix_space": False}
            merges = json.dumps(merges_of(model))
            return json.dumps(content, sort_keys=True).encode() + merges.encode()
        parts = "added_tokens", "normalizer", "pre_tokenizer", "model"
        rules = json.dumps({part: self._rules.get(part) for part in parts})
        return super()._content() + rules.encode()

    def grown(self, size: int) -> "LibraryTokenizer":
        """See `Tokenizer`."""
        return LibraryTokenizer(self._text, names=self.names, size=size)

    def library(self) -> Library:
        """The library's tokenizer; it reads special tokens as plain characters."""
        return self._library

    def library_text(self) -> str:
        """The text of the file, unchanged."""
        return self._text

    @classmethod
    def read(cls, directory: Path, **options: Any) -> "LibraryTokenizer":
        """See `Tokenizer`."""
        path = directory / LIBRARY_FILE
        return cls(read_file(str(path)), path=path, **options)

    def _save_vocabulary(self, directory: Path) -> None:
        pass


def _opened(
    text: str, roles: Collection[str], path: Path | str
) -> tuple[dict[str, Any], Library]:
    """A tokenizer.json, parsed and as the library's tokenizer.

    Of its added tokens, only those in `roles` are special.
    """
    try:
        rules = json.loads(text)
        rules["added_tokens"] = rules.get("added_tokens") or []
        for added in rules["added_tokens"]:
            added["special"] = added["content"] in roles
        library = Library.from_str(json.dumps(rules))
    except Exception as error:  # the library raises nothing else
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path} is not read by tokenizers: {reason}") from None
    library.no_truncation()
    library.no_padding()
    return rules, library


def merges_of(model: Mapping[str, Any]) -> list[list[str]]:
    """The merges of a tokenizer.json's BPE; old files have them joined by a space."""
    return [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]


def _by_id(ids: Mapping[str, int], size: int, path: Path | str) -> tuple[str, ...]:
    """The tokens by id, at least `size`; an id without a token gets `[unusedN]`."""
    spelled = {id: token for token, id in ids.items()}
    if len(spelled) != len(ids):
        raise UserError(f"{path}: two tokens have one id")
    unused = (f"[unused{i}]" for i in itertools.count())
    fresh = (name for name in unused if name not in ids)
    count = max([size, *(id + 1 for id in spelled)])
    tokens = (spelled[i] if i in spelled else next(fresh) for i in range(count))
    return checked_tokens([*tokens], path)
