"""A corpus on `gs://`: copied once a host to a local cache, uploaded from there.

    CACHE/<digest>/      a copy; `manifest.json` is written when all files are checked
    CACHE/new-<hash>/    a corpus that `prepare` makes for `gs://`, until it is uploaded

Complete files are kept when a copy or an upload is interrupted, and checked by their
digests when it goes on.
"""

import base64
import contextlib
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from jaxlm.files import bucket_files, cache_of, locked, sync, temporary, write_file
from jaxlm.text.sources import sha256
from jaxlm.types import UserError

_AT_ONCE = 8  # files
_TRIES = 3


class Progress(NamedTuple):
    """How far `prepare`, a copy or an upload is; `done` and `total` are bytes."""

    stage: str  # "sources" | "held out" | "vocabulary" | "tokens" | "arrays" | …
    done: int
    total: int
    tokens: int = 0  # stored so far
    source: str = ""  # the one that is read


Report = Callable[[Progress], None]


def copies(cache: str) -> Path:
    """The directory of copies; `cache` if it is given."""
    return Path(cache).absolute() if cache else cache_of("corpora")


def unfinished(directory: str, cache: str) -> Path:
    """The local directory in which a corpus for `gs://` is made."""
    name = hashlib.sha256(directory.rstrip("/").encode()).hexdigest()
    return copies(cache) / f"new-{name[:16]}"


def cached(
    there: Any, digest: str, files: Mapping[str, dict], cache: str, report: Report
) -> Path:
    """The local copy of the corpus `there`, which is made or mended first.

    Another process that copies it is waited for. UserError if the disk is too small.

    Args:
        there: the corpus's directory on `gs://`.
        digest: of all `files`, which are its manifest's.
    """
    here = copies(cache) / digest[:16]
    with explained(f"corpus {there} cannot be copied to {here}"):
        here.mkdir(parents=True, exist_ok=True)
        lock = here / ".lock"
        with locked(lock, lambda who: report(Progress(f"waiting for {who}", 0, 0))):
            complete = here / "manifest.json"
            if not complete.is_file():
                _fetch(there, here, files, report)
                write_file(complete, (there / complete.name).read_bytes())
    return here


def _fetch(there: Any, here: Path, files: Mapping[str, dict], report: Report) -> None:
    for name in files:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise UserError(f"corpus {there} names a file outside of it: {name}")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        same = pool.map(lambda name: _is_sound(here / name, files[name]), files)
        missing = [name for name, sound in zip(files, same, strict=True) if not sound]
    size = sum(files[name]["bytes"] for name in missing)
    free = shutil.disk_usage(here).free
    if size > free:
        raise UserError(
            f"corpus {there} needs {size / 1e6:,.1f} MB more in {here}, which has "
            f"{free / 1e6:,.1f} MB free: name another disk by --data.cache"
        )

    def copy(name: str) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path.with_name(f".{path.name}.new")) as fresh:
            for _ in range(_TRIES):
                bucket_files().get_file(str(there / name), str(fresh))
                if _is_sound(fresh, files[name]):
                    break
            else:
                remedy = "prepare the corpus again"
                raise UserError(f"{there / name} was changed or is torn: {remedy}")
            sync(fresh)
            fresh.replace(path)

    sizes = {name: files[name]["bytes"] for name in missing}
    _each(copy, sizes, "copying", report)


def _is_sound(path: Path, recorded: Mapping[str, Any]) -> bool:
    same_size = path.is_file() and path.stat().st_size == recorded["bytes"]
    return same_size and sha256(path) == recorded["sha256"]


def upload(here: Path, there: Any, names: Iterable[str], report: Report) -> None:
    """Upload the files of a complete corpus, its manifest last.

    Files that the bucket has already are left as they are.
    """
    root = str(there).removeprefix("gs://")
    with explained(f"corpus {there} cannot be written"):
        for part in (list(names), ["manifest.json"]):
            for _ in range(_TRIES):
                stored = bucket_files().find(str(there), detail=True)
                sizes = {
                    name: (here / name).stat().st_size
                    for name in part
                    if not _is_stored(here / name, stored.get(f"{root}/{name}", {}))
                }
                if not sizes:
                    break
                put = functools.partial(_put, here, there)
                _each(put, sizes, "uploading", report)
            else:
                raise UserError(f"{there} does not keep what is written to it")


def _put(here: Path, there: Any, name: str) -> None:
    bucket_files().put_file(str(here / name), str(there / name))


def _is_stored(path: Path, facts: Mapping[str, Any]) -> bool:
    if facts.get("size") != path.stat().st_size:
        return False
    with open(path, "rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
    return facts.get("md5Hash", digest) == digest


def keep(here: Path, digest: str) -> None:
    """Make an uploaded corpus the cache's copy, for a run on this host."""
    copy = here.with_name(digest[:16])
    if not copy.exists():
        with contextlib.suppress(OSError):
            here.replace(copy)
    shutil.rmtree(here, ignore_errors=True)


def _each(
    work: Callable[[str], None], sizes: Mapping[str, int], stage: str, report: Report
) -> None:
    """Do the work for each name, several at once; a failure ends it soon."""
    done, total = 0, sum(sizes.values())
    report(Progress(stage, 0, total))
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for name, _ in zip(sizes, pool.map(work, sizes), strict=True):
            done += sizes[name]
            report(Progress(stage, done, total))
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn errors of a bucket or a disk into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what}: there is no file {error.filename or error}") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"{what}: {reason or type(error).__name__}; the same command goes on"
        ) from error
