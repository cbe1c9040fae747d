"""Text → a corpus on disk: streaming, restartable, the same bytes however it is run.

    sources ─ sample ─ vocabulary
       └───── fragments ─ blocks ─ parts ─ arrays ─ manifest

Memory is bounded: the sample is at most 64 MB, a block 1 MB, and the reader waits for
the tokenisers. The parts, in `DIR/.partial`, are journalled each 64 MB of text, at the
end of a document; a job that is killed goes on there. The manifest comes last.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from jaxlm.config import RunConfig
from jaxlm.text import manifest as manifests
from jaxlm.text.blocks import Recipe, token_dtype, tokenise_all
from jaxlm.text.documents import (
    Errors,
    Fragment,
    Sentences,
    read_fragments,
    sentences_of,
)
from jaxlm.text.files import Source, digest, find_sources
from jaxlm.text.manifest import Manifest
from jaxlm.text.parts import Journal, Parts
from jaxlm.text.sample import sample
from jaxlm.text.store import files_below, sha256
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from jaxlm.text.vocabulary import read_json, write_json
from jaxlm.types import UserError

BLOCK = 1 << 20  # bytes of text that are tokenised at a time
UNIT = 64 << 20  # bytes of text after which the parts are journalled
SAMPLE = 64 << 20  # bytes of text that a vocabulary is learnt from, at most
PARTIAL = ".partial"


class Progress(NamedTuple):
    """How far `prepare` is; `done` and `total` are bytes of the files that it reads."""

    stage: str  # "vocabulary" | "tokens" | "arrays"
    done: int
    total: int
    tokens: int = 0  # stored so far


@dataclass(frozen=True)
class Job:
    """What is prepared, from what, how."""

    sources: tuple[Source, ...]
    recipe: Recipe
    sentences: Sentences
    report: Callable[[Progress], None]

    @property
    def total(self) -> int:
        """Bytes of the sources on disk."""
        return sum(source.size for source in self.sources)

    def fragments(
        self, stage: str, source: int = 0, offset: int = 0, tokens=lambda: 0
    ) -> Iterator[tuple[int, Fragment]]:
        """(number of the source, fragment) of the text from a place on; reports."""
        done = sum(each.size for each in self.sources[:source])
        for number in range(source, len(self.sources)):
            each, reported = self.sources[number], -BLOCK
            start = offset if number == source else 0
            for fragment in read_fragments(
                each,
                start=start,
                sentences=self.sentences,
                language=self.recipe.language,
            ):
                yield number, fragment
                if fragment.read >= reported + BLOCK:
                    reported = fragment.read
                    self.report(Progress(stage, done + reported, self.total, tokens()))
            done += each.size
        self.report(Progress(stage, self.total, self.total, tokens()))


def prepare(
    config: RunConfig,
    sources: Sequence[str],
    directory: str,
    *,
    tokenizer: str | None = None,
    sentences: Sentences = "auto",
    errors: Errors = "strict",
    holdout: float = 0.0,
    processes: int = 1,
    report: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Make the corpus of `sources` in `directory`, or finish one that was begun.

    A corpus that is complete, of these sources and this recipe, is left as it is.

    Args:
        config: its `text`, `seed` and `model.vocab_size` matter.
        sources: files, globs, directories, `shipped:NAME`, `tfds:NAME`.
        directory: of the corpus; made where it is missing.
        tokenizer: the path of one to use; None: train one.
        sentences: whether lines are sentences or paragraphs (see `documents`).
        errors: bytes that are not UTF-8 stop it, or are replaced and counted.
        holdout: share of documents, chosen by hash, that get split 1.
        processes: that tokenise; the result does not depend on it.
        report: is told how far it is, about each megabyte.

    Raises:
        UserError: the sources, the tokenizer or the directory will not do: which, why.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout = {holdout} is not in [0, 1)")
    if processes < 1:
        raise UserError(f"processes = {processes} must be positive")
    job = Job(
        sources=tuple(find_sources(sources)),
        recipe=Recipe(config.text.language, errors, config.seed, holdout),
        sentences=sentences,
        report=report or (lambda progress: None),
    )
    given = None if tokenizer is None else _given(tokenizer, config)
    asked = _asked(job, config, given)
    path = Path(directory)
    with _writing(directory):
        if (path / manifests.NAME).exists():
            manifest = manifests.read_manifest(path)
            since = (path / manifests.NAME).stat().st_ctime_ns
            _compare(manifest.recipe, manifest.sources, asked, job, since, directory)
            return manifest
        with _locked(path) as partial:
            recorded = _begun(partial, asked, job, directory)
            model = _vocabulary(partial, given, config, job)
            parts = Parts(partial, model.vocab_size, model.end_of_document)
            with contextlib.closing(parts):
                _tokenise(parts, partial, job, processes)
                for done in parts.write_arrays(path):
                    job.report(
                        Progress("arrays", done, parts.size, parts.journal.tokens)
                    )
            shutil.rmtree(path / "tokenizer", ignore_errors=True)
            shutil.copytree(partial / "tokenizer", path / "tokenizer")
            _check_unchanged(partial, sources, recorded)
            manifest = _manifest(path, parts, model, asked, recorded)
            manifests.write_manifest(manifest, path)
            shutil.rmtree(partial)
    return manifest


def _given(path: str, config: RunConfig) -> Tokenizer:
    model = load_tokenizer(path, lowercase=config.text.lowercase)
    if model.vocab_size != config.model.vocab_size:
        raise UserError(
            f"tokenizer {path} has {model.vocab_size} entries, model.vocab_size is "
            f"{config.model.vocab_size}: pass --model.vocab_size {model.vocab_size}"
        )
    return model


def _asked(job: Job, config: RunConfig, given: Tokenizer | None) -> dict:
    """Everything but the sources that decides the corpus; the manifest's `recipe`."""
    asked = {"sentences": job.sentences, **asdict(job.recipe)}
    if given is not None:
        asked["tokenizer"] = given.sha256
        if not job.recipe.holdout:
            del asked["seed"]  # decides nothing
    else:
        asked["tokenizer"] = f"trained {config.text.tokenizer}"
        asked["vocab_size"] = config.model.vocab_size
        asked["lowercase"] = config.text.lowercase
    return asked


