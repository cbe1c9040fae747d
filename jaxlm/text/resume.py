"""What `prepare` was asked for, and what an earlier run of it has left on disk."""

import contextlib
import dataclasses
import fcntl
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.recipe import Recipe
from jaxlm.text.sources import Source, as_on_disk, digest, is_remote
from jaxlm.text.texts import lines_are_sentences
from jaxlm.text.units import StoredUnit
from jaxlm.types import UserError

PARTIAL = ".partial"  # the folder of unfinished files, inside the corpus's own
UNITS = "units"  # in that one
_RECORD = "job.json"


@dataclass(frozen=True)
class Job:
    """What is prepared, and how."""

    sources: Sequence[Source]
    recipe: Recipe

    @property
    def total(self) -> int:
        """Bytes of the sources on disk."""
        return sum(source.size for source in self.sources)

    def record(self, report: Callable[[int], None]) -> list[dict]:
        """What the manifest says of each source; reads them all and reports bytes."""
        records, done = [], 0
        for each in self.sources:
            lines = self.recipe.verbatim or lines_are_sentences(
                each, self.recipe.sentences, each.language
            )
            what = {"name": each.name, "bytes": each.size, "sha256": digest(each)}
            if len(self.recipe.languages) > 1:
                what["language"] = each.language
            records.append({**what, "lines": lines})
            done += each.size
            report(done)
        return records

    def difference(
        self, recipe: Recipe, recorded: Sequence[dict], since: int
    ) -> str | None:
        """The first thing in which this job is not the recorded one; None: the same.

        A source is compared by its digest only if its size has changed or if it was
        touched after `since` (nanoseconds), the time of the record.
        """
        if change := self.recipe.difference(recipe):
            return change
        if len(recorded) != len(self.sources):
            names = {each["name"] for each in recorded} ^ {s.name for s in self.sources}
            example = f", as {min(names)}" if names else ""
            return (
                f"there are {len(self.sources)} sources, were {len(recorded)}{example}"
            )
        for each, source in zip(recorded, self.sources, strict=True):
            before = each.get("language", source.language)
            if before != source.language:
                return f"{source.name} is {source.language}, was {before}"
            same = each["bytes"] == source.size and source.changed < since
            if not same and each["sha256"] != digest(source):
                return f"{source.name} has changed"
        return None

    def begin(self, partial: Path, report: Callable[[int], None]) -> list[dict]:
        """What is recorded of the sources; it is recorded now if the job is new.

        Another job that was begun in the folder gives way unless it has stored tokens.

        Raises:
            UserError: it has, and the sources or the recipe have changed.
        """
        path = partial / _RECORD
        if path.is_file():
            begun = read_json(path)
            recipe, recorded = Recipe.stored(begun["recipe"]), begun["sources"]
            change = self.difference(recipe, recorded, path.stat().st_ctime_ns)
            if change is None:
                return recorded
            if any(unit.counts["tokens"] for unit in stored_units(partial)):
                raise UserError(
                    f"{change}; {partial.parent} was begun without: delete it, or name "
                    "another directory"
                )
            for each in partial.iterdir():
                if each.is_dir():
                    shutil.rmtree(each)
                elif each.name != "lock":
                    each.unlink()
        recorded = self.record(report)
        job = {"recipe": dataclasses.asdict(self.recipe), "sources": recorded}
        write_json(path, job)
        return recorded

    def check_unchanged(self, partial: Path, recorded: Sequence[dict]) -> None:
        """Raise UserError if a source was changed while it was read."""
        since = (partial / _RECORD).stat().st_ctime_ns
        for each, source in zip(recorded, map(as_on_disk, self.sources), strict=True):
            if source.changed >= since and digest(source) != each["sha256"]:
                raise UserError(
                    f"{source.name} was changed while it was read: delete "
                    f"{partial.parent} and prepare it again"
                )


def stored_units(partial: Path) -> list[StoredUnit]:
    """The units that are finished, in the order of the text."""
    return list(map(StoredUnit, sorted((partial / UNITS).glob("*.npz"))))


@contextlib.contextmanager
def writing(directory: str) -> Iterator[None]:
    """Say in one line why the directory cannot be written."""
    if is_remote(directory):
        raise UserError(
            f"{directory}: a corpus is prepared locally; copy it afterwards"
        )
    try:
        yield
    except (OSError, ValueError) as error:
        # TensorStore has ValueErrors that quote the system's.
        quoted = re.search(r": ([^:]+) \[os_error_code", str(error))
        if isinstance(error, ValueError) and not quoted:
            raise
        reason = quoted[1] if quoted else getattr(error, "strerror", "") or error
        raise UserError(
            f"corpus {directory} cannot be written: {reason}; what is there is sound: "
            "run the same command again"
        ) from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """The folder of unfinished files, for this process alone."""
    partial = directory / PARTIAL
    if directory.is_dir() and not partial.is_dir() and any(directory.iterdir()):
        raise UserError(
            f"{directory} holds other files and no corpus: name another directory"
        )
    partial.mkdir(parents=True, exist_ok=True)
    with open(partial / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is preparing {directory}") from None
        yield partial
