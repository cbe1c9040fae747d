"""A prepared corpus, opened: where sentences start, tokens by position."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.text.manifest import Manifest, read_manifest
from jaxlm.text.store import TYPES, damage, files_below, open_array, read_array, sha256
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.types import UserError

IN_MEMORY = 1 << 26  # tokens; a corpus up to this size is loaded once


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents of sentences of tokens; any number of threads may read."""

    directory: str
    manifest: Manifest
    sentences: np.ndarray  # int64 [m], the token at which each sentence starts, rising
    documents: np.ndarray  # int64 [d, 3]: first token, language, split (1: held out)
    in_memory: bool = True

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents of all splits."""
        return self.manifest.tokens

    @property
    def sha256(self) -> str:
        """Digest of the content, wherever the directory lies."""
        return self.manifest.sha256

    @property
    def end_of_document(self) -> int | None:
        """Id of the token after each document; None if there is none."""
        return self.manifest.end_of_document

    def language_tokens(self, split: int) -> np.ndarray:
        """Tokens of each language in a split, int64 [languages]."""
        sizes = np.diff(self.documents[:, 0], append=self.num_tokens)
        inside = self.documents[:, 2] == split
        out = np.zeros(int(self.documents[:, 1].max(initial=0)) + 1, np.int64)
        np.add.at(out, self.documents[inside, 1], sizes[inside])
        return out

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return load_tokenizer(Path(self.directory) / "tokenizer")

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The word of each id: the vocabulary, then the corpus's other words."""
        path = Path(self.directory) / TYPES
        more = path.read_text(encoding="utf-8").split("\n")[:-1]
        return (*self.tokenizer.tokens, *more)

    @cached_property
    def _arrays(self) -> list[Any]:
        read = read_array if self.in_memory else open_array
        return [read(Path(self.directory) / name) for name in ("tokens", "marks")]

    def read(
        self, starts: np.ndarray, width: int, lengths: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (int32) and marks (uint8), both [R, width], from each start on.

        Args:
            starts: int64 [R], not negative; positions past the corpus's end are 0.
            lengths: int64 [R], at most `width`: so many are read, the rest is 0.

        Raises:
            UserError: the files are damaged, or hold ids outside the vocabulary.
        """
        starts = np.minimum(starts, self.num_tokens)
        lengths = np.full_like(starts, width) if lengths is None else lengths
        ends = np.minimum(starts + lengths, self.num_tokens)
        shape = len(starts), width
        tokens, marks = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
        if self.in_memory:
            at = starts[:, None] + np.arange(width)
            there = at < ends[:, None]
            for out, array in zip((tokens, marks), self._arrays, strict=True):
                out[there] = array[at[there]]
        else:
            # All reads at once: faster than one of many ranges (`oindex`, `ts.Batch`).
            ranges = list(zip(starts.tolist(), ends.tolist(), strict=True))
            reads = [
                (row[: end - start], array[start:end].read())
                for out, array in zip((tokens, marks), self._arrays, strict=True)
                for row, (start, end) in zip(out, ranges, strict=True)
            ]
            with damage(self.directory):
                for row, read in reads:
                    row[:] = read.result()
        known = self.manifest.vocab_size + self.manifest.oov_words
        if tokens.max(initial=0) >= known:
            raise UserError(
                f"corpus {self.directory} has token {tokens.max()}, its vocabulary "
                f"{known} entries: delete it and prepare it again"
            )
        return tokens, marks


def open_corpus(directory: str, verify: bool = False) -> Corpus:
    """A complete corpus; `verify` compares all bytes with the recorded digests.

    Raises:
        UserError: it is incomplete, or its files are not those of the manifest.
    """
    path = Path(directory)
    manifest = read_manifest(path)
    again = "delete it and prepare it again"
    present = dict(files_below(path))
    for name, recorded in manifest.files.items():
        if name not in present:
            raise UserError(f"corpus {directory} lacks its file {name}: {again}")
        size = present[name].stat().st_size
        if size != recorded["bytes"]:
            raise UserError(
                f"corpus {directory}: {name} has {size:,} bytes, had "
                f"{recorded['bytes']:,}: {again}"
            )
        if verify and sha256(present[name]) != recorded["sha256"]:
            raise UserError(f"corpus {directory}: {name} was changed: {again}")
    arrays = {
        "tokens": (manifest.tokens,),
        "marks": (manifest.tokens,),
        "sentences": (manifest.sentences,),
        "documents": (manifest.documents, 3),
    }
    for name, shape in arrays.items():
        if open_array(path / name).shape != shape:
            raise UserError(f"corpus {directory}: {name} is not {shape}: {again}")
    return Corpus(
        directory=str(directory),
        manifest=manifest,
        sentences=read_array(path / "sentences"),
        documents=read_array(path / "documents"),
        in_memory=manifest.tokens <= IN_MEMORY,
    )
