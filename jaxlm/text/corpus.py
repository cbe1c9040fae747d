"""A prepared corpus on disk: a manifest, and arrays of tokens, marks and offsets.

A corpus on `gs://` is copied to a local cache first, see `remote.py`.

`manifest.json` is written last, so a corpus with a manifest is complete. The arrays are
sharded zarr 3, read and written by TensorStore.
"""

import contextlib
import hashlib
import math
import operator
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from jaxlm.files import DamagedError, is_remote, place, read_object, remedied
from jaxlm.text.recipe import ReadOptions, Recipe
from jaxlm.text.remote import Report, cached, explained
from jaxlm.text.sources import sha256
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer
from jaxlm.text.units import ARRAYS
from jaxlm.types import SpecialTokens, UserError

FORMAT = 1
_AGAIN = "delete the corpus and prepare it again"
MANIFEST = "manifest.json"
TYPES = "types.txt"  # words of ids from `vocab_size` on, one a line
SHARD = 1 << 25  # bytes of a shard, which is one file; it is written at once
CHUNK = 1 << 13  # rows that are packed, and read, together
_CACHE = 32 << 20  # bytes kept for random reads, above all the shards' indices
IN_MEMORY = 1 << 26  # tokens; a corpus up to this size is loaded once


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The counts and digests of a corpus, and the recipe that it was made by."""

    format: int
    tokens: int = 0
    sentences: int = 0
    documents: int = 0
    held_out: int = 0  # documents of split 1
    text_bytes: int = 0  # of the unpacked sources
    replaced: int = 0  # byte sequences that were not UTF-8
    token_dtype: str = "uint16"
    vocab_size: int
    tokenizer_kind: str
    tokenizer_sha256: str = ""
    special: SpecialTokens | None
    end_of_document: int | None  # id stored after each document
    languages: tuple[str, ...] = ("en",)  # by language id
    recipe: Recipe
    sources: tuple[dict, ...] = ()  # name, bytes, sha256 of each, in order
    files: dict = field(default_factory=dict)  # path → bytes, sha256, of what it has
    notes: tuple[str, ...] = ()  # what a user may want to know
    boundaries: tuple[int, int] | None = None  # ids stored round each sentence
    oov_words: int = 0  # outside the vocabulary, with ids from `vocab_size` on

    @classmethod
    def empty(cls, config: Any) -> "Manifest":
        """The manifest of a corpus without text that fits a config."""
        size = config.model.vocab_size
        return cls(
            format=FORMAT,
            vocab_size=size,
            tokenizer_kind=config.text.tokenizer,
            special=SpecialTokens(0, 1, 2, 3, 4, size),
            end_of_document=size - 1,
            recipe=Recipe.of(config, ReadOptions()),
        )

    @property
    def sha256(self) -> str:
        """The digest of the corpus's arrays and tokenizer."""
        lines = [f"{name} {each['sha256']}\n" for name, each in self.files.items()]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def read_manifest(directory: str | os.PathLike) -> Manifest:
    """The manifest of a complete corpus; UserError if it is not complete."""
    path: Any = place(directory) / MANIFEST
    with explained(f"{path} cannot be read"), remedied(_AGAIN):
        if not path.is_file():
            remedy = "make or finish it by `jaxlm prepare`"
            raise UserError(f"no complete corpus in {directory}: {remedy}")
        return _manifest(read_object(path), path)


def _manifest(content: dict[str, Any], path: os.PathLike) -> Manifest:
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise DamagedError(f"{path} has format {found}, this version reads {FORMAT}")
    try:
        for name in ("languages", "sources", "notes", "boundaries"):
            if content.get(name) is not None:
                content[name] = tuple(content[name])
        if "strangers" in content:  # as corpora of the first version have it
            content["oov_words"] = content.pop("strangers")
        content["recipe"] = Recipe.stored(content["recipe"])
        special = content.pop("special")
        return Manifest(**content, special=special and SpecialTokens(**special))
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{path} is not a manifest: {error}") from None


