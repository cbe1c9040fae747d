"""Sources of text, opened, unpacked and decoded.

TFDS datasets, `tfds:NAME/CONFIG` or `tfds:DIRECTORY`, must be in the format
array_record; records are read by number, without TensorFlow.
"""

import bz2
import codecs
import collections
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import itertools
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from jaxlm.config.checks import instead
from jaxlm.files import bucket_files, is_remote, place
from jaxlm.types import UserError

SHIPPED = Path(__file__).resolve().parent / "shipped"
# First bytes of files that are not UTF-8 text → what these files are.
_NO_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32: convert it (iconv -f utf-32 -t utf-8)",
    codecs.BOM_UTF32_BE: "UTF-32: convert it (iconv -f utf-32 -t utf-8)",
    codecs.BOM_UTF16_LE: "UTF-16: convert it (iconv -f utf-16 -t utf-8)",
    codecs.BOM_UTF16_BE: "UTF-16: convert it (iconv -f utf-16 -t utf-8)",
    b"\x1f\x8b": "packed by gzip: name it *.gz",
    b"\xfd7zXZ": "packed by xz: name it *.xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd: name it *.zst",
    b"BZh91AY&SY": "packed by bzip2: name it *.bz2",
    b"PK\3\4": "a zip archive: unpack it, and take the text out",
    b"%PDF-": "a PDF: take the text out (pdftotext)",
    b"PAR1": "Parquet: name it *.parquet; tasks do not read it",
}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
_DAMAGED_BZ2 = "Invalid data stream"  # an OSError like any other
TFDS = "tfds:"
_TRAIN = "train"  # the split of a corpus's text
Record = tuple[int, bytes, int]  # its number, its data, bytes of the file read by then
_AT_ONCE = 256  # records
_UNPACKED = 1024  # MiB of a compressed file that is read whole
LONGEST_RECORD = 1 << 25  # bytes of one line of .jsonl
_HEAD = 64  # first bytes, which show whether a file is text


@dataclass(frozen=True)
class Source:
    """One file of text, or one TFDS dataset."""

    name: str  # as found, for messages and the manifest
    kind: str  # "txt", "jsonl", "csv", "parquet", "tfds", "wiki", or of annotated text
    files: tuple[str, ...]  # local, or gs://
    language: str = ""  # as labelled
    lines: bool = False  # each line is a sentence; False: lines are split
    field: str = "text"  # of a record, or the column: where the text is

    @functools.cached_property
    def size(self) -> int:
        """The size on disk in bytes, as it was at the first use."""
        return self.on_disk()[0]

    def on_disk(self) -> tuple[int, int]:
        """(size in bytes, time of the last change to any file in nanoseconds)."""
        with explained(self.name):
            found = [(0, 0), *map(size_and_time, self.files)]
        sizes, times = zip(*found, strict=True)
        return sum(sizes), max(times)

    def sha256(self) -> str:
        """SHA-256 of the files' bytes; UserError if a file cannot be read."""
        total = hashlib.sha256()
        for file in self.files:
            with explained(self.name), open_file(file) as raw:
                hashlib.file_digest(raw, lambda: total)
        return total.hexdigest()


def size_and_time(file: str | os.PathLike) -> tuple[int, int]:
    """(size in bytes, time of the last change in nanoseconds) of a file."""
    if is_remote(file):
        status = place(file).stat()
        return status.length, int(status.mtime) * 10**9
    status = os.stat(file)
    return status.st_size, status.st_ctime_ns


def no_field(
    where: str, name: str, have: Iterable[str], remedy: str = "; --field names another"
) -> UserError:
    """The error for a record without a field, or a table without a column."""
    found = instead(name, have, "it has")
    return UserError(f'{where} has no field "{name}": {found}{remedy}')


