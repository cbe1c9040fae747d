"""GPT-1's BPE: lower-case words, "</w>" behind each, pieces; unknown is id 0.

How a text is cut into words is a choice, by name, that no installed package changes:

*basic*, BERT's rules (clean, lower-case, strip accents, split at white space and
punctuation): what transformers takes. Line ends are white space and leave no token.

*spacy*, as published (openai/finetune-transformer-lm, text_utils.py): `ftfy.fix_text`,
`standardised`, spaCy's English tokens, lower-case. A line end inside a text is a word.
It needs `pip install ftfy spacy`.

The vocabulary has no end-of-text: a document ends with its line end, "\\n</w>".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxlm.text.tokenizers.bpe import Bpe, Pairs
from jaxlm.text.tokenizers.tokenizer import END_OF_DOCUMENT, WordRule, write_library
from jaxlm.types import UserError

UNKNOWN = "<unk>"
WORD_END = "</w>"
_LINE_END = "\n" + WORD_END

_RUN = re.compile(r"[^ \t\n\r]+")  # other white space is left to the library
_PLAIN = re.compile("[A-Za-z0-9]+|[!-~]")


class Gpt1Bpe(Bpe):
    """An `encoder_bpe_40000.json` and a `vocab_40000.bpe`."""

    kind = "gpt1_bpe"

    def __init__(
        self, tokens: Sequence[str], merges: Pairs, *, words: WordRule = "basic"
    ):
        super().__init__(tokens, merges)
        if UNKNOWN not in self._ids:
            raise UserError(f"a vocabulary of GPT-1's has an entry {UNKNOWN}")
        self.words = words

    @property
    def options(self) -> dict:
        """What decides the ids beside vocabulary and merges."""
        return {"words": self.words}

    @property
    def end_of_document(self) -> int | None:
        """Id of `<|endoftext|>`; without one, of the line end."""
        return self._ids.get(END_OF_DOCUMENT, self._ids.get(_LINE_END))

    @cached_property
    def _model(self) -> models.BPE:
        return models.BPE(
            self._ids,
            list(self.merges),
            unk_token=UNKNOWN,
            end_of_word_suffix=WORD_END,
            continuing_subword_prefix="",
            fuse_unk=False,
        )

    @cached_property
    def _library(self) -> Library:
        library = Library(self._model)
        library.normalizer = normalizers.BertNormalizer(lowercase=True)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.BPEDecoder(suffix=WORD_END)
        return library

    @cached_property
    def _spacy_words(self) -> Callable[[str], list[str]]:
        return spacy_words()

    def _runs(self, text: str) -> list[str]:
        return self._spacy_words(text) if self.words == "spacy" else _RUN.findall(text)

    def _cut(self, run: str) -> tuple[int, ...]:
        words = [run] if self.words == "spacy" else self._basic_words(run)
        return tuple(id for word in words for id in self._cut_word(word))

    def _basic_words(self, run: str) -> list[str]:
        if run.isascii() and run.isprintable():
            return _PLAIN.findall(run.lower())
        normalizer: Any = self._library.normalizer
        cut: Any = self._library.pre_tokenizer
        found = cut.pre_tokenize_str(normalizer.normalize_str(run))
        return [word for word, _ in found]

    def _save_files(self, directory: Path) -> None:
        self._save_pair(directory)
        if self.words == "basic":  # others cannot cut as spaCy does
            write_library(directory, self._library)
        self._save_config(directory, "OpenAIGPTTokenizer")


def standardised(text: str) -> str:
    """text_utils.py:text_standardize, to the letter."""
    for char, plain in (*zip("—–―", "---", strict=True), ("…", "..."), ("´", "'")):
        text = text.replace(char, plain)
    text = re.sub(
        r"(-+|~+|!+|\"+|;+|\?+|\++|,+|\)+|\(+|\\+|\/+|\*+|\[+|\]+|}+|{+|\|+|_+)",
        r" \1 ",
        text,
    )
    text = re.sub(r"\s*\n\s*", " \n ", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def spacy_words() -> Callable[[str], list[str]]:
    """Text → the published words.

    Raises:
        UserError: ftfy or spaCy is not installed.
    """
    try:
        import ftfy  # pyrefly: ignore
        from spacy.lang.en import English  # pyrefly: ignore
    except ImportError as error:
        raise UserError(
            f"GPT-1's published words need {error.name}: pip install ftfy spacy; or "
            "take BERT's, as transformers does: --text.words basic"
        ) from None
    cut = English().tokenizer  # of spacy.load("en"), all that is used

    def words(text: str) -> list[str]:
        found = (each.text.lower() for each in cut(standardised(ftfy.fix_text(text))))
        # A line end comes with the space behind it; bpe() there makes it "\n</w>".
        return ["\n" if word == "\n " else word for word in found]

    return words
