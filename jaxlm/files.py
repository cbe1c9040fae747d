"""Small files: written whole or not at all, and verified when they are read.

    write_file(path, text)             writes another file, syncs it, renames it
    write_sealed(path, content)        JSON with a digest of the content in it
    read_object(path)                  DamagedError, in one line, if it was changed
    place(path)                        a local path, one on `gs://`, `shipped:NAME`

Files without a digest, which older versions wrote, are not verified.
"""

import atexit
import fcntl
import functools
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from jaxlm.types import UserError

if TYPE_CHECKING:
    from etils import epath

SEAL = "sha256"  # the field of a sealed object that holds its digest
SHIPPED = Path(__file__).parent / "shipped"  # models; jaxlm/shipped/README.md
_HUB = r"([\w-]+/)?[\w.-]+"  # a name there
_SIZE = hashlib.sha256().digest_size
_TEMPORARY: set[Path] = set()

T = TypeVar("T", dict, list)


class DamagedError(UserError):
    """A file that was changed after it was written, or that cannot be read."""


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is on `gs://`."""
    return str(path).startswith("gs:/")  # pathlib makes one slash of two


def unshipped(path: str | os.PathLike) -> str | os.PathLike:
    """A path in or of the directory of the model `shipped:NAME`; others as they are."""
    inside = str(path).removeprefix("shipped:")
    if inside == str(path):
        return path
    name = inside.partition("/")[0]
    known = sorted(each.name for each in SHIPPED.iterdir() if each.is_dir())
    if name not in known:
        raise UserError(f"no model shipped:{name}: there are {', '.join(known)}")
    return SHIPPED / inside


def not_downloaded(directory: str | os.PathLike) -> str:
    """A hint if the name of a directory that is missing looks like one of a hub."""
    name = str(directory).lower()
    looks = re.search("bert|gpt|ernie|elmo|electra|minilm", name)
    if looks and ("-" in name or "/" not in name) and re.fullmatch(_HUB, name):
        return "; jaxlm downloads nothing, see jaxlm help weights"
    return ""


def check_own(flag: str, path: str) -> None:
    """Refuse to write where the package has its models."""
    if path.startswith("shipped:"):
        raise UserError(f"{flag} {path} is in the package: name another {flag}")


def place(path: str | os.PathLike) -> "epath.Path":
    """A path, local or on `gs://`, with methods that work on both.

    UserError if its bucket cannot be reached.
    """
    from etils import epath  # here, for `jaxlm --help` to stay fast

    if not is_remote(path):
        return epath.Path(unshipped(path))
    inside = str(path).removeprefix("gs:").lstrip("/")
    _reach(inside.partition("/")[0])
    return epath.Path(f"gs://{inside}")


def absolute(path: str | os.PathLike) -> str:
    """A path that does not depend on the current directory."""
    return str(place(path)) if is_remote(path) else os.path.abspath(unshipped(path))


def listed(path: str | os.PathLike) -> "list[epath.Path]":
    """What a directory holds, sorted; [] if there is no such directory."""
    try:
        return sorted(place(path).iterdir())
    except FileNotFoundError:
        return []


# Directories of a run that hold no file of its model: arrays, logs, its corpus.
_NO_MODEL = {"checkpoints", "best", "tensorboard", "profile", "corpus"}


def local(path: str | os.PathLike) -> Path:
    """A local path of a file, or of the files of a model or run without its arrays.

    What is on `gs://` is copied to a temporary directory, which ends with the process.
    """
    if not is_remote(path):
        return Path(unshipped(path))
    there = place(path)
    here = _copies() / str(there).removeprefix("gs://")
    if there.is_file():
        here.parent.mkdir(parents=True, exist_ok=True)
        bucket_files().get_file(str(there), str(here))
        return here
    for each in listed(there):
        if each.name not in _NO_MODEL and each != there:
            local(each)
    return here


@functools.cache
def _copies() -> Path:
    here = Path(tempfile.mkdtemp(prefix="jaxlm-"))
    _TEMPORARY.add(here)
    atexit.register(_remove, here)
    return here


@contextmanager
def written(path: str | os.PathLike) -> Iterator[Path]:
    """A local directory to write to; files for `gs://` are uploaded at the end."""
    if not is_remote(path):
        Path(path).mkdir(parents=True, exist_ok=True)
        yield Path(path)
        return
    with temporary(Path(tempfile.mkdtemp(prefix="jaxlm-"))) as here:
        yield here
        copy_tree(here, path)


def copy_tree(here: Path, there: str | os.PathLike, *, last: str = "") -> None:
    """Copy all files of a local directory into another one; the file `last` is last."""
    files = [path for path in here.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == last, path)):
        copy = place(there) / path.relative_to(here).as_posix()
        if is_remote(copy):  # appears whole; `open` would keep half of a file
            bucket_files().put_file(str(path), str(copy))
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def bucket_files() -> Any:
    """The files of all buckets, as fsspec has them; for paths that `place` has made."""
    import gcsfs

    return gcsfs.GCSFileSystem()


def answers_later(error: BaseException) -> bool:
    """Whether a bucket is only busy, or not reached, by an error of its client."""
    code = int(getattr(error, "code", None) or 0)
    unreached = type(error).__module__.startswith("aiohttp")  # it had no answer
    return unreached or code in (408, 429) or 500 <= code < 600


def cache_of(name: str) -> Path:
    """A directory of this user for what can be made anew."""
    home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(home, "jaxlm", name)


def host_log(workdir: str | os.PathLike, host: int) -> Path:
    """The file for what a host says besides the lines of the first one."""
    here = Path(tempfile.gettempdir(), f"jaxlm-{os.getuid()}")
    here = Path(workdir) if workdir and not is_remote(workdir) else here
    return here / f"host-{host}.log"


@functools.cache
def _reach(bucket: str) -> None:
    """Raise a UserError if a bucket cannot be listed."""
    import fsspec

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises its errors too
    # Never listed from memory: other hosts, and TensorStore, write there too.
    fsspec.config.conf["gcs"] = {"use_listings_cache": False}
    name = f"gs://{bucket}"
    try:
        bucket_files().call("GET", "b/{}/o", bucket, maxResults=1)
    except ImportError:
        remedy = 'pip install "jaxlm[gcs]"'
        raise UserError(f"{name} needs the package gcsfs: {remedy}") from None
    except FileNotFoundError:
        raise UserError(f"there is no bucket {name}") from None
    except Exception as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        login = "gcloud auth application-default login, or a role for this account"
        remedy = "try again later" if answers_later(error) else f"it needs {login}"
        raise UserError(f"{name} cannot be read: {first}; {remedy}") from error


@contextmanager
def remedied(remedy: str) -> Iterator[None]:
    """Add the remedy to a DamagedError."""
    try:
        yield
    except DamagedError as error:
        raise UserError(f"{error}: {remedy}") from None


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A path whose file or directory is removed at the end."""
    _TEMPORARY.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _TEMPORARY.discard(path)


