"""One preparation: what was asked, from which sources, where it stands on disk."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jaxlm.config import RunConfig
from jaxlm.text.blocks import Recipe
from jaxlm.text.documents import read_fragments
from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.languages import check_known, converter, primary
from jaxlm.text.parts import read_journal
from jaxlm.text.sentences import Sentences, lines_are_sentences
from jaxlm.text.sources import Source, digest, is_remote, touched
from jaxlm.text.spans import ANNOTATED, lexicon_sha256
from jaxlm.text.tokenizers.tokenizer import Tokenizer
from jaxlm.types import UserError

PARTIAL = ".partial"  # the folder of what is not finished, in the corpus's own
_RECORD = "job.json"


@dataclass(frozen=True)
class Job:
    """What is prepared, from what, how."""

    sources: tuple[Source, ...]
    recipe: Recipe
    sentences: Sentences
    asked: dict  # everything but the sources that decides the corpus

    @property
    def total(self) -> int:
        """Bytes of the sources on disk."""
        return sum(source.size for source in self.sources)

    def record(self, report: Callable[[int], None]) -> list[dict]:
        """What the manifest says of each source; reads them all, reports bytes."""
        records, done = [], 0
        for each in self.sources:
            lines = self.recipe.verbatim or lines_are_sentences(
                each, self.sentences, each.language or self.recipe.language
            )
            what = {"name": each.name, "bytes": each.size, "sha256": digest(each)}
            what |= {"language": each.language} if each.language else {}
            records.append({**what, "lines": lines})
            done += each.size
            report(done)
        return records


def check_fitting(
    config: RunConfig, found: Sequence[Source], recipe: Recipe, sentences: Sentences
) -> None:
    """Raise UserError if what is asked for does not go together."""
    if config.text.dialogues:
        other = next((each.name for each in found if each.kind != "jsonl"), "")
        if other or sentences != "auto":
            raise UserError(
                'text.dialogues: a dialogue is a line of .jsonl with "turns", each of '
                f"them whole; {f'not {other}' if other else 'leave sentences out'}"
            )
    if config.text.verbatim and sentences != "auto":
        raise UserError(
            f"sentences = {sentences!r}, but text.verbatim splits no line and takes "
            "none for a sentence: leave it out"
        )
    marked = recipe.spans != "none" or bool(recipe.lexicon)
    if marked and (config.text.verbatim or config.text.tokenizer != "wordpiece"):
        raise UserError(
            "phrases and entities are marked on WordPiece's tokens: take an encoder's "
            "recipe, or leave --spans and --lexicon out"
        )
    if recipe.spans == "conll" and sentences != "auto":
        raise UserError(
            f"sentences = {sentences!r}, but files of columns have their own: leave it "
            "out"
        )
    if recipe.spans in ANNOTATED and config.text.chinese != "as_is":
        raise UserError(
            f"text.chinese = {config.text.chinese}, but annotated text stays as it is: "
            "convert the file first"
        )


def asked(
    config: RunConfig, recipe: Recipe, sentences: Sentences, given: Tokenizer | None
) -> dict:
    """What decides the corpus, beside the sources; `recipe` in the manifest.

    How errors are taken is not of it: text that has none is the same either way.
    """
    what: dict[str, Any] = {"sentences": sentences, **asdict(recipe)}
    del what["errors"]
    # Not known to corpora of earlier versions.
    for name in ("verbatim", "spans", "lexicon", "dialogues", "chinese"):
        if what[name] == getattr(Recipe(), name):
            del what[name]
    if recipe.languages:
        del what["language"]
        what["languages"] = list(recipe.languages)
    else:
        del what["languages"]
    if recipe.lexicon:
        what["lexicon"] = lexicon_sha256(recipe.lexicon)
    if given is None:
        what["tokenizer"] = f"trained {config.text.tokenizer}"
        what["vocab_size"] = config.model.vocab_size
        what["lowercase"] = config.text.lowercase
        if recipe.languages:
            what["smoothing"] = config.smoothing
        if config.text.tokenizer == "words":
            what["words"] = config.text.words
    else:
        what["tokenizer"] = given.sha256
        if not recipe.holdout:
            del what["seed"]  # decides nothing
    return what


def by_language(
    found: list[Source], config: RunConfig
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The sources, labelled where there are several languages, and these in order.

    Raises:
        UserError: a language that the config does not know or cannot mix, or that has
            no text, or none whose characters could be converted.
    """
    text = config.text
    languages = tuple(dict.fromkeys(source.language for source in found))
    if languages == ("",):
        languages = (text.language,)
    elif text.languages:
        check_known(languages, text.languages)
    if text.chinese != "as_is":
        if "zh" not in map(primary, languages):
            raise UserError(
                f"text.chinese = {text.chinese}, but the text is in "
                f"{', '.join(languages)}: label the Chinese, --text zh:PATH"
            )
        converter(text.chinese)  # what it lacks is told before any work
    if len(languages) == 1:
        return tuple(replace(source, language="") for source in found), languages
    if text.tokenizer == "words":
        raise UserError(
            f"the text is in {', '.join(languages)}, and an ELMo's words are counted "
            "in one language: prepare a corpus of each"
        )
    for language in languages:
        sources = [source for source in found if source.language == language]
        if not any(any(read_fragments(each, lines=True)) for each in sources):
            names = ", ".join(source.name for source in sources[:3])
            raise UserError(f"the language {language} has no text: {names}")
    return tuple(found), languages


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
            f"corpus {directory} cannot be written: {reason}; what is there is sound, "
            "the same command goes on"
        ) from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """The folder of what is not finished, for this process alone."""
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


