"""WordPiece as Google's BERT does it: text → words → pieces, fast by memory.

The rules are those of google-research/bert `tokenization.py` (eedf571), to the letter:

1. drop U+0000, U+FFFD and control characters (Cc, Cf) but tab, newline, return;
2. put spaces round each CJK ideograph (not kana, not hangul); split at white space;
3. if lower-casing: `str.lower`, NFD, drop combining marks (Mn);
4. split off each punctuation character (ASCII's symbols and Unicode P*);
5. cut each word greedily into the longest pieces of the vocabulary, "##" before all but
   the first; a word that cannot be cut, or is longer than 200 characters, is `[UNK]`.

What a character is, Python's `unicodedata` says, as it does in Google's code.
Nothing in a word's pieces depends on its neighbours, and words recur, so the pieces of
a word are worked out once and remembered. A word, for masking and for `word_start`, is
what step 4 leaves: pieces with "##" continue one, all others start one.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from jaxlm.text.tokenizers.cache import Cache
from jaxlm.text.tokenizers.tokenizer import (
    SPECIAL,
    Encoded,
    Tokenizer,
    checked_tokens,
    encoded,
    write_library,
)
from jaxlm.types import UserError

MAX_WORD = 200  # characters; Google's since 2019 (100 before, and in HF's Python code)

CJK = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)
_FAR_EAST = re.compile("[\u3400-\U0002fa1f]")  # a quick look: may have ideographs
_RUN = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
# Controls that `str.split` takes for white space and Google drops, and our separator.
_CONTROL_SPACE = re.compile("[\x00\x0b\x0c\x1c-\x1f\x85]")
SEPARATOR = "\x00"  # what `separated` puts behind each text


_ASCII_WORD = re.compile("[A-Za-z0-9]+|[!-~]")


class _Alone(dict):
    """Character → whether it is punctuation, as Google has it."""

    def __missing__(self, char: str) -> bool:
        if char.isascii():
            alone = "!" <= char <= "~" and not char.isalnum()
        else:
            alone = unicodedata.category(char).startswith("P")
        self[char] = alone
        return alone


_ALONE = _Alone()


def _cleaned(run: str) -> str:
    return "".join(
        char
        for char in run
        if char != "\ufffd" and unicodedata.category(char) not in ("Cc", "Cf")
    )


def basic_words(run: str, *, lowercase: bool) -> list[str]:
    """The words of a run of text without white space or, but alone, an ideograph."""
    plain = run.isascii() and run.isprintable()
    if not plain:
        run = _cleaned(run)
    if lowercase:
        run = run.lower()
    if plain:
        return _ASCII_WORD.findall(run)
    if lowercase:
        marked = unicodedata.normalize("NFD", run)
        run = "".join(char for char in marked if unicodedata.category(char) != "Mn")
    words: list[str] = []
    for alone, chars in itertools.groupby(run, _ALONE.__getitem__):
        if alone:
            words.extend(chars)
        else:
            words.append("".join(chars))
    return words


def separated(texts: Sequence[str]) -> list[str]:
    """Runs of all texts, each text followed by the separator."""
    joined = "\n".join(text.replace("\n", " ") for text in texts) + "\n"
    if _CONTROL_SPACE.search(joined):
        joined = _CONTROL_SPACE.sub("", joined)
    joined = joined.replace("\n", f" {SEPARATOR} ")
    return _RUN.findall(joined) if _FAR_EAST.search(joined) else joined.split()


class WordPiece(Tokenizer):
    """A `vocab.txt` and whether text is lower-cased and stripped of accents first."""

    kind = "wordpiece"

    def __init__(
        self, tokens: Sequence[str], *, lowercase: bool, max_word: int = MAX_WORD
    ):
        super().__init__(tokens)
        if "[UNK]" not in self._ids:
            raise UserError("a WordPiece vocabulary needs an [UNK] entry")
        self.lowercase = lowercase
        self.max_word = max_word
        self._model = models.WordPiece(
            self._ids, unk_token="[UNK]", max_input_chars_per_word=max_word
        )
        self._pieces = Cache(self._cut)
        self._runs = Cache(self._cut_run)
        self._starts = np.array([not token.startswith("##") for token in self.tokens])

    @property
    def options(self) -> dict:
        """What decides the ids beside the vocabulary."""
        return {"lowercase": self.lowercase, "max_word": self.max_word}

    def _cut(self, word: str) -> tuple[int, ...]:
        return tuple(piece.id for piece in self._model.tokenize(word))

    def _cut_run(self, run: str) -> tuple[int, ...]:
        if run == SEPARATOR:
            return (-1,)
        words = basic_words(run, lowercase=self.lowercase)
        return tuple(id for word in words for id in self._pieces[word])

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """All `texts` at once; 2 to 10 MB/s on one core."""
        if not texts:
            return encoded([])
        ids = itertools.chain.from_iterable(
            map(self._runs.__getitem__, separated(texts))
        )
        all_ids = np.fromiter(ids, np.int32)
        end = np.flatnonzero(all_ids < 0) - np.arange(len(texts))
        ids = all_ids[all_ids >= 0]
        return Encoded(ids, self._starts[ids], np.diff(end, prepend=0))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Words with one space between them, none before punctuation or in Chinese."""
        tokens = [self.token(int(id)) for id in ids]
        text = decoders.WordPiece(prefix="##", cleanup=True).decode(tokens)
        return re.sub(
            f"(?<=[{CJK}，。：；！？、]) | (?=[{CJK}，。：；！？、])", "", text
        )

    def _save_files(self, directory: Path) -> None:
        lines = "".join(f"{token}\n" for token in self.tokens)
        (directory / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")
        write_library(directory, self.library())
        self._save_config(
            directory,
            "BertTokenizer",
            do_lower_case=self.lowercase,
            strip_accents=None,
            tokenize_chinese_chars=True,
        )

    def library(self) -> Library:
        """The same rules for the `tokenizers` library, as transformers reads them.

        It differs from Google's code where a word ends in a capital sigma (it knows one
        lower-case form) and in characters that its Unicode tables do not know.
        """
        library = Library(self._model)
        library.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        library.add_special_tokens([t for t in SPECIAL if t in self._ids])
        if self.special is not None:
            library.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]",
                pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                special_tokens=[
                    ("[CLS]", self.special.cls),
                    ("[SEP]", self.special.sep),
                ],
            )
        return library


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The tokens of a `vocab.txt`: one a line, or "token<TAB>id" in order of id.

    Raises:
        UserError: it cannot be read, is empty, or names a token twice.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"vocabulary {path} cannot be read: {error}") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    tokens = [line.rstrip("\r").split("\t")[0] for line in lines]
    return checked_tokens(tokens, path)


def looks_cased(tokens: Sequence[str]) -> bool:
    """Whether more than 1 % of a vocabulary's entries have a capital letter."""
    plain = [token for token in tokens if token[:1] not in ("[", "<")]
    return sum(token != token.lower() for token in plain) > 0.01 * len(plain)
