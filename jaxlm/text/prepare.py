"""Text → a corpus on disk: streamed, resumable, the same for any number of processes.

    sources ─ sample ─ vocabulary
       └───── fragments ─ units ─ arrays ─ manifest

Memory is bounded: the sample and each unit have at most 64 MB. Units are files in
`DIR/.partial/units`; an interrupted job continues after the last unit. The manifest is
written last.
"""

import contextlib
import dataclasses
import itertools
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.config import RunConfig
from jaxlm.files import (
    is_remote,
    local,
    locked,
    place,
    read_object,
    remedied,
    write_file,
    write_sealed,
)
from jaxlm.lease import leased
from jaxlm.text import corpus, languages, remote, units
from jaxlm.text.documents import Fragment, read_fragments
from jaxlm.text.find import find_sources
from jaxlm.text.notes import notes, some
from jaxlm.text.recipe import ANNOTATED, ReadOptions, Recipe
from jaxlm.text.remote import Progress, Report
from jaxlm.text.sources import Source, sha256, size_and_time
from jaxlm.text.spans.finders import Lexicon, open_finders, read_lexicon
from jaxlm.text.texts import lines_are_sentences
from jaxlm.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from jaxlm.types import UserError

PARTIAL = ".partial"  # the folder of unfinished files, inside the corpus's own
FEW = 100  # documents, of which two are held out whatever the share


def prepare(
    config: RunConfig,
    sources: Sequence[str],
    directory: str,
    *,
    options: ReadOptions | None = None,
    tokenizer: str | None = None,
    processes: int = 1,
    fitting: bool = False,
    report: Report = lambda progress: None,
) -> corpus.Manifest:
    """Make the corpus of `sources` in `directory`, or finish an interrupted job.

    A directory on `gs://` is made in the cache first, and then uploaded.

    A complete corpus of these sources and this recipe is left as it is.

    Args:
        config: only `text`, `seed`, `model.vocab_size`, `smoothing` and `data.cache`
            matter.
        sources: files, globs, directories, `shipped:NAME`, `tfds:NAME`, `wiki:DUMP`,
            each with its language in front if it has a label, `fr:books/*.txt`.
        tokenizer: path of a tokenizer to use; None: train a vocabulary.
        processes: number of processes; any number gives the same corpus.
        fitting: refuse a vocabulary of which the text yields less than an eighth.
        report: called about every megabyte.
    """
    if processes < 1:
        raise UserError(f"processes = {processes} must be positive")
    options = options or ReadOptions()
    kind = options.spans if options.spans in ANNOTATED else ""
    field = options.field or ("turns" if config.text.dialogues else "text")
    found = languages.with_languages(find_sources(sources, kind, field), config.text)
    spoken = tuple(dict.fromkeys(source.language for source in found))
    given = None if tokenizer is None else _given(tokenizer, config)
    lexicon = read_lexicon(options.lexicon) if options.lexicon else None
    recipe = Recipe.of(
        config,
        options,
        language=spoken[0],
        languages=spoken,
        given=given.sha256 if given else "",
        lexicon_sha256=lexicon.sha256 if lexicon else "",
    )
    recipe.check(found)
    open_finders(recipe.spans, recipe.lexicon)  # a missing library is told at once
    here = Path(directory)
    if is_remote(directory):
        here = remote.unfinished(str(place(directory)), config.data.cache)
    job = _Job(here, found, recipe, lexicon, report, fitting)
    with corpus.writing(directory):
        if not is_remote(directory):
            return job.made(given, processes)
        there = place(directory)
        if not (there / corpus.MANIFEST).exists():
            with leased(directory):
                if not (there / corpus.MANIFEST).exists():  # no machine was faster
                    manifest = job.made(given, processes)
                    remote.upload(here, there, manifest.files, report)
                    remote.keep(here, manifest.sha256)
                    return manifest
        shutil.rmtree(here, ignore_errors=True)
        return job.complete(directory)