def remove_temporary() -> None:
    """Remove all temporary files, before a signal ends the process."""
    for path in list(_TEMPORARY):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: os.PathLike, *, sealed: bool = False) -> Iterator[BinaryIO]:
    """A new file that replaces `path` as soon as it is complete and on the disk.

    `sealed`: append a digest of the name and the bytes, for `read_sealed`.
    """
    if is_remote(path):
        there = place(path)
        with written(there.parent) as here, replacing(here / there.name) as file:
            yield file
            if sealed:
                file.seek(0)
                file.write(_read_digest(file, there.name, None))
        return
    path = Path(path)
    with temporary(path.with_name(f".{path.name}.{os.getpid()}.new")) as fresh:
        with open(fresh, "w+b") as file:
            yield file
            if sealed:
                file.seek(0)
                file.write(_read_digest(file, path.name, None))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    with suppress(OSError):  # some network disks sync no directory
        sync(path.parent)


def write_file(path: os.PathLike, *parts: str | bytes) -> None:
    """Write a file from its parts; a kill or a full disk leaves the old file."""
    with replacing(path) as file:
        for part in parts:
            file.write(part.encode() if isinstance(part, str) else part)


@contextmanager
def locked(path: Path, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock on the directory of a file; it ends with the process, too.

    If another process holds it: `wait` is told which and this process waits; without
    `wait` a UserError is raised.
    """
    with open(path, "a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            if wait is None:
                raise UserError(f"{path.parent} is in use by {holder}") from None
            wait(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def sync(path: Path) -> None:
    """Wait until a file, or the list of files in a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: os.PathLike, content: dict | list) -> None:
    """Write readable JSON; equal content gives equal bytes."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # A name that is not UTF-8 has surrogates, which JSON escapes in the same way.
    write_file(path, text.encode(errors="backslashreplace"))


def read_json(path: os.PathLike, kind: type[T] = dict) -> T:
    """The object (or list) in a JSON file; DamagedError if there is none."""
    try:
        content = json.loads(place(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = error.strerror or "there is no such file"
        raise DamagedError(f"{path} cannot be read: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, kind):
        raise DamagedError(
            f"{path} holds no JSON {'list' if kind is list else 'object'}"
        )
    return content


def seal(content: Mapping[str, Any], field: str = SEAL) -> dict[str, Any]:
    """The content with its digest, by which `unseal` detects changes."""
    return {**content, field: _digest_of(content)}


def unseal(content: Any, path: os.PathLike, field: str = SEAL) -> dict[str, Any]:
    """The content without its digest; a DamagedError names `path` if it was changed."""
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds something else than JSON objects")
    content = dict(content)
    found = content.pop(field, None)
    if found is not None and found != _digest_of(content):
        raise DamagedError(f"{path} was changed after it was written")
    return content


def write_sealed(
    path: os.PathLike, content: Mapping[str, Any], field: str = SEAL
) -> None:
    """Write an object with its digest, for `read_object`."""
    write_json(path, seal(content, field))


def read_object(path: os.PathLike, field: str = SEAL) -> dict[str, Any]:
    """The object in a JSON file; DamagedError if it was changed since."""
    return unseal(read_json(path), path, field)


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_sealed(path: Path) -> None:
    """Raise DamagedError if a sealed file was changed after it was written."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size - _SIZE
            whole = size >= 0 and _read_digest(file, path.name, size) == file.read()
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from None
    if not whole:
        raise DamagedError(f"{path} was changed after it was written")


def read_sealed(path: Path) -> memoryview:
    """The bytes of a sealed file, memory-mapped; DamagedError if it was changed."""
    check_sealed(path)
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[:-_SIZE]


def _read_digest(file: BinaryIO, name: str, size: int | None) -> bytes:
    """SHA-256 of a name and of the next `size` bytes of a file; None: all bytes."""
    total, left = hashlib.sha256(name.encode()), sys.maxsize if size is None else size
    while left and (part := file.read(min(left, 1 << 20))):
        total.update(part)
        left -= len(part)
    return total.digest()
