"""GPT-1's BPE: lower-case words, "</w>" behind each, pieces; unknown is id 0.

How a text is cut into words is a choice by name, which no installed package changes:

*basic*, BERT's rules (clean, lower-case, strip accents, split at white space and
punctuation), as in transformers. Line ends are white space and leave no token.

*spacy*, as published (openai/finetune-transformer-lm, text_utils.py): `ftfy.fix_text`,
`standardised`, spaCy's English tokens, lower-case. A line end inside a text is a word.
It needs `pip install ftfy spacy`.

The vocabulary has no end-of-text: a document ends with its line end, "\\n</w>".
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxlm.text.tokenizers.bpe import Bpe, Pairs
from jaxlm.text.tokenizers.tokenizer import END_OF_DOCUMENT, WordRule
from jaxlm.types import UserError

UNKNOWN = "<unk>"
WORD_END = "</w>"

_RUN = re.compile(r"[^ \t\n\r]+")  # other white space is left to the library


class Gpt1Bpe(Bpe):
    """An `encoder_bpe_40000.json` and a `vocab_40000.bpe`."""

    kind = "gpt1_bpe"
    hf_class = "OpenAIGPTTokenizer"

    def __init__(
        self, tokens: Sequence[str], merges: Pairs, *, words: WordRule = "basic"
    ):
        super().__init__(tokens, merges, words=words)
        if UNKNOWN not in self._ids:
            raise UserError(f"a vocabulary of GPT-1's has an entry {UNKNOWN}")
        self.words = words

    @property
    def end_of_document(self) -> int | None:
        """Id of `<|endoftext|>`; without one, of the line end."""
        return self._ids.get(END_OF_DOCUMENT, self._ids.get("\n" + WORD_END))

    def _new_library(self) -> Library:
        model = models.BPE(
            self._ids,
            list(self.merges),
            unk_token=UNKNOWN,
            end_of_word_suffix=WORD_END,
            continuing_subword_prefix="",
            fuse_unk=False,
        )
        library = Library(model)
        if self.words == "basic":
            library.normalizer = normalizers.BertNormalizer(lowercase=True)
            library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.BPEDecoder(suffix=WORD_END)
        return library

    def library(self) -> Library | None:
        """The same rules; None for spaCy's words."""
        return self._library if self.words == "basic" else None

    @cached_property
    def _spacy_words(self) -> Callable[[str], list[str]]:
        return spacy_words()

    def _runs(self, text: str) -> list[str]:
        return self._spacy_words(text) if self.words == "spacy" else _RUN.findall(text)


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
    cut = English().tokenizer  # all that is used of spacy.load("en")

    def words(text: str) -> list[str]:
        found = (each.text.lower() for each in cut(standardised(ftfy.fix_text(text))))
        # A line end comes with the space behind it; bpe() there makes it "\n</w>".
        return ["\n" if word == "\n " else word for word in found]

    return words
