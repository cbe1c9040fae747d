"""Vocabularies of words: BERT's WordPiece, and ELMo's whole words.

Both cut words exactly by the rules of google-research/bert `tokenization.py` (eedf571):

1. drop U+0000, U+FFFD and control characters (Cc, Cf) except tab, newline and return;
2. put spaces round each CJK ideograph (not kana, not hangul); split at white space;
3. if lower-casing: `str.lower`, NFD, drop combining marks (Mn);
4. split off each punctuation character (ASCII's symbols and Unicode P*).

As in Google's code, the categories of characters are those of Python's `unicodedata`.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxlm.text.characters import BEGIN, END
from jaxlm.text.tokenizers.tokenizer import SPECIAL, Encoded, Tokenizer
from jaxlm.types import UserError

MAX_WORD = 200  # characters; Google's since 2019
MAX_WORD_HF = 100  # characters; transformers', and Google's before

CJK = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)
_FAR_EAST = re.compile("[\u3400-\U0002fa1f]")  # a quick look: may have ideographs
IDEOGRAPH = re.compile(f"[{CJK}]")
_RUN = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
# Controls that `str.split` takes for white space and Google drops.
_CONTROL_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_ASCII_WORD = re.compile("[A-Za-z0-9]+|[!-~]")


@functools.cache
def _is_punctuation(char: str) -> bool:
    """Whether BERT's rules treat a character as punctuation."""
    if char.isascii():
        return "!" <= char <= "~" and not char.isalnum()
    return unicodedata.category(char).startswith("P")


def runs_of(text: str) -> list[str]:
    """The parts of a text between white space; each ideograph is a separate part."""
    if _CONTROL_SPACE.search(text):
        text = _CONTROL_SPACE.sub("", text)
    return _RUN.findall(text) if _FAR_EAST.search(text) else text.split()


def basic_words(run: str, *, lowercase: bool) -> list[str]:
    """The words of a run of `runs_of`."""
    plain = run.isascii() and run.isprintable()
    if not plain:
        run = "".join(
            char
            for char in run
            if char != "\ufffd" and unicodedata.category(char) not in ("Cc", "Cf")
        )
    if lowercase:
        run = run.lower()
    if plain:
        return _ASCII_WORD.findall(run)
    if lowercase:
        marked = unicodedata.normalize("NFD", run)
        run = "".join(char for char in marked if unicodedata.category(char) != "Mn")
    words: list[str] = []
    for alone, chars in itertools.groupby(run, _is_punctuation):
        word = "".join(chars)
        words += word if alone else [word]
    return words


class WordPiece(Tokenizer):
    """BERT's WordPiece; `lowercase` lower-cases text and strips accents.

    BERT's rules cut text into words, which are the words of masking and `word_start`.
    Each word is cut greedily into the longest pieces of the vocabulary; all pieces but
    the first begin with "##". A word is `[UNK]` if that fails or if it has more than
    200 characters.
    """

    kind = "wordpiece"

    def __init__(
        self, tokens: Sequence[str], *, lowercase: bool, max_word: int = MAX_WORD
    ):
        super().__init__(tokens, lowercase=lowercase, max_word=max_word)
        if "[UNK]" not in self._ids:
            raise UserError("a WordPiece vocabulary needs an [UNK] entry")
        self.lowercase = lowercase
        self.max_word = max_word
        # transformers' BertTokenizer has its own limit, whatever the files say.
        own = max_word == MAX_WORD_HF
        self.hf_class = "BertTokenizer" if own else "PreTrainedTokenizerFast"
        self.hf_options = {"do_lower_case": lowercase, "strip_accents": None}
        self.hf_options["tokenize_chinese_chars"] = True
        if not own:  # that class would leave out the types of a pair
            names = ["input_ids", "token_type_ids", "attention_mask"]
            self.hf_options["model_input_names"] = names
        self._model = models.WordPiece(
            self._ids, unk_token="[UNK]", max_input_chars_per_word=max_word
        )

    def _runs(self, text: str) -> list[str]:
        return runs_of(text)

    def _cut(self, run: str) -> tuple[int, ...]:
        ids: list[int] = []
        for word in basic_words(run, lowercase=self.lowercase):
            first, *rest = (piece.id for piece in self._model.tokenize(word))
            ids += [~first, *rest]
        return tuple(ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text; words are spaced, except before punctuation and in Chinese."""
        tokens = [self.token(int(id)) for id in ids]
        text = decoders.WordPiece(prefix="##", cleanup=True).decode(tokens)
        return re.sub(
            f"(?<=[{CJK}，。：；！？、]) | (?=[{CJK}，。：；！？、])", "", text
        )

    def library(self) -> Library:
        """This tokenizer as one of the `tokenizers` library, with special tokens.

        The library differs from Google's code for words that end in a capital sigma (it
        has one lower-case form) and for characters that its Unicode tables lack.
        """
        library = bert_library(self._model, lowercase=self.lowercase)
        library.add_special_tokens([t for t in SPECIAL if t in self._ids])
        return library


def bert_library(model: models.WordPiece, **rules: Any) -> Library:
    """BERT's rules, see `normalizers.BertNormalizer`, without special tokens."""
    library: Any = Library(model)
    library.normalizer = normalizers.BertNormalizer(**rules)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return library