def sha256(path: Path) -> str:
    """SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def open_source(
    source: Source, start: int = 0, verbatim: bool = False
) -> Iterator[tuple[Any, Any]]:
    """(unpacked stream, from byte `start` on; packed stream) of a one-file source.

    Damage found later, while reading, is a UserError too.
    """
    path = source.files[0]
    with explained(source.name), open_file(path) as packed:
        unpacked = _unpacked(path, packed)
        head = unpacked.peek(_HEAD)
        _check_text(source.name, head[:_HEAD])
        if start and unpacked is packed:  # a pipe is read from its start
            packed.seek(start)
            start = 0
        while start > 0:
            start -= len(got := unpacked.read(min(start, 1 << 20)))
            if not got:
                raise EOFError("it is shorter than it was")
        if b"\r" in head[:-1] and b"\n" not in head and not verbatim:  # of an old Mac
            parts = iter(functools.partial(unpacked.read, 1 << 16), b"")
            feeds = (part.replace(b"\r", b"\n") for part in parts)
            yield io.BufferedReader(_Pieces(feeds)), packed
        else:
            yield unpacked, packed


Digests = dict[str, bytes]  # path → SHA-256 of a file, as it is on disk


def read_file(path: str, digests: Digests | None = None) -> str:
    """The text of a UTF-8 file, local or on `gs://`, compressed or not.

    The SHA-256 of the file is added to `digests`.
    """
    with explained(path), contextlib.closing(open_file(path)) as file:
        content = raw = file.read()
        unpacked = _unpacked(path, packed := io.BytesIO(raw))
        if unpacked is not packed:
            parts = iter(functools.partial(unpacked.read, 1 << 20), b"")
            content = b"".join(itertools.islice(parts, _UNPACKED))
            if next(parts, b""):
                size = f"more than {_UNPACKED:,} MiB"
                raise UserError(f"{path} unpacks to {size}: unpack it before")
    if digests is not None:
        digests[path] = hashlib.sha256(raw).digest()
    _check_text(path, content[:_HEAD])
    return _decoded(path, content)


def read_lines(path: str) -> Iterator[str]:
    """The lines of a UTF-8 file, local or `gs://`, compressed or not, one at a time.

    A line ends at "\\n" or "\\r\\n", and at "\\r" only in a file without "\\n".
    """
    with open_source(Source(path, "txt", (path,))) as (unpacked, _):
        lines = iter(lambda: unpacked.readline(LONGEST_RECORD + 1), b"")
        for number, line in enumerate(lines, start=1):
            if len(line) > LONGEST_RECORD:
                raise UserError(f"{path}, line {number} is longer than 32 MiB")
            yield _decoded(path, line, number).removesuffix("\n").removesuffix("\r")


def read_csv(
    path: str, text: Iterable[str], delimiter: str = ","
) -> Iterator[tuple[str, list[str]]]:
    """("file, line 7", cells) of each row of a table; quoting as in RFC 4180."""
    csv.field_size_limit(LONGEST_RECORD)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        for cells in rows:
            yield f"{path}, line {rows.line_num}", cells
    except csv.Error as error:
        what = str(error).replace("new-line character seen in", "CR in an")
        what = what.partition(" - ")[0]
        raise UserError(f"{path}, line {rows.line_num}: {what}") from None


def _decoded(path: str, content: bytes, line: int = 1) -> str:
    """Decode `content`, which begins at line `line`; drop a byte order mark."""
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        where = f"{path}, line {line}: byte 0x{content[error.start]:02x}"
        remedy = "convert the file (iconv -t utf-8 -f its encoding)"
        raise UserError(f"{where} is not UTF-8: {remedy}") from None


def _check_text(name: str, head: bytes) -> None:
    """Raise UserError if the first bytes of a file show that it is not UTF-8 text."""
    known = (what for start, what in _NO_TEXT.items() if head.startswith(start))
    # Half of the bytes of an English text in UTF-16 are 0.
    binary = len(head) > 8 and head.count(0) > len(head) / 4
    if what := next(known, "binary, or UTF-16 (iconv)" if binary else ""):
        raise UserError(f"{name} is not UTF-8 text but {what}")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `object_pairs_hook`; ValueError if a key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} stands twice")
    return found


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Say in one line why a source cannot be read."""
    try:
        yield
    except (*_DAMAGED, zstandard.ZstdError) as error:
        raise UserError(f"{name} is damaged: {error}") from None
    except ImportError as error:
        raise UserError(f"{name}: {error}; pip install gcsfs") from None
    except OSError as error:
        if str(error) == _DAMAGED_BZ2:
            raise UserError(f"{name} is damaged: {error}") from None
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(f"{name} cannot be read: {reason}") from None


def open_file(path: str) -> Any:
    """Open a local file or one on `gs://`, to read its bytes unchanged."""
    if is_remote(path):
        return io.BufferedReader(bucket_files().open(str(place(path))))
    return open(path, "rb")


