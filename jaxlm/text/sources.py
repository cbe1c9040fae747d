"""Paths, globs and dataset names → sources of text, opened and unpacked.

TFDS datasets, `tfds:NAME/CONFIG` or `tfds:DIRECTORY`, must be in the format
array_record; records are read by number, without TensorFlow.
"""

import collections
import contextlib
import functools
import glob
import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import zstandard

from jaxlm.types import UserError

SHIPPED = Path(__file__).resolve().parent / "shipped"
_TEXT_FILE = re.compile(r"\.(txt|jsonl)(?:\.gz|\.xz|\.zst)?\Z")
_VOCABULARIES = ("vocab.txt", "merges.txt")  # of a corpus in a directory of text
# ISO 639 with subtags of BCP 47: longer than the letter of a drive, shorter than "tfds"
# and with no "//" behind, as in "gs://".
_LABELLED = re.compile(r"([a-z]{2,3}(?:-[A-Za-z0-9]{1,8})*):(?!//)(.+)", re.DOTALL)
_LIKE_A_LABEL = re.compile(r"[A-Za-z][\w-]+:(?!//)")
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
TFDS = "tfds:"
_TRAIN = "train"  # the split of a corpus's text
_AT_ONCE = 256  # records
_UNPACKED = 1024  # MiB of a compressed file that is read whole


@dataclass(frozen=True)
class Source:
    """One file of text, or one TFDS dataset."""

    name: str  # as found, for messages and the manifest
    kind: str  # "txt", "jsonl", "tfds", or a kind of annotated text
    files: tuple[str, ...]  # local, or gs://
    language: str = ""  # as labelled
    lines: bool = False  # each line is a sentence; False: lines are split

    @functools.cached_property
    def size(self) -> int:
        """The size on disk in bytes, as it was at the first use."""
        return self.on_disk()[0]

    def on_disk(self) -> tuple[int, int]:
        """(size in bytes, time of the last change to any file in nanoseconds)."""
        sizes, times = [0], [0]
        for file in self.files:
            with _explained(self.name):
                if is_remote(file):
                    files = fsspec.filesystem("gs")
                    sizes.append(files.size(file))
                    times.append(int(files.modified(file).timestamp()) * 10**9)
                else:
                    status = os.stat(file)
                    sizes.append(status.st_size)
                    times.append(status.st_ctime_ns)
        return sum(sizes), max(times)

    def sha256(self) -> str:
        """SHA-256 of the files' bytes; UserError if a file cannot be read."""
        total = hashlib.sha256()
        for file in self.files:
            with _explained(self.name), _open(file) as raw:
                hashlib.file_digest(raw, lambda: total)
        return total.hexdigest()


def labelled(spec: str) -> tuple[str, str]:
    """(language, path) of a labelled path like `en:books`; ("", spec) if unlabelled.

    A file whose own name looks labelled can be given as a path, `./en:notes.txt`.
    """
    found = _LABELLED.fullmatch(spec)
    return (found[1], found[2]) if found else ("", spec)


def find_sources(specs: Sequence[str], annotated: str = "") -> list[Source]:
    """The sources that `specs` name, in order, grouped by language.

    Args:
        specs: paths, globs (both may be on `gs://`), directories (their files are
            sorted by path), `shipped:NAME` or `tfds:…`; each may be labelled, `fr:…`.
        annotated: the format of annotated text, whose files may have any name; or "".
    """
    found = [source for spec in specs for source in _sources(spec, annotated)]
    if not found:
        raise UserError("no text given: name files, globs, directories, shipped:austen")
    name, times = collections.Counter(s.name for s in found).most_common(1)[0]
    if times > 1:
        raise UserError(f"{name} is named {times} times")
    languages = list(dict.fromkeys(source.language for source in found))
    if len(languages) > 1 and "" in languages:
        bare = next(source.name for source in found if not source.language)
        named = next(source for source in found if source.language)
        raise UserError(
            f"{named.name} is labelled {named.language}, {bare} has no language: label "
            "all of the text (--text en:PATH zh:PATH) or none"
        )
    return sorted(found, key=lambda source: languages.index(source.language))


def _sources(spec: str, annotated: str) -> list[Source]:
    language, path = labelled(spec)
    if annotated and path.startswith((TFDS, "shipped:")):
        raise UserError(f"{path} is not annotated as {annotated}")
    if path.startswith(TFDS):
        found = [(path, "tfds", tuple(record_files(path)))]
    elif path.startswith("shipped:"):
        files = sorted(SHIPPED.glob("*.txt.xz"))
        shipped = {file.name.partition(".")[0]: str(file) for file in files}
        name = path.removeprefix("shipped:")
        if name not in shipped:
            raise UserError(f"no corpus {path!r}: there are {', '.join(shipped)}")
        found = [(path, "txt", (shipped[name],))]
    else:
        if is_remote(path):
            with _explained(path):
                paths = fsspec.filesystem("gs").glob(path)
            paths = [f"gs://{str(each).lstrip('/')}" for each in paths]
        elif os.path.isdir(path):
            below = (each for each in Path(path).rglob("*") if each.is_file())
            text = (each for each in below if _TEXT_FILE.search(each.name))
            paths = [str(each) for each in text if each.name not in _VOCABULARIES]
        elif os.path.exists(path):
            paths = [path]
        else:
            paths = filter(os.path.isfile, glob.glob(path, recursive=True))
        found = [(each, annotated or _kind(each), (each,)) for each in sorted(paths)]
    if not found:
        hint = "; a language is labelled by its code in lower case, en:PATH"
        hint *= bool(_LIKE_A_LABEL.match(path))
        raise UserError(f"no text file matches {path!r}{hint}")
    return [Source(*each, language) for each in found]