@dataclass(frozen=True, eq=False)
class Corpus:
    """An open corpus: documents, sentences, tokens. Any number of threads may read."""

    directory: str  # as it was named, may be on gs://
    files: Path  # the directory that is read
    manifest: Manifest
    sentences: np.ndarray  # int64 [m], the token at which each sentence starts, rising
    documents: np.ndarray  # int64 [d, 3]: first token, language, split (1: held out)
    in_memory: bool = True

    @property
    def num_tokens(self) -> int:
        """The number of tokens in all documents of all splits."""
        return self.manifest.tokens

    @property
    def sha256(self) -> str:
        """The digest of the content; it does not depend on the path."""
        return self.manifest.sha256

    @property
    def digests(self) -> dict[str, str]:
        """Name → digest in a run's provenance: those of the corpus and tokenizer."""
        tokenizer = self.manifest.tokenizer_sha256
        return {"corpus_sha256": self.sha256, "tokenizer_sha256": tokenizer}

    @property
    def end_of_document(self) -> int | None:
        """The id of the token after each document; None if there is none."""
        return self.manifest.end_of_document

    def language_tokens(self, split: int) -> np.ndarray:
        """The number of tokens of each language in a split, int64 [languages]."""
        sizes = np.diff(self.documents[:, 0], append=self.num_tokens)
        inside = self.documents[:, 2] == split
        out = np.zeros(int(self.documents[:, 1].max(initial=0)) + 1, np.int64)
        np.add.at(out, self.documents[inside, 1], sizes[inside])
        return out

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the corpus was made with."""
        return load_tokenizer(self.files / "tokenizer")

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The word of each id: the vocabulary, then the corpus's other words."""
        more = (self.files / TYPES).read_text(encoding="utf-8").split("\n")[:-1]
        return (*self.tokenizer.tokens, *more)

    @cached_property
    def _arrays(self) -> list[Any]:
        read = read_array if self.in_memory else open_array
        return [read(self.files / name) for name in ("tokens", "marks")]

    def read(
        self, starts: np.ndarray, width: int, lengths: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, marks), int32 and uint8, both [R, width], from each start on.

        Positions past `lengths`, int64 [R], or past the end of the corpus are 0.
        """
        starts = np.minimum(starts, self.num_tokens)
        ends = starts + (width if lengths is None else lengths)
        ends = np.minimum(ends, self.num_tokens)
        shape = len(starts), width
        tokens, marks = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
        # All reads are begun at once: faster than one of many ranges (`oindex`).
        begin = np.asarray if self.in_memory else operator.methodcaller("read")
        with self._damage():
            reads: list[tuple[np.ndarray, Any]] = [
                (row[: end - start], begin(array[start:end]))
                for out, array in zip((tokens, marks), self._arrays, strict=True)
                for row, start, end in zip(
                    out, starts.tolist(), ends.tolist(), strict=True
                )
            ]
            for row, read in reads:
                row[:] = read if self.in_memory else read.result()
        known = self.manifest.vocab_size + self.manifest.oov_words
        if tokens.max(initial=0) >= known:
            what = f"token {tokens.max()}, its vocabulary {known} entries"
            raise UserError(f"corpus {self.directory} has {what}: {_AGAIN}")
        return tokens, marks

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Report damaged files; those of a copy are copied anew at the next start."""
        try:
            with damage(self.files):
                yield
        except UserError as error:
            if not is_remote(self.directory):
                raise
            (self.files / MANIFEST).unlink(missing_ok=True)
            raise UserError(f"{error}: the same command copies them anew") from None


def open_corpus(
    directory: str, cache: str = "", report: Report = lambda progress: None
) -> Corpus:
    """A complete corpus; one on `gs://` is read from its copy in `cache`."""
    manifest = read_manifest(directory)
    if not is_remote(directory):
        return _opened(directory, Path(directory), manifest)
    what = place(directory), manifest.sha256, manifest.files, cache, report
    here = cached(*what)
    try:
        return _opened(directory, here, manifest)
    except UserError:
        (here / MANIFEST).unlink(missing_ok=True)
        return _opened(directory, cached(*what), manifest)