@contextlib.contextmanager
def _writing(directory: str) -> Iterator[None]:
    """Say in one line why the directory cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        full = "RESOURCE_EXHAUSTED" in str(error)
        if isinstance(error, ValueError) and not full:
            raise
        reason = "no space left" if full else getattr(error, "strerror", "") or error
        raise UserError(
            f"corpus {directory} cannot be written: {reason}; what is there is sound, "
            "the same command goes on"
        ) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[Path]:
    """The place for the parts, made, for this process alone."""
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


def _check_unchanged(
    partial: Path, sources: Sequence[str], recorded: Sequence[dict]
) -> None:
    since = (partial / "job.json").stat().st_ctime_ns
    for each, source in zip(recorded, find_sources(sources), strict=True):
        if source.changed >= since and digest(source) != each["sha256"]:
            raise UserError(
                f"{source.name} was changed while it was read: delete "
                f"{partial.parent} and prepare it again"
            )


def _begun(partial: Path, asked: dict, job: Job, directory: str) -> list[dict]:
    """What is recorded of the sources; begins the job where it is new."""
    path = partial / "job.json"
    if path.is_file():
        begun = read_json(path)
        since = path.stat().st_ctime_ns
        _compare(begun["recipe"], begun["sources"], asked, job, since, directory)
        return begun["sources"]
    recorded = [
        {"name": each.name, "bytes": each.size, "sha256": digest(each)}
        for each in job.sources
    ]
    write_json(partial / "job.new", {"recipe": asked, "sources": recorded})
    (partial / "job.new").replace(path)
    return recorded


def _compare(
    recipe: dict, recorded: Sequence[dict], asked: dict, job: Job, since: int, at: str
) -> None:
    """Raise UserError unless the corpus at `at` is that of the job.

    A source is compared by its digest if its size is another, or if it was touched
    `since` (nanoseconds) it was recorded.
    """
    remedy = f"{at} is another corpus; delete it, or name another directory"
    for name in sorted({*recipe, *asked}):
        if recipe.get(name) != asked.get(name):
            raise UserError(
                f"{name} was {recipe.get(name)!r}, is {asked.get(name)!r}: {remedy}"
            )
    if len(recorded) != len(job.sources):
        before = {each["name"] for each in recorded}
        now = {each.name for each in job.sources}
        other = min(before ^ now, default="a source")
        raise UserError(
            f"sources are {len(job.sources)}, were {len(recorded)} ({other}): {remedy}"
        )
    for each, source in zip(recorded, job.sources, strict=True):
        same = each["bytes"] == source.size
        if not (same and source.changed < since) and each["sha256"] != digest(source):
            raise UserError(f"{source.name} has changed: {remedy}")


def _vocabulary(
    partial: Path, given: Tokenizer | None, config: RunConfig, job: Job
) -> Tokenizer:
    """The tokenizer of the job, saved in it: given, trained before, or trained now."""
    directory = partial / "tokenizer"
    if directory.is_dir():
        return load_tokenizer(directory)
    model = given
    if model is None:
        fragments = (each for _, each in job.fragments("vocabulary"))
        kept = sample(fragments, job.recipe, SAMPLE)
        recipe = job.recipe
        model = train_tokenizer(
            config.text.tokenizer,
            (
                sentence
                for fragment in kept
                for sentence in sentences_of(fragment, recipe.language, recipe.errors)[
                    0
                ]
            ),
            vocab_size=config.model.vocab_size,
            lowercase=config.text.lowercase,
        )
    fresh = partial / "tokenizer.new"
    shutil.rmtree(fresh, ignore_errors=True)
    model.save(fresh)
    fresh.replace(directory)
    return model


def _tokenise(parts: Parts, partial: Path, job: Job, processes: int) -> None:
    """Append the text's tokens to the parts, from the journal's place on."""
    journal = parts.journal
    if journal.finished:
        return
    text = job.fragments(
        "tokens", journal.source, journal.offset, lambda: parts.journal.tokens
    )
    units: deque[tuple[int, int] | None] = deque()

    def work() -> Iterator[list[Fragment]]:
        for fragments, follows in in_blocks(text):
            units.append(follows)
            yield fragments

    directory = partial / "tokenizer"
    blocks = tokenise_all(work(), directory, job.recipe, processes=processes)
    with contextlib.closing(blocks):
        for block in blocks:
            parts.append(block)
            if follows := units.popleft():
                parts.commit(*follows)
    if not parts.journal.tokens:
        names = ", ".join(source.name for source in job.sources[:3])
        raise UserError(f"there is no text in {names}")
    parts.finish()


def in_blocks(
    text: Iterable[tuple[int, Fragment]],
) -> Iterator[tuple[list[Fragment], tuple[int, int] | None]]:
    """Lists of fragments, about `BLOCK` bytes each; (source, offset) of what follows.

    The latter only after the last block of a unit, where a document ends.
    """
    block: list[Fragment] = []
    size = unit = 0
    for number, fragment in text:
        ends_unit = unit >= UNIT and fragment.starts
        if block and (size >= BLOCK or ends_unit):
            yield block, (number, fragment.offset) if ends_unit else None
            block, size = [], 0
            unit = 0 if ends_unit else unit
        block.append(fragment)
        size += len(fragment.data)
        unit += len(fragment.data)
    if block:
        yield block, None


def _manifest(
    path: Path,
    parts: Parts,
    model: Tokenizer,
    asked: dict,
    recorded: Sequence[dict],
) -> Manifest:
    journal = parts.journal
    return Manifest(
        format=manifests.FORMAT,
        tokens=journal.tokens,
        sentences=journal.sentences,
        documents=journal.documents,
        held_out=journal.held_out,
        text_bytes=journal.text_bytes,
        replaced=journal.replaced,
        token_dtype=token_dtype(model.vocab_size).name,
        vocab_size=model.vocab_size,
        tokenizer_kind=model.kind,
        tokenizer_sha256=model.sha256,
        special=model.special,
        end_of_document=model.end_of_document,
        languages=(asked["language"],),
        recipe=asked,
        sources=tuple(recorded),
        files={
            name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for name, file in files_below(path)
        },
        notes=tuple(_notes(journal, model, asked)),
    )


def _notes(journal: Journal, model: Tokenizer, asked: dict) -> Iterator[str]:
    """What a user may not have meant."""
    found = model.training or {}
    if unused := found.get("unused"):
        yield (
            f"{unused:,} of {model.vocab_size:,} entries of the vocabulary are "
            "[unusedN]: the text yields no more; a smaller model.vocab_size would do"
        )
    if left_out := found.get("characters_left_out"):
        share = found["words_unknown"] / found["words"]
        yield (
            f"{left_out:,} of {found['characters']:,} characters are not in the "
            f"vocabulary, and {share:.2%} of words [UNK]: raise model.vocab_size"
        )
    if journal.replaced:
        yield f"{journal.replaced:,} byte sequences that are not UTF-8 were replaced"
    if journal.sentences < 1.5 * journal.documents:
        mean = journal.sentences / journal.documents
        yield (
            f"a document has {mean:.1f} sentences on average: is there a blank line "
            "after each? Blank lines separate documents"
        )
    if asked["holdout"] and not journal.held_out:
        yield (
            f"no document of {journal.documents:,} is held out: raise "
            f"holdout = {asked['holdout']}"
        )
