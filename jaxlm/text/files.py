"""What a user names as text → the files it means, opened and unpacked as streams."""

from __future__ import annotations

import collections
import contextlib
import glob
import gzip
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from jaxlm.types import UserError

SHIPPED = Path(__file__).resolve().parent / "shipped"
_KINDS = (".txt", ".jsonl")
_PACKINGS = ("", ".gz", ".xz", ".zst")
_DAMAGED = (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
)
_SUFFIXES = tuple(kind + packing for kind in _KINDS for packing in _PACKINGS)


@dataclass(frozen=True)
class Source:
    """One file of text."""

    name: str  # as found, for messages and the manifest
    path: str
    kind: str  # "txt" | "jsonl"
    size: int  # bytes on disk
    changed: int  # when it was last touched, in nanoseconds


def find_sources(specs: Sequence[str]) -> list[Source]:
    """The files that `specs` mean: paths, globs, directories, `shipped:NAME`.

    A glob and a directory give their files in order of path; a directory gives the
    text files below it.

    Raises:
        UserError: nothing is there, or a file is of no known kind or is named twice.
    """
    found: list[Source] = []
    for spec in specs:
        paths = sorted(_paths(spec))
        if not paths:
            raise UserError(f"no text file matches {spec!r}")
        found += [_source(path, spec) for path in paths]
    if not found:
        raise UserError(
            "no text given: name files, globs, directories or shipped:austen"
        )
    name, times = collections.Counter(s.name for s in found).most_common(1)[0]
    if times > 1:
        raise UserError(f"{name} is named {times} times")
    return found


def _paths(spec: str) -> list[str]:
    if spec.startswith("shipped:"):
        name = spec.removeprefix("shipped:")
        names = sorted(p.name.partition(".")[0] for p in SHIPPED.glob("*.txt.xz"))
        if name not in names:
            raise UserError(f"no corpus {spec!r}: there are {', '.join(names)}")
        return [str(SHIPPED / f"{name}.txt.xz")]
    if os.path.isdir(spec):
        below = (p for p in Path(spec).rglob("*") if p.name.endswith(_SUFFIXES))
        return [str(p) for p in below if p.is_file()]
    if os.path.exists(spec):
        return [spec]
    return [p for p in glob.glob(spec, recursive=True) if os.path.isfile(p)]


def _source(path: str, spec: str) -> Source:
    kind = next(
        (k for k in _KINDS if path.endswith(tuple(k + p for p in _PACKINGS))), ""
    )
    if not kind:
        raise UserError(f"{path} is none of *{', *'.join(_KINDS)} (.gz, .xz, .zst)")
    name = spec if spec.startswith("shipped:") else path
    status = os.stat(path)
    return Source(name, path, kind[1:], status.st_size, status.st_ctime_ns)


class Stream:
    """The unpacked bytes of a file, front to back."""

    def __init__(self, name: str, path: str, start: int):
        self._name = name
        with self._explained():
            self._raw = open(path, "rb")  # noqa: SIM115, closed by `close`
            self._unpacked = _unpacked(path, self._raw)
        self._skip(start)

    @property
    def packed_bytes_read(self) -> int:
        """How far the file on disk has been read."""
        return self._raw.tell()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, none at the end; UserError if the file is damaged."""
        with self._explained():
            return self._unpacked.read(count)

    def _skip(self, count: int) -> None:
        with self._explained():
            if self._unpacked is self._raw:
                self._raw.seek(count)
                return
            while count > 0:
                count -= len(got := self._unpacked.read(min(count, 1 << 20)))
                if not got:
                    raise EOFError("it is shorter than it was")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise UserError(f"{self._name} is damaged: {error}") from None
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self._name} cannot be read: {reason}") from None

    def close(self) -> None:
        """Close the file."""
        self._raw.close()


@contextlib.contextmanager
def open_source(source: Source, start: int = 0) -> Iterator[Stream]:
    """The unpacked bytes of a source from byte `start` on.

    Raises:
        UserError: here or on reading: it cannot be read, or what it packs is damaged.
    """
    with contextlib.closing(Stream(source.name, source.path, start)) as stream:
        yield stream


def digest(source: Source) -> str:
    """SHA-256 of the file on disk; UserError if it cannot be read."""
    try:
        with open(source.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{source.name} cannot be read: {error.strerror}") from None


def _unpacked(path: str, raw: BinaryIO) -> BinaryIO:
    if path.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if path.endswith(".xz"):
        return lzma.LZMAFile(raw)
    if path.endswith(".zst"):
        return io.BufferedReader(_Zstd(raw))
    return raw


class _Zstd(io.RawIOBase):
    """The library's own reader takes a truncated file for a complete one."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._frame, self._ready = raw, None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        while not self._ready:
            packed = b""
            if self._frame is not None and self._frame.eof:
                packed, self._frame = self._frame.unused_data, None
            # A kibibyte unpacks to 32 MiB at the very most.
            packed = packed or self._raw.read(1024)
            if not packed and self._frame is None:
                return 0
            if not packed:
                raise EOFError("it ends in the middle of a frame")
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(packed)
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