UNKNOWN = "<UNK>"
BOUNDARIES, UNKNOWN_ID = (0, 1), 2
MARKS = (BEGIN, END, UNKNOWN)  # the first three entries of a vocabulary
MOST_OOV_WORDS = 1 << 22  # of a corpus; later ones are `<UNK>` whole
_LONGEST = 200  # characters of a word that are kept; its first 48 bytes are read
_SKIPPED = "!!!MAXTERMID"  # a line of the released vocabulary that is no word


class WordVocab(Tokenizer):
    """ELMo's words: ids by frequency; words outside the vocabulary keep their spelling.

        the cat sat        0 5 912 52003 1      with <S> and </S> around each sentence

    The vocabulary is that of the softmax: `<S>`, `</S>`, `<UNK>`, then words, the most
    frequent first (allenai/bilm-tf, bilm/data.py). Words outside the vocabulary are
    also read by their characters, and are `<UNK>` only as targets: they have ids from
    `vocab_size` on, in order of appearance. Text that is already cut into words is cut
    at white space alone (`words` = "space").
    """

    kind = "words"
    boundaries = BOUNDARIES
    keeps_oov_words = True

    def __init__(
        self, tokens: Sequence[str], *, lowercase: bool = False, words: str = "basic"
    ):
        tokens = [token for token in tokens if token != _SKIPPED]
        super().__init__(tokens, lowercase=lowercase, words=words)
        if self.tokens[:3] != MARKS:
            found, usual = " ".join(self.tokens[:3]), " ".join(MARKS)
            raise UserError(f"a vocabulary of words begins with {usual}, not {found}")
        self.lowercase, self.words = lowercase, words
        self._oov: dict[str, int] = {}  # each word's id, rising

    def _runs(self, text: str) -> list[str]:
        return text.split() if self.words == "space" else runs_of(text)

    def _words(self, run: str) -> list[str]:
        if self.words == "space":
            return [run.lower() if self.lowercase else run]
        return basic_words(run, lowercase=self.lowercase)

    def cut(self, text: str) -> list[str]:
        """The words of a text."""
        return [word for run in self._runs(text) for word in self._words(run)]

    def _cut(self, run: str) -> tuple[int, ...]:
        ids = []
        for word in self._words(run):
            id = self._ids.get(word, -1)
            if id < len(MARKS):  # a text may hold "<S>": a word, not a boundary
                new = self.vocab_size + len(self._oov)
                id = self._oov.setdefault(word[:_LONGEST], new)
            ids.append(id)
        return tuple(ids)

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """The tokens of all texts; a text with words gets `<S>` and `</S>`."""
        ids, _, counts, _ = super().encode_flat(texts)
        filled = counts[counts > 0]
        ends = np.cumsum(filled)
        edges = np.stack([ends - filled, ends], axis=1).ravel()
        ids = np.insert(ids, edges, np.tile(BOUNDARIES, len(filled)))
        oov = ids >= self.vocab_size
        # Numbered anew, in order of appearance in these texts.
        number = {id: i for i, id in enumerate(dict.fromkeys(ids[oov].tolist()))}
        ids[oov] = [self.vocab_size + number[id] for id in ids[oov].tolist()]
        spelled = list(self._oov)
        words = tuple(spelled[id - self.vocab_size] for id in number)
        counts = counts + 2 * (counts > 0)
        return Encoded(ids, np.ones(len(ids), bool), counts, words)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The words, separated by spaces; ids outside the vocabulary are `<UNK>`."""
        tokens = (*self.tokens, UNKNOWN)
        return " ".join(tokens[min(int(id), self.vocab_size)] for id in ids)
