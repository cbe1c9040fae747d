"""What a user names as text → the files it means, opened and unpacked as streams."""

from __future__ import annotations

import collections
import contextlib
import glob
import gzip
import io
import lzma
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from jaxlm.types import UserError

SHIPPED = Path(__file__).resolve().parent / "shipped"
_KINDS = (".txt", ".jsonl")
_PACKINGS = ("", ".gz", ".xz", ".zst")
_SUFFIXES = tuple(kind + packing for kind in _KINDS for packing in _PACKINGS)


@dataclass(frozen=True)
class Source:
    """One file of text."""

    name: str  # as found, for messages and the manifest
    path: str
    kind: str  # "txt" | "jsonl"
    size: int  # bytes on disk


def find_sources(specs: Sequence[str]) -> list[Source]:
    """The files that `specs` (paths, globs, directories, `shipped:NAME`) mean, in order.

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
    return Source(name, path, kind[1:], os.stat(path).st_size)


@contextlib.contextmanager
def open_source(source: Source, start: int = 0) -> Iterator[BinaryIO]:
    """The unpacked bytes of a source from byte `start` on.

    Raises:
        UserError: the file cannot be opened, or what it packs is damaged.
    """
    try:
        with open(source.path, "rb") as raw, _unpacked(source.path, raw) as stream:
            _skip(stream, start)
            yield stream
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(f"{source.name} is damaged: {error}") from None
    except OSError as error:
        raise UserError(
            f"{source.name} cannot be read: {error.strerror or error}"
        ) from None


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


def _skip(stream: BinaryIO, count: int) -> None:
    if stream.seekable() and isinstance(stream, io.BufferedReader):
        stream.seek(count)
    else:
        while count > 0:
            got = len(stream.read(min(count, 1 << 20)))
            if not got:
                raise EOFError(f"it ends {count} bytes before byte {count}")
            count -= got