def is_remote(path: str) -> bool:
    """Whether a path is on `gs://`."""
    return path.startswith("gs://")


def _kind(path: str) -> str:
    if found := _TEXT_FILE.search(path):
        return found[1]
    raise UserError(f"{path} is none of *.txt, *.jsonl (.gz, .xz, .zst)")


def sha256(path: Path) -> str:
    """SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def open_source(source: Source, start: int = 0) -> Iterator[tuple[Any, Any]]:
    """(unpacked stream, from byte `start` on; packed stream) of a one-file source.

    Damage found later, while reading, is a UserError too.
    """
    path = source.files[0]
    with _explained(source.name), _open(path) as packed:
        unpacked = _unpacked(path, packed)
        if unpacked is packed:
            packed.seek(start)
            start = 0
        while start > 0:
            start -= len(got := unpacked.read(min(start, 1 << 20)))
            if not got:
                raise EOFError("it is shorter than it was")
        yield unpacked, packed


Digests = dict[str, bytes]  # path → SHA-256 of a file, as it is on disk


def read_file(path: str, digests: Digests | None = None) -> str:
    """The text of a UTF-8 file, local or on `gs://`, compressed or not.

    The SHA-256 of the file is added to `digests`.
    """
    with _explained(path), contextlib.closing(_open(path)) as file:
        raw = file.read()
        packed, parts = io.BytesIO(raw), []
        unpacked = _unpacked(path, packed)
        while part := unpacked.read(1 << 20):
            parts.append(part)
            if unpacked is not packed and len(parts) > _UNPACKED:
                raise UserError(
                    f"{path} unpacks to more than {_UNPACKED:,} MiB: unpack it before"
                )
        content = b"".join(parts)
    if digests is not None:
        digests[path] = hashlib.sha256(raw).digest()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {row}: byte 0x{content[error.start]:02x} is not UTF-8: "
            "convert the file (iconv -t utf-8 -f its encoding)"
        ) from None


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGED, zstandard.ZstdError) as error:
        raise UserError(f"{name} is damaged: {error}") from None
    except ImportError as error:
        raise UserError(f"{name}: {error}; pip install gcsfs") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None


def _open(path: str) -> Any:
    if is_remote(path):
        return io.BufferedReader(fsspec.filesystem("gs").open(path))
    return open(path, "rb")


class _Zstd(io.RawIOBase):
    """A reader of zstd files. Unlike the library's, it reports truncated files."""

    def __init__(self, raw: Any):
        self._raw, self._ready = raw, b""
        self._frame: Any = None

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


def _unpacked(path: str, raw: Any) -> Any:
    match os.path.splitext(path)[1]:
        case ".gz":
            return gzip.open(raw)
        case ".xz":
            return lzma.open(raw)
        case ".zst":
            return io.BufferedReader(_Zstd(raw))
    return raw


def _builder(spec: str, split: str, fields: Sequence[str]):
    import tensorflow_datasets as tfds

    name = spec.removeprefix(TFDS)
    try:
        # A dataset's directory holds dataset_info.json, or a version that does.
        info = [*Path(name).glob("dataset_info.json"), *Path(name).glob("*/*info.json")]
        if info or name.startswith("gs://"):
            builder = tfds.builder_from_directory(info[-1].parent if info else name)
        else:
            builder = tfds.builder(name, try_gcs=False)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{spec} is no TFDS dataset: {reason}") from None
    stored = builder.info.splits and builder.info.file_format.value == "array_record"
    if not stored:
        raise UserError(
            f"{spec} is not in {builder.data_path} as array_record: make it with "
            f"`tfds build {name} --file_format=array_record`"
        )
    if split and split not in builder.info.splits:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"{spec} has no split {split!r}: it has {splits}")
    for field in fields:
        if field not in (builder.info.features or ()):
            have = ", ".join(builder.info.features or ())
            raise UserError(f'{spec} has no field "{field}": it has {have}')
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


def read_records(spec: str, start: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, count of all records, text) of each record from `start` on."""
    builder = _builder(spec, _TRAIN, ("text",))
    for number, count, record in _records(builder, _TRAIN, start):
        text = record["text"]
        yield number, count, text.encode() if isinstance(text, str) else text


def read_columns(spec: str, split: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """Some fields of each record as text; a class is its name, or "" if unknown; a list
    or an array stays one."""
    builder = _builder(spec, split, columns)
    names = [getattr(builder.info.features[each], "names", None) for each in columns]

    def cell(value: Any, classes: Sequence[str] | None) -> Any:
        if classes is not None:
            return classes[int(value)] if 0 <= int(value) < len(classes) else ""
        if isinstance(value, list | dict) or getattr(value, "ndim", 0):
            return value  # no text
        return value.decode() if isinstance(value, bytes) else str(value)

    for _, _, record in _records(builder, split, 0):
        yield [cell(record[c], n) for c, n in zip(columns, names, strict=True)]


def _records(builder: Any, split: str, start: int) -> Iterator[tuple[int, int, Any]]:
    records: Any = builder.as_data_source(split=split)
    for first in range(start, len(records), _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, len(records)))
        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
            yield number, len(records), record
