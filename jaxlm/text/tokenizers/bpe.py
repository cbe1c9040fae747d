"""Byte-pair encoding: GPT-2's over bytes, GPT-1's over lower-case words.

A word, for masking and for `word_start`, is a unit of text that merges do not cross.
"""

import abc
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxlm.config.checks import optional
from jaxlm.files import read_json, write_file, write_json
from jaxlm.text.sources import read_file
from jaxlm.text.tokenizers.tokenizer import Tokenizer, in_order, padded, signed
from jaxlm.types import UserError

Pairs = Sequence[Sequence[str]]

# The library's threads would take every core of a shared machine, to no other result.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Bpe(Tokenizer):
    """A vocabulary with its merges: pairs of tokens, highest priority first."""

    def __init__(self, tokens: Sequence[str], merges: Pairs, **options: Any):
        super().__init__(tokens, **options)
        self.merges = tuple((left, right) for left, right in merges)

    def _content(self) -> bytes:
        return super()._content() + json.dumps(self.merges).encode()

    def _cut(self, run: str) -> tuple[int, ...]:
        found = self._library.encode(run)
        return signed(found.ids, found.word_ids)

    def grown(self, size: int) -> Tokenizer:
        """See `Tokenizer`."""
        return type(self)(padded(self.tokens, size), self.merges, **self.options)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the tokens; byte-level BPE gives exactly the encoded text."""
        return self._library.decode([int(id) for id in ids], skip_special_tokens=False)

    @property
    @abc.abstractmethod
    def _library(self) -> Library:
        """The library's tokenizer, without special tokens."""

    @classmethod
    def read(cls, directory: Path, **options: Any) -> Tokenizer:
        """The tokenizer that `save` wrote as a pair of files."""
        pair = read_pair(directory / "vocab.json", directory / "merges.txt")
        return cls(*pair, **options)

    def _save_vocabulary(self, directory: Path) -> None:
        write_json(directory / "vocab.json", self._ids)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        text = "".join(f"{line}\n" for line in lines)
        write_file(directory / "merges.txt", text)


# Unicode's white space; Python's \s has U+001C to U+001F too.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BYTE_RUN = re.compile(f" ?[^{_SPACE}]+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]")


def byte_runs(text: str) -> list[str]:
    """The runs of a text that byte-level BPE cuts independently; joined, the text."""
    return _BYTE_RUN.findall(text)


class ByteBpe(Bpe):
    r"""GPT-2's byte-level BPE: every text has ids, no token is unknown.

    A word is a match of GPT-2's pattern: letters, digits or other characters with the
    space before them, and the English endings ('s, 't, 're …).

        's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

    (openai/gpt-2, src/encoder.py.) No word continues after white space, so the runs
    between white space are cut independently. The `tokenizers` library cuts them, and
    decides what is a letter.
    """

    kind = "byte_bpe"
    line_end = "Ċ"
    hf_class = "PreTrainedTokenizerFast"

    def __init__(
        self, tokens: Sequence[str], merges: Pairs, *, prefix_space: bool = False
    ):
        super().__init__(tokens, merges, prefix_space=prefix_space)
        self.prefix_space = prefix_space
        if lacking := set(pre_tokenizers.ByteLevel.alphabet()) - set(tokens):
            what = f"lacks {len(lacking)} of 256 bytes"
            raise UserError(f"a byte-level vocabulary {what}")

    def _runs(self, text: str) -> list[str]:
        prefix = self.prefix_space and text and not text.startswith(" ")
        return byte_runs(f" {text}" if prefix else text)

    @cached_property
    def _library(self) -> Library:
        library = Library(models.BPE(self._ids, list(self.merges)))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        return library

    def library(self) -> Library:
        """This tokenizer as one of the `tokenizers` library, with special tokens."""
        library = Library.from_str(self._library.to_str())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(self.prefix_space)
        library.add_special_tokens(list(dict.fromkeys(self.special_names.values())))
        return library


