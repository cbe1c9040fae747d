"""A corpus in the making: flat files that grow by blocks, a journal of what is sure.

A unit is journalled when its bytes are on disk; whatever lies beyond the journal is cut
off when the job goes on. Where the tokenizer has an end-of-document token, it is stored
after each document. Where it keeps words that its vocabulary lacks, they are numbered
here in order of appearance, and `types.txt` lists them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from jaxlm.text.blocks import Block, token_dtype
from jaxlm.text.store import TYPES, write_array
from jaxlm.text.tokenizers.tokenizer import Tokenizer
from jaxlm.text.tokenizers.word_vocab import MOST_STRANGERS, UNKNOWN_ID
from jaxlm.types import Mark

_JOURNAL = "journal.json"


@dataclass(frozen=True)
class Journal:
    """What is on disk, and where the text goes on."""

    source: int = 0  # number of the source
    offset: int = 0  # of the first fragment that is not in the parts
    tokens: int = 0
    sentences: int = 0
    documents: int = 0
    held_out: int = 0
    text_bytes: int = 0
    replaced: int = 0
    strangers: int = 0  # words that the vocabulary lacks
    stranger_bytes: int = 0  # of the list of them
    spans: int = 0  # phrases and entities
    spans_dropped: int = 0
    finished: bool = False


def read_journal(directory: Path) -> Journal:
    """How far the parts in a directory are."""
    path = directory / _JOURNAL
    return Journal(**json.loads(path.read_text())) if path.is_file() else Journal()


class Parts:
    """The growing files of one job."""

    def __init__(self, directory: Path, tokenizer: Tokenizer):
        self._directory = directory
        self._end_of_document = tokenizer.end_of_document
        self._vocab_size = tokenizer.vocab_size
        self._dtypes = {
            "tokens": (token_dtype(tokenizer), ()),
            "marks": (np.dtype(np.uint8), ()),
            "sentences": (np.dtype(np.int64), ()),
            "documents": (np.dtype(np.int64), (3,)),
        }
        self.journal = read_journal(directory)
        self._pending: np.ndarray | None = None  # a document without tokens as yet
        self._files = {name: self._open(name) for name in self._dtypes}
        self._strangers: dict[str, int] = {}
        if tokenizer.keeps_strangers:
            path = directory / TYPES
            path.touch()
            os.truncate(path, self.journal.stranger_bytes)
            words = path.read_text(encoding="utf-8").split("\n")[:-1]
            self._strangers = {word: i for i, word in enumerate(words)}
            self._files[TYPES] = path.open("ab")

    def _rows(self, name: str) -> int:
        return self.journal.tokens if name == "marks" else getattr(self.journal, name)

    def _row_bytes(self, name: str) -> int:
        dtype, tail = self._dtypes[name]
        return dtype.itemsize * int(np.prod(tail, dtype=int))

    def _open(self, name: str):
        path = self._directory / f"{name}.bin"
        path.touch()
        os.truncate(path, self._rows(name) * self._row_bytes(name))
        return open(path, "ab")

    def append(self, block: Block) -> None:
        """Add a block's tokens; they count once `commit` has been called."""
        documents = block.documents
        if self._pending is not None:
            documents = np.concatenate([self._pending, documents])
            self._pending = None
        # Of documents at the same token all but the last are empty.
        end = np.append(documents[1:, 0], len(block.tokens))
        if len(documents) and documents[-1, 0] == len(block.tokens):
            self._pending = documents[-1:] * [0, 1, 1]
        documents = documents[documents[:, 0] < end]
        sentences, marks = block.sentences, block.marks.copy()
        tokens, strangers = self._numbered(block)
        starts, languages, splits = documents.T
        marks[starts] |= np.uint8(Mark.DOCUMENT)
        if self._end_of_document is not None:
            ends = starts[1:] if not self.journal.documents else starts
            tokens = np.insert(tokens, ends, self._end_of_document)
            marks = np.insert(marks, ends, np.uint8(Mark.WORD))
            sentences = sentences + np.searchsorted(ends, sentences, side="right")
            starts = starts + np.searchsorted(ends, starts, side="right")
        at = self.journal.tokens
        table = np.stack([starts + at, languages, splits], axis=1)
        self._write(tokens, marks, sentences + at, table)
        self.journal = replace(
            self.journal,
            tokens=at + len(tokens),
            sentences=self.journal.sentences + len(sentences),
            documents=self.journal.documents + len(table),
            held_out=self.journal.held_out + int(splits.sum()),
            text_bytes=self.journal.text_bytes + block.text_bytes,
            replaced=self.journal.replaced + block.replaced,
            strangers=len(self._strangers),
            stranger_bytes=self.journal.stranger_bytes + strangers,
            spans=self.journal.spans + block.spans,
            spans_dropped=self.journal.spans_dropped + block.spans_dropped,
        )

    def _numbered(self, block: Block) -> tuple[np.ndarray, int]:
        """The block's tokens by the numbers of all blocks; bytes added to the list."""
        if not block.strangers:
            return block.tokens, 0
        fresh = [w for w in block.strangers if w not in self._strangers]
        fresh = fresh[: MOST_STRANGERS - len(self._strangers)]
        for word in fresh:
            self._strangers[word] = len(self._strangers)
        written = "".join(f"{word}\n" for word in fresh).encode()
        self._files[TYPES].write(written)
        numbers = [self._strangers.get(word, -1) for word in block.strangers]
        numbers = np.array(numbers, np.int64) + self._vocab_size
        numbers[numbers < self._vocab_size] = UNKNOWN_ID
        tokens = block.tokens.copy()
        stranger = tokens >= self._vocab_size
        tokens[stranger] = numbers[tokens[stranger] - self._vocab_size]
        return tokens, len(written)

    def _write(self, *arrays: np.ndarray) -> None:
        for name, array in zip(self._dtypes, arrays, strict=True):
            self._files[name].write(array.tobytes())

    def finish(self) -> None:
        """Commit, and say that there is no more text."""
        if self._end_of_document is not None and self.journal.documents:
            token = np.array([self._end_of_document], self._dtypes["tokens"][0])
            mark = np.array([Mark.WORD], np.uint8)
            self._write(token, mark, *np.empty((2, 0), np.int64))
            self.journal = replace(self.journal, tokens=self.journal.tokens + 1)
        self.journal = replace(self.journal, finished=True)
        self.commit(self.journal.source, self.journal.offset)

    def commit(self, source: int, offset: int) -> None:
        """Make what was appended sure; the text goes on at `offset` of `source`."""
        self._pending = None  # what follows starts a document
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.journal = replace(self.journal, source=source, offset=offset)
        fresh = self._directory / (_JOURNAL + ".new")
        with open(fresh, "w") as file:
            json.dump(asdict(self.journal), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._directory / _JOURNAL)

    def close(self) -> None:
        """Close the files; what was not committed will be cut off."""
        for file in self._files.values():
            file.close()

    def write_arrays(self, directory: Path) -> Iterator[int]:
        """Write the corpus's arrays; yields how many bytes of the parts are done."""
        done = 0
        for name, (dtype, tail) in self._dtypes.items():
            shape = (self._rows(name), *tail)
            with open(self._directory / f"{name}.bin", "rb") as file:
                for rows in write_array(directory / name, dtype, shape, file):
                    yield done + rows * self._row_bytes(name)
            done += shape[0] * self._row_bytes(name)
        if TYPES in self._files:
            shutil.copyfile(self._directory / TYPES, directory / TYPES)

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(self._rows(name) * self._row_bytes(name) for name in self._dtypes)