def _opened(directory: str, path: Path, manifest: Manifest) -> Corpus:
    present = dict(files_below(path))
    for name, recorded in manifest.files.items():
        if name not in present:
            raise UserError(f"corpus {directory} lacks its file {name}: {_AGAIN}")
        size = present[name].stat().st_size
        if size != recorded["bytes"]:
            what = f"{name} has {size:,} bytes, had {recorded['bytes']:,}"
            raise UserError(f"corpus {directory}: {what}: {_AGAIN}")
        # Shards have checksums of their own, which TensorStore compares.
        if "/c/" not in name and sha256(present[name]) != recorded["sha256"]:
            raise UserError(f"corpus {directory}: {name} was changed: {_AGAIN}")
    for name in ARRAYS:
        rows = getattr(manifest, "tokens" if name == "marks" else name)
        if open_array(path / name).shape[0] != rows:
            raise UserError(f"corpus {directory}: {name} has not {rows} rows: {_AGAIN}")
    sentences, documents = (read_array(path / n) for n in ("sentences", "documents"))
    in_memory = manifest.tokens <= IN_MEMORY
    return Corpus(str(directory), path, manifest, sentences, documents, in_memory)


def write_array(path: Path, rows: int, pieces: Iterator[np.ndarray]) -> Iterator[float]:
    """Write an array of `rows` rows, given in pieces; yields the share that is done."""
    waiting = next(pieces)
    row = waiting.shape[1:]
    shard = SHARD // (waiting.itemsize * math.prod(row)) // CHUNK * CHUNK
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 3}}
    sharding = {
        "chunk_shape": [CHUNK, *row],
        "codecs": [little, zstd, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    grid = {"chunk_shape": [shard, *row]}
    metadata = {
        "shape": [rows, *row],
        "data_type": waiting.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": grid},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {**_spec(path), "metadata": metadata}
    array = ts.open(spec, create=True, delete_existing=True).result()
    for at in range(0, rows, shard):
        end = min(at + shard, rows)
        while len(waiting) < end - at:
            waiting = np.concatenate([waiting, next(pieces)])
        array[at:end].write(waiting[: end - at]).result()
        waiting = waiting[end - at :]
        yield end / rows


def _spec(path: Path) -> dict[str, Any]:
    # TensorStore takes no "..".
    file = {"driver": "file", "path": os.path.abspath(path)}
    return {"driver": "zarr3", "kvstore": file}


@contextlib.contextmanager
def damage(path: Path | str) -> Iterator[None]:
    """Turn errors of TensorStore about files in `path` into a UserError of one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = str(error).split(" [")[0]
        raise UserError(f"corpus files in {path} are damaged: {reason}") from None


def open_array(path: Path) -> ts.TensorStore:
    """An array on disk that any thread may read; UserError if it cannot be opened."""
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE}})
    with damage(path):
        return ts.open(_spec(path), read=True, context=context).result()


def read_array(path: Path) -> np.ndarray:
    """A whole array in memory; UserError if it cannot be read."""
    array = open_array(path)
    with damage(path):
        return array.read().result()


@contextlib.contextmanager
def writing(directory: str) -> Iterator[None]:
    """Turn errors of writing the directory into a UserError of one line."""
    if "://" in directory and not is_remote(directory):
        raise UserError(f"{directory}: a corpus is written to a directory or to gs://")
    try:
        yield
    except (OSError, ValueError) as error:
        # TensorStore has ValueErrors that quote the system's.
        quoted = re.search(r": ([^:]+) \[os_error_code", str(error))
        if isinstance(error, ValueError) and not quoted:
            raise
        reason = quoted[1] if quoted else getattr(error, "strerror", "") or error
        raise UserError(
            f"corpus {directory} cannot be written: {reason}; the same command goes on"
        ) from error


def files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """(relative path, path) of each file of the arrays and the tokenizer, sorted."""
    if (directory / TYPES).is_file():
        yield TYPES, directory / TYPES
    for name in (*ARRAYS, "tokenizer"):
        for path in sorted((directory / name).rglob("*")):
            if path.is_file():
                yield path.relative_to(directory).as_posix(), path
