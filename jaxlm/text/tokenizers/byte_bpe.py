"""Byte-level BPE as GPT-2 does it: every text has ids, no token is unknown.

A word is what GPT-2's pattern cuts: letters, digits or other characters with the space
before them, and the English endings ('s, 't, 're …).

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

(openai/gpt-2, src/encoder.py.) No word goes on after white space, so the runs between
are cut independently, by the `tokenizers` library: what is a letter, it decides.
"""

import os
import re
from collections.abc import Sequence

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from jaxlm.text.tokenizers.bpe import Bpe, Pairs
from jaxlm.types import UserError

# The library's threads would take every core of a shared machine, to no other result.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Unicode's white space; Python's \s has U+001C to U+001F too.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_RUN = re.compile(f" ?[^{_SPACE}]+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]")


def runs_of(text: str) -> list[str]:
    """The runs of a text; joined, they are the text."""
    return _RUN.findall(text)


class ByteBpe(Bpe):
    """A `vocab.json` and a `merges.txt`."""

    kind = "byte_bpe"
    line_end = "Ċ"
    hf_class = "PreTrainedTokenizerFast"

    def __init__(
        self, tokens: Sequence[str], merges: Pairs, *, prefix_space: bool = False
    ):
        super().__init__(tokens, merges, prefix_space=prefix_space)
        self.prefix_space = prefix_space
        lacking = set(pre_tokenizers.ByteLevel.alphabet()) - set(tokens)
        if lacking:
            raise UserError(
                f"a byte-level vocabulary has all 256 bytes; {len(lacking)} lack"
            )

    def _runs(self, text: str) -> list[str]:
        prefix = self.prefix_space and text and not text.startswith(" ")
        return runs_of(f" {text}" if prefix else text)

    def _new_library(self) -> Library:
        library = Library(models.BPE(self._ids, list(self.merges)))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        return library

    def library(self) -> Library:
        """The same rules, with the special tokens."""
        library = self._new_library()
        library.pre_tokenizer = pre_tokenizers.ByteLevel(self.prefix_space)
        library.add_special_tokens(list(dict.fromkeys(self.special_names.values())))
        return library