UNKNOWN = "<unk>"
WORD_END = "</w>"
RUN = re.compile(r"[^ \t\n\r]+")  # other white space is left to the library


class Gpt1Bpe(Bpe):
    """GPT-1's BPE: lower-case words that end in "</w>"; unknown is id 0.

    The files are an `encoder_bpe_40000.json` and a `vocab_40000.bpe`. The option
    `words` says how text is cut into words, whatever packages are installed:

    *basic*, BERT's rules (clean, lower-case, strip accents, split at white space and
    punctuation), as in transformers. Line ends are white space and give no token.

    *spacy*, as published (openai/finetune-transformer-lm, text_utils.py):
    `ftfy.fix_text`, `standardised`, spaCy's English tokens, lower-case. A line end
    inside a text is a word. This needs `pip install ftfy spacy`.

    The vocabulary has no end-of-text token: a document ends with a line end, "\\n</w>".
    """

    kind = "gpt1_bpe"
    hf_class = "OpenAIGPTTokenizer"

    def __init__(self, tokens: Sequence[str], merges: Pairs, *, words: str = "basic"):
        super().__init__(tokens, merges, words=words)
        if UNKNOWN not in self._ids:
            raise UserError(f"a vocabulary of GPT-1's has an entry {UNKNOWN}")
        self.words = words

    @cached_property
    def _library(self) -> Library:
        library = Library(
            models.BPE(
                self._ids,
                list(self.merges),
                unk_token=UNKNOWN,
                end_of_word_suffix=WORD_END,
                continuing_subword_prefix="",
            )
        )
        if self.words == "basic":
            library.normalizer = normalizers.BertNormalizer(lowercase=True)
            library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.BPEDecoder(suffix=WORD_END)
        return library

    def library(self) -> Library | None:
        """This tokenizer as one of the `tokenizers` library; None for spaCy's words."""
        return self._library if self.words == "basic" else None

    def _runs(self, text: str) -> list[str]:
        return self._spacy_words(text) if self.words == "spacy" else RUN.findall(text)

    @cached_property
    def _spacy_words(self) -> Callable[[str], list[str]]:
        """A function that cuts a text into words as published."""
        package = "ftfy spacy; or take BERT's words: --text.words basic"
        ftfy = optional("ftfy", "--text.words spacy", package)
        spacy = optional("spacy.lang.en", "--text.words spacy", package)
        cut = spacy.English().tokenizer  # all that is used of spacy.load("en")

        def words(text: str) -> list[str]:
            found = [t.text.lower() for t in cut(standardised(ftfy.fix_text(text)))]
            # A line end comes with the space behind it; bpe() there makes it "\n</w>".
            return ["\n" if word == "\n " else word for word in found]

        return words


def standardised(text: str) -> str:
    """A text as GPT-1's text_utils.py:text_standardize returns it."""
    for char, plain in (*zip("—–―", "---", strict=True), ("…", "..."), ("´", "'")):
        text = text.replace(char, plain)
    alone = r"(-+|~+|!+|\"+|;+|\?+|\++|,+|\)+|\(+|\\+|\/+|\*+|\[+|\]+|}+|{+|\|+|_+)"
    text = re.sub(alone, r" \1 ", text)
    text = re.sub(r"\s*\n\s*", " \n ", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def read_pair(vocabulary: Path, merges: Path) -> tuple[tuple[str, ...], Pairs]:
    """Tokens and merges of OpenAI's or Hugging Face's pair of files."""
    ids = read_json(vocabulary).items()
    tokens = in_order(((id, token) for token, id in ids), vocabulary)
    lines = read_file(str(merges)).split("\n")
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    known = set(tokens)
    for pair in pairs:
        if len(pair) != 2 or pair[0] + pair[1] not in known:
            merge = " ".join(pair)
            raise UserError(f"{merges}: the merge {merge!r} gives no known token")
    return tokens, pairs
