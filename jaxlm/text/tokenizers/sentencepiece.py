"""SentencePiece: a `.model` file, read and written by its own library.

A word, for masking and for `word_start`, begins at a piece with "▁", at an ideograph
and at the start of a text.
"""

import hashlib
import itertools
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from jaxlm.files import write_file
from jaxlm.text.tokenizers.tokenizer import Tokenizer, padded
from jaxlm.text.tokenizers.words import CJK
from jaxlm.types import UserError

MODEL_FILE = "spiece.model"
_UNUSED = 5  # the type of a piece that is never produced (sentencepiece_model.proto)


class SentencePiece(Tokenizer):
    """A tokenizer made from the bytes of a model, which contain all its options."""

    kind = "sentencepiece"
    hf_class = "PreTrainedTokenizerFast"

    def __init__(self, model: bytes, path: str | Path = MODEL_FILE):
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is not a SentencePiece model: {reason}") from None
        processor = self._processor
        super().__init__([processor.id_to_piece(i) for i in range(len(processor))])
        start = re.compile(f"▁|[{CJK}]")
        self._starts = np.array([bool(start.match(token)) for token in self.tokens])

    def _content(self) -> bytes:
        return b"sentencepiece" + hashlib.sha256(self._model).digest()

    def _runs(self, text: str) -> list[str]:
        return [text]

    def _cut(self, run: str) -> tuple[int, ...]:
        ids = self._processor.encode(run)
        return tuple(
            ~id if i == 0 or self._starts[id] else id for i, id in enumerate(ids)
        )

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids, as the model has normalised it."""
        special = {self._ids[name] for name in self.special_names.values()}
        runs = itertools.groupby((int(id) for id in ids), special.__contains__)
        decode, parts = self._processor.decode, []
        for named, run in runs:
            parts.append(" ".join(map(self.token, run)) if named else decode(list(run)))
        return " ".join(parts)

    @classmethod
    def read(cls, directory: Path, **options: Any) -> "SentencePiece":
        """The tokenizer that `save` wrote as a model."""
        return cls((directory / MODEL_FILE).read_bytes())

    def _save_vocabulary(self, directory: Path) -> None:
        write_file(directory / MODEL_FILE, self._model)

    def grown(self, size: int) -> Tokenizer:
        """See `Tokenizer`."""
        names = padded(self.tokens, size)[self.vocab_size :]
        return SentencePiece(with_unused(self._model, names))

    def library(self) -> Library | None:
        """This tokenizer as one of the `tokenizers` library; None if not a unigram."""
        from sentencepiece import sentencepiece_model_pb2

        proto: Any = sentencepiece_model_pb2
        model = proto.ModelProto.FromString(self._model)
        if model.trainer_spec.model_type != proto.TrainerSpec.UNIGRAM:
            return None
        pieces = [(piece.piece, piece.score) for piece in model.pieces]
        fallback = model.trainer_spec.byte_fallback
        library = Library(models.Unigram(pieces, self._processor.unk_id(), fallback))
        one_space = normalizers.Replace(Regex(" {2,}"), " ")
        rules: list[Any] = [normalizers.Strip(), one_space]
        if charsmap := model.normalizer_spec.precompiled_charsmap:
            rules.insert(0, normalizers.Precompiled(charsmap))
        library.normalizer = normalizers.Sequence(rules)
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        library.decoder = decoders.Metaspace(prepend_scheme="always")
        library.add_special_tokens(list(dict.fromkeys(self.special_names.values())))
        return library


def with_unused(model: bytes, names: Sequence[str]) -> bytes:
    """The model with more pieces at its end that no text produces.

    To add an element to a repeated field of a protocol buffer, append the field again.
    ModelProto.pieces is field 1; a piece has its text (1), score (2) and type (3).
    """
    for name in names:
        text = name.encode()
        piece = b"\x0a" + bytes([len(text)]) + text
        piece += b"\x15" + struct.pack("<f", 0.0) + b"\x18" + bytes([_UNUSED])
        model += b"\x0a" + bytes([len(piece)]) + piece
    return model