def begin(partial: Path, job: Job, report: Callable[[int], None]) -> list[dict]:
    """What is recorded of the sources; where the job is new, it is recorded now.

    A job that is not this one is begun anew unless some of its text is done.

    Raises:
        UserError: some is done, and sources or recipe have changed: which.
    """
    path = partial / _RECORD
    if path.is_file():
        begun = read_json(path)
        recorded = begun["sources"]
        since = path.stat().st_ctime_ns
        change = difference(begun["recipe"], recorded, job, since)
        if change is None:
            return recorded
        if read_journal(partial).tokens:
            raise UserError(
                f"{change}; {partial.parent} was begun without: delete it, or name "
                "another directory"
            )
        for each in partial.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            elif each.name != "lock":
                each.unlink()
    recorded = job.record(report)
    write_json(partial / "job.new", {"recipe": job.asked, "sources": recorded})
    (partial / "job.new").replace(path)
    return recorded


def difference(
    recipe: dict, recorded: Sequence[dict], job: Job, since: int
) -> str | None:
    """What about a recorded job differs from `job`; None: nothing.

    A source is compared by its digest only if its size is another, or if it was touched
    after `since` (nanoseconds), when it was recorded.
    """
    for name in dict.fromkeys(["tokenizer", *recipe, *job.asked]):
        before, now = recipe.get(name), job.asked.get(name)
        if before != now:
            return f"{name} is {now!r}, was {before!r}"
    if len(recorded) != len(job.sources):
        names = {each["name"] for each in recorded} ^ {s.name for s in job.sources}
        example = f", as {min(names)}" if names else ""
        return f"there are {len(job.sources)} sources, were {len(recorded)}{example}"
    for each, source in zip(recorded, job.sources, strict=True):
        if each.get("language", "") != source.language:
            return f"{source.name} is {source.language}, was {each['language']}"
        same = each["bytes"] == source.size and source.changed < since
        if not same and each["sha256"] != digest(source):
            return f"{source.name} has changed"
    return None


def check_unchanged(partial: Path, job: Job, recorded: Sequence[dict]) -> None:
    """Raise UserError if a source was changed while it was read."""
    since = (partial / _RECORD).stat().st_ctime_ns
    for each, source in zip(recorded, map(touched, job.sources), strict=True):
        if source.changed >= since and digest(source) != each["sha256"]:
            raise UserError(
                f"{source.name} was changed while it was read: delete "
                f"{partial.parent} and prepare it again"
            )