class _Pieces(io.RawIOBase):
    """A readable file made of the pieces that an iterator yields."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._ready = filter(None, pieces), b""

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        self._ready = self._ready or next(self._pieces, b"")
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _zstd(raw: Any) -> Iterator[bytes]:
    """The content of a zstd file. Unlike the library's reader, it reports truncated
    files."""
    frame: Any = None
    while packed := raw.read(1024):  # which unpacks to 32 MiB at the very most
        while packed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(packed)
            packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("it ends in the middle of a frame")


def _streams(raw: Any, begun: Callable[[], Any]) -> Iterator[bytes]:
    """The content of a bzip2 or xz file, of one stream or more, in parts of 64 KiB.

    The library's readers end without a word at a damaged head of a later stream.
    """
    stream = begun()
    while packed := raw.read(1 << 16):
        while packed or (stream and not stream.needs_input):
            if stream is None and not (packed := packed.lstrip(b"\0")):
                break  # padding
            stream = stream or begun()
            yield stream.decompress(packed, 1 << 16)
            packed = b""
            if stream.eof:
                packed, stream = stream.unused_data, None
    if stream:
        raise EOFError("it ends in the middle of a stream")


def _opener(parts: Callable[..., Iterator[bytes]], *begun: Any) -> Callable[[Any], Any]:
    return lambda raw: io.BufferedReader(_Pieces(parts(raw, *begun)))


_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".xz": _opener(_streams, lzma.LZMADecompressor),
    ".zst": _opener(_zstd),
    ".bz2": _opener(_streams, bz2.BZ2Decompressor),
}
COMPRESSED = tuple(_OPENERS)


def _unpacked(path: str, raw: Any) -> Any:
    opener = _OPENERS.get(os.path.splitext(path)[1])
    return opener(raw) if opener else raw


def _builder(spec: str, split: str, fields: Sequence[str]):
    import tensorflow_datasets as tfds

    name = spec.removeprefix(TFDS)
    try:
        # A dataset's directory holds dataset_info.json, or a version that does.
        info = [*Path(name).glob("dataset_info.json"), *Path(name).glob("*/*info.json")]
        if info or is_remote(name):
            builder = tfds.builder_from_directory(info[-1].parent if info else name)
        else:
            builder = tfds.builder(name, try_gcs=False)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{spec} is not a TFDS dataset: {reason}") from None
    stored = builder.info.splits and builder.info.file_format.value == "array_record"
    if not stored:
        remedy = f"make it with `tfds build {name} --file_format=array_record`"
        raise UserError(
            f"{spec} is not stored as array_record in {builder.data_path}: {remedy}"
        )
    if split and split not in builder.info.splits:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{spec} has no split {split!r}: it has {splits}")
    for field in fields:
        if field not in (builder.info.features or ()):
            raise no_field(spec, field, builder.info.features or (), remedy="")
    return builder


def split_names(spec: str) -> list[str]:
    """The splits of a dataset; UserError if it is not on this machine."""
    return list(_builder(spec, "", ()).info.splits)


def record_files(
    spec: str, split: str = _TRAIN, fields: Sequence[str] = ("text",)
) -> list[str]:
    """The files of a dataset's records; UserError if it is not on this machine."""
    builder = _builder(spec, split, fields)
    return [str(path) for path in builder.info.splits[split].filepaths]


def read_records(source: Source, start: int) -> Iterator[Record]:
    """The texts of a dataset from record `start` on."""
    builder = _builder(source.name, _TRAIN, (source.field,))
    for number, count, record in _records(builder, _TRAIN, start):
        text = record[source.field]
        if not isinstance(text, str | bytes):
            where = f"{source.name}, record {number + 1}"
            raise UserError(f'{where}: "{source.field}" is {text!r:.60}, not text')
        data = text.encode() if isinstance(text, str) else text
        yield number, data, source.size * number // count


def read_columns(spec: str, split: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Some fields of each record, as text.

    A class becomes its name, or "" if it is unknown. Lists and arrays stay as they are.
    """
    builder = _builder(spec, split, columns)
    names = [getattr(builder.info.features[each], "names", None) for each in columns]

    def cell(value: Any, classes: Sequence[str] | None) -> Any:
        if classes is not None:
            return classes[int(value)] if 0 <= int(value) < len(classes) else ""
        if isinstance(value, list | dict) or getattr(value, "ndim", 0):
            return value
        return value.decode() if isinstance(value, bytes) else str(value)

    for _, _, record in _records(builder, split, 0):
        yield [cell(record[c], n) for c, n in zip(columns, names, strict=True)]


def _records(builder: Any, split: str, start: int) -> Iterator[tuple[int, int, Any]]:
    records: Any = builder.as_data_source(split=split)
    for first in range(start, len(records), _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, len(records)))
        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
            yield number, len(records), record