def _given(path: str, config: RunConfig) -> Tokenizer:
    text = config.text
    model = load_tokenizer(local(path), lowercase=text.lowercase, words=text.words)
    if text.unused:
        model = model.grown(model.vocab_size + text.unused)
    if model.vocab_size != config.model.vocab_size:
        size, asked = model.vocab_size, config.model.vocab_size
        this = f"tokenizer {path} has {size} entries, model.vocab_size is {asked}"
        raise UserError(f"{this}: pass --model.vocab_size {size}")
    if text.verbatim and model.end_of_document is None:
        this = f"tokenizer {path} has no <|endoftext|>, which a decoder needs"
        raise UserError(f"{this}: name another, or none to train one")
    return model


@dataclass
class _Job:
    """One call of `prepare`: what to prepare, how, and its unfinished files on disk."""

    directory: Path  # of the corpus
    sources: Sequence[Source]
    recipe: Recipe
    lexicon: Lexicon | None
    report: Report
    fitting: bool = False
    tokens: int = 0  # stored so far

    def __post_init__(self) -> None:
        self.total = sum(source.size for source in self.sources)
        self.partial = self.directory / PARTIAL
        self.record = self.partial / "job.json"
        self.manifest = self.directory / corpus.MANIFEST
        self.tokenizer = self.partial / "tokenizer"

    def complete(self, directory: str | Path = "") -> corpus.Manifest:
        """The manifest of the finished corpus; UserError if another job made it."""
        where = directory or self.directory
        manifest = corpus.read_manifest(where)
        record = place(where) / corpus.MANIFEST
        if change := self._difference(record, manifest.recipe, manifest.sources):
            raise UserError(change)
        shutil.rmtree(self.partial, ignore_errors=True)
        return manifest

    def made(self, given: Tokenizer | None, processes: int) -> corpus.Manifest:
        """The manifest of the corpus, which is made now unless it is complete."""
        here = self.directory
        if self.manifest.exists():
            return self.complete()
        if here.is_dir() and not self.partial.is_dir() and any(here.iterdir()):
            raise UserError(f"{here} holds other files and no corpus: name another")
        self.partial.mkdir(parents=True, exist_ok=True)
        again = f"delete {self.partial} and run the same command again"
        with locked(self.partial / "lock"), remedied(again):
            return self._run(given, processes)

    def _run(self, given: Tokenizer | None, processes: int) -> corpus.Manifest:
        """Do all steps, from the sources to the manifest, which is returned."""
        recorded = self._begin()
        self.sources = [
            dataclasses.replace(source, lines=each["lines"])
            for source, each in zip(self.sources, recorded, strict=True)
        ]
        tokenizer = self._vocabulary(given)
        # A little text is done before another process has started.
        processes = min(processes, 1 + 4 * self.total // units.BLOCK)
        self._make_units(tokenizer, processes)
        counts = self._write_arrays(tokenizer)
        shutil.rmtree(self.directory / "tokenizer", ignore_errors=True)
        shutil.copytree(self.tokenizer, self.directory / "tokenizer")
        if change := self._changed(self.record, recorded):
            raise UserError(f"{change} while it was read: delete {self.directory}")
        names = ("tokens", "sentences", "documents", "held_out", "text_bytes")
        manifest = corpus.Manifest(
            format=corpus.FORMAT,
            **{name: counts[name] for name in (*names, "replaced", "oov_words")},
            token_dtype=units.token_dtype(tokenizer).name,
            vocab_size=tokenizer.vocab_size,
            tokenizer_kind=tokenizer.kind,
            tokenizer_sha256=tokenizer.sha256,
            special=tokenizer.special,
            end_of_document=tokenizer.end_of_document,
            languages=self.recipe.languages,
            recipe=self.recipe,
            sources=tuple(recorded),
            files={
                name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
                for name, file in corpus.files_below(self.directory)
            },
            notes=tuple(
                notes(counts, tokenizer, self.recipe, self.sources, self.lexicon)
            ),
            boundaries=tokenizer.boundaries,
        )
        write_sealed(self.manifest, dataclasses.asdict(manifest))
        shutil.rmtree(self.partial)
        return manifest

    def _difference(
        self, record: Any, recipe: Recipe, sources: Sequence[dict]
    ) -> str | None:
        """The first difference between this job and the recorded job, or None."""
        if change := self.recipe.difference(recipe) or self._changed(record, sources):
            made = record.name == corpus.MANIFEST
            where = record.parent if made else self.directory
            how = f"was {'made' if made else 'begun'} without"
            remedy = "delete it, or name another directory"
            return f"{change}; the corpus in {where} {how}: {remedy}"
        return None

    def _changed(self, record: Any, sources: Sequence[dict]) -> str | None:
        """The first difference between the sources and recorded sources, or None.

        A digest is compared only if the file's size has changed, or if the file was
        modified after the record was written.
        """
        before, now = len(sources), len(self.sources)
        if before != now:
            names = {each["name"] for each in sources} ^ {s.name for s in self.sources}
            example = f", as {min(names)}" if names else ""
            return f"there are {now} sources, were {before}{example}"
        _, written = size_and_time(record)
        for each, source in zip(sources, self.sources, strict=True):
            language = each.get("language", source.language)
            if language != source.language:
                return f"{source.name} is {source.language}, was {language}"
            size, touched = source.on_disk()
            same = each["bytes"] == size and touched < written
            if not same and each["sha256"] != source.sha256():
                return f"{source.name} has changed"
        return None

    def _begin(self) -> list[dict]:
        """The record of the sources, which is written now if the job is new.

        The record of another unfinished job is replaced unless that job stored tokens.
        """
        if self.record.is_file():
            begun = read_object(self.record)
            recipe, recorded = Recipe.stored(begun["recipe"]), begun["sources"]
            if not (change := self._difference(self.record, recipe, recorded)):
                self._hold_below(recipe.held_below)
                return recorded
            if any(unit.counts["tokens"] for unit in self._units()):
                raise UserError(change)
            for folder in (each for each in self.partial.iterdir() if each.is_dir()):
                shutil.rmtree(folder)
        recorded, done = [], 0
        for source in self.sources:
            lines = lines_are_sentences(source, self.recipe)
            what = {"name": source.name, "bytes": source.size}
            what["sha256"] = source.sha256()
            if len(self.recipe.languages) > 1:
                what["language"] = source.language
            recorded.append({**what, "lines": lines})
            done += source.size
            self._tell("sources", done)
        if not any(any(read_fragments(source)) for source in self.sources):
            raise self._no_text()
        self._hold_below(self._limit_for_few_documents())
        job = {"recipe": dataclasses.asdict(self.recipe), "sources": recorded}
        write_sealed(self.record, job)
        return recorded

    def _hold_below(self, limit: float) -> None:
        self.recipe = dataclasses.replace(self.recipe, held_below=limit)

    def _limit_for_few_documents(self) -> float:
        """The `held_below` by which two documents are held out, if there are `FEW`.

        0 if `holdout` does that: then the first documents suffice to know. The limit
        depends on the text and the seed alone.
        """
        least: list[float] = []  # the smallest two hashes
        documents, share = 0, self.recipe.holdout
        for _, fragment in self._fragments("held out") if share else ():
            if fragment.starts:
                documents += 1
                here = units.holdout_hash(fragment.data, self.recipe)
                least = sorted([*least, here])[:2]
                if sum(each < share for each in least) == 2:
                    self._tell("held out", self.total)
                    return 0.0
        return math.nextafter(least[1], 1.0) if documents >= FEW else 0.0

    def _tell(self, stage: str, done: int, source: str = "") -> None:
        self.report(Progress(stage, done, self.total, self.tokens, source))

    def _fragments(
        self, stage: str, start: units.Place = units.START
    ) -> Iterator[tuple[int, Fragment]]:
        """(source number, fragment) from `start` on; reports each megabyte."""
        before = sum(source.size for source in self.sources[: start.source])
        offset = start.offset
        for number, source in enumerate(self.sources[start.source :], start.source):
            reported = 0
            self._tell(stage, before, source.name)
            for fragment in read_fragments(source, offset, self.recipe.verbatim):
                yield number, fragment
                if fragment.read >= reported + units.BLOCK:
                    reported = fragment.read
                    self._tell(stage, before + reported, source.name)
            before, offset = before + source.size, 0
        self._tell(stage, self.total)

    def _vocabulary(self, given: Tokenizer | None) -> Tokenizer:
        """The given tokenizer, or a newly trained one; it is saved in `partial`."""
        if self.tokenizer.is_dir():
            return load_tokenizer(self.tokenizer)
        model = given
        if model is None:
            fragments = (fragment for _, fragment in self._fragments("vocabulary"))
            texts = languages.texts_to_learn(fragments, self.sources, self.recipe)
            model = train_tokenizer(texts, self.recipe, self.recipe.vocab_size)
            if self.fitting:
                self._check_fit(model)
        fresh = self.partial / "tokenizer.new"
        shutil.rmtree(fresh, ignore_errors=True)
        model.save(fresh)
        fresh.replace(self.tokenizer)
        return model

    def _check_fit(self, trained: Tokenizer) -> None:
        """Refuse a vocabulary that is far too large for the text."""
        size = trained.vocab_size
        yields = size - (trained.training or {}).get("unused", 0)
        if size > 8 * yields and size > 1000:  # small ones cost little
            shutil.rmtree(self.partial)
            this = f"the text yields {yields:,} of {size:,} entries of a vocabulary"
            remedy = f"pass --model.vocab_size {yields}, or more text"
            raise UserError(f"{this}: {remedy}")

    def _units(self) -> list[units.StoredUnit]:
        """The finished units, in the order of the text."""
        return list(map(units.StoredUnit, sorted(self.partial.glob("units/*.npz"))))

    def _make_units(self, tokenizer: Tokenizer, processes: int) -> None:
        """Make the missing units."""
        made = self._units()
        start = made[-1].follows if made else units.START
        self.tokens = sum(unit.counts["tokens"] for unit in made)
        found = (word for unit in made for word in unit.oov_words)
        words = {word: i for i, word in enumerate(found)}
        numbers = itertools.count(len(made))
        blocks = units.in_blocks(self._fragments("tokens", start), len(self.sources))
        parts: list[units.Unit] = []
        with contextlib.closing(
            units.tokenise_all(blocks, self.tokenizer, self.recipe, processes)
        ) as tokenised:
            for part, follows in tokenised:
                parts.append(part)
                if follows:
                    unit = units.joined(parts, tokenizer, self.tokens, words)
                    path = self.partial / f"units/{next(numbers):06}.npz"
                    units.save(unit, follows, path)
                    self.tokens += len(unit.tokens)
                    parts = []
        if not self.tokens:
            raise self._no_text()

    def _no_text(self) -> UserError:
        return UserError(f"there is no text in {some([s.name for s in self.sources])}")

    def _write_arrays(self, tokenizer: Tokenizer) -> Counter[str]:
        """Write the arrays of all units end to end; returns the corpus's counts."""
        made = self._units()
        counts = sum((unit.counts for unit in made), Counter())
        for i, name in enumerate(units.ARRAYS):
            rows = counts["tokens" if name == "marks" else name]
            pieces = (unit.read(name) for unit in made)
            for share in corpus.write_array(self.directory / name, rows, pieces):
                part = (i + share) / len(units.ARRAYS)
                self._tell("arrays", round(part * self.total))
        words = [word for unit in made for word in unit.oov_words]
        counts["oov_words"] = len(words)
        if tokenizer.keeps_oov_words:
            text = "".join(f"{word}\n" for word in words)
            write_file(self.directory / corpus.TYPES, text)
        return counts
