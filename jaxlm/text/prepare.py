"""Text → a corpus on disk: streaming, restartable, the same bytes however it is run.

    sources ─ sample ─ vocabulary
       └───── fragments ─ units ─ arrays ─ manifest

Memory is bounded: the sample has at most 64 MB, and so has a unit. Units are files in
`DIR/.partial/units`; a job that was interrupted goes on after the last of them. The
manifest comes last.
"""

import contextlib
import dataclasses
import fcntl
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxlm.config import RunConfig
from jaxlm.text import units as unit_sizes
from jaxlm.text.corpus import MANIFEST, Manifest, read_manifest
from jaxlm.text.documents import Fragment, read_fragments
from jaxlm.text.json_files import read_json, write_json
from jaxlm.text.languages import (
    limits,
    not_held_out,
    sample,
    weighted_texts,
    with_languages,
)
from jaxlm.text.recipe import ANNOTATED, ReadOptions, Recipe
from jaxlm.text.sources import Source, digest, find_sources, is_remote
from jaxlm.text.spans.finders import open_finders, read_lexicon
from jaxlm.text.store import TYPES, layout, write_array
from jaxlm.text.texts import lines_are_sentences, texts_of
from jaxlm.text.tokenizers import Tokenizer, WordPiece, load_tokenizer, train_tokenizer
from jaxlm.text.tokenizers.tokenizer import padded
from jaxlm.text.units import (
    START,
    Place,
    StoredUnit,
    Unit,
    in_blocks,
    joined,
    save,
    token_dtype,
    tokenise_all,
)
from jaxlm.types import UserError

PARTIAL = ".partial"  # the folder of unfinished files, inside the corpus's own
UNITS = "units"  # in that one
SAMPLE = 64 << 20  # bytes of text that a vocabulary is learnt from, at most


class Progress(NamedTuple):
    """How far `prepare` is; `done` and `total` are bytes of the files that it reads."""

    stage: str  # "sources" | "vocabulary" | "tokens" | "arrays"
    done: int
    total: int
    tokens: int = 0  # stored so far


def prepare(
    config: RunConfig,
    sources: Sequence[str],
    directory: str,
    *,
    options: ReadOptions | None = None,
    tokenizer: str | None = None,
    processes: int = 1,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Make the corpus of `sources` in `directory`, or finish one that was begun.

    A complete corpus of these sources and this recipe is left as it is.

    Args:
        config: only `text`, `seed`, `model.vocab_size` and `smoothing` matter.
        sources: files, globs, directories, `shipped:NAME`, `tfds:NAME`; each may have
            its language before it, `fr:books/*.txt`.
        tokenizer: the path of one to use; None: train one.
        processes: the result does not depend on it; a script that asks for several
            needs `if __name__ == "__main__":`, as with `multiprocessing`.
        report: is called about every megabyte.
    """
    if processes < 1:
        raise UserError(f"processes = {processes} must be positive")
    options = options or ReadOptions()
    kind = options.spans if options.spans in ANNOTATED else ""
    found, languages = with_languages(find_sources(sources, kind), config.text)
    given = None if tokenizer is None else _given(tokenizer, config)
    recipe = Recipe.of(
        config,
        options,
        language=languages[0],
        languages=languages,
        given=given.sha256 if given else "",
        lexicon_sha256=read_lexicon(options.lexicon).sha256 if options.lexicon else "",
    )
    recipe.check(found)
    open_finders(recipe.spans, recipe.lexicon)  # a missing library is told at once
    job = _Job(Path(directory), found, recipe, report)
    with _writing(directory):
        if (job.directory / MANIFEST).exists():
            return job.complete()
        with _locked(job.directory):
            return job.run(given, processes)


def _given(path: str, config: RunConfig) -> Tokenizer:
    text = config.text
    model = load_tokenizer(path, lowercase=text.lowercase, words=text.words)
    if text.unused and isinstance(model, WordPiece):
        tokens = padded(model.tokens, model.vocab_size + text.unused)
        model = WordPiece(tokens, **model.options)
    if model.vocab_size != config.model.vocab_size:
        raise UserError(
            f"tokenizer {path} has {model.vocab_size} entries, model.vocab_size is "
            f"{config.model.vocab_size}: pass --model.vocab_size {model.vocab_size}"
        )
    if text.verbatim and model.end_of_document is None:
        raise UserError(
            f"tokenizer {path} has no <|endoftext|>, which ends a document for a "
            "decoder (text.verbatim): name another vocabulary, or none to train one"
        )
    return model


@dataclass
class _Job:
    """What is prepared, how, and what an earlier run of it has left on disk."""

    directory: Path  # of the corpus
    sources: Sequence[Source]
    recipe: Recipe
    report: Callable[[Progress], None]
    tokens: int = 0  # stored so far

    def __post_init__(self) -> None:
        self.total = sum(source.size for source in self.sources)
        self.partial = self.directory / PARTIAL
        self.record = self.partial / "job.json"

    def complete(self) -> Manifest:
        """The manifest that is there; UserError if it is of another job."""
        manifest = read_manifest(self.directory)
        since = (self.directory / MANIFEST).stat().st_ctime_ns
        if change := self._difference(manifest.recipe, manifest.sources, since):
            raise UserError(
                f"{change}; the corpus in {self.directory} was made without: delete "
                "it, or name another directory"
            )
        shutil.rmtree(self.partial, ignore_errors=True)
        return manifest

    def run(self, given: Tokenizer | None, processes: int) -> Manifest:
        """From the sources to the manifest."""
        recorded = self._begin()
        self.sources = [
            dataclasses.replace(source, lines=each["lines"])
            for source, each in zip(self.sources, recorded, strict=True)
        ]
        tokenizer = self._vocabulary(given)
        # A little text is done before another process has started.
        processes = min(processes, 1 + 4 * self.total // unit_sizes.BLOCK)
        self._make_units(tokenizer, processes)
        counts = self._write_arrays(tokenizer)
        shutil.rmtree(self.directory / "tokenizer", ignore_errors=True)
        shutil.copytree(self.partial / "tokenizer", self.directory / "tokenizer")
        since = self.record.stat().st_ctime_ns
        for each, source in zip(recorded, self.sources, strict=True):
            if source.on_disk()[1] >= since and digest(source) != each["sha256"]:
                raise UserError(
                    f"{source.name} was changed while it was read: delete "
                    f"{self.directory} and prepare it again"
                )
        manifest = Manifest.of(counts, tokenizer, self.recipe, recorded, self.directory)
        write_json(self.directory / MANIFEST, dataclasses.asdict(manifest))
        shutil.rmtree(self.partial)
        return manifest

    def _difference(
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
            size, changed = source.on_disk()
            same = each["bytes"] == size and changed < since
            if not same and each["sha256"] != digest(source):
                return f"{source.name} has changed"
        return None

    def _begin(self) -> list[dict]:
        """What is recorded of the sources; it is recorded now if the job is new.

        Another job that was begun in the folder gives way unless it has stored tokens.
        """
        if self.record.is_file():
            begun, since = read_json(self.record), self.record.stat().st_ctime_ns
            recipe, recorded = Recipe.stored(begun["recipe"]), begun["sources"]
            change = self._difference(recipe, recorded, since)
            if change is None:
                return recorded
            if any(unit.counts["tokens"] for unit in self._units()):
                raise UserError(
                    f"{change}; {self.directory} was begun without: delete it, or name "
                    "another directory"
                )
            for folder in (each for each in self.partial.iterdir() if each.is_dir()):
                shutil.rmtree(folder)
        recorded, done = [], 0
        for source in self.sources:
            what = {"name": source.name, "bytes": source.size}
            what |= {"sha256": digest(source)}
            if len(self.recipe.languages) > 1:
                what["language"] = source.language
            lines = lines_are_sentences(source, self.recipe)
            recorded.append({**what, "lines": lines})
            done += source.size
            self._tell("sources", done)
        job = {"recipe": dataclasses.asdict(self.recipe), "sources": recorded}
        write_json(self.record, job)
        return recorded

    def _tell(self, stage: str, done: int, total: int = 0) -> None:
        self.report(Progress(stage, done, total or self.total, self.tokens))

    def _fragments(
        self, stage: str, start: Place = START
    ) -> Iterator[tuple[int, Fragment]]:
        """(number of its source, fragment) from a place on; reports each megabyte."""
        before = sum(source.size for source in self.sources[: start.source])
        offset = start.offset
        for number, source in enumerate(self.sources[start.source :], start.source):
            reported = -unit_sizes.BLOCK
            for fragment in read_fragments(source, offset, self.recipe.verbatim):
                yield number, fragment
                if fragment.read >= reported + unit_sizes.BLOCK:
                    reported = fragment.read
                    self._tell(stage, before + reported)
            before, offset = before + source.size, 0
        self._tell(stage, self.total)

    def _vocabulary(self, given: Tokenizer | None) -> Tokenizer:
        """The tokenizer: given, or trained, now or before; saved in `partial`."""
        directory, recipe = self.partial / "tokenizer", self.recipe
        if directory.is_dir():
            return load_tokenizer(directory)

        def texts() -> Iterator[str]:
            fragments = (fragment for _, fragment in self._fragments("vocabulary"))
            # Words are counted in all of the text; the others learn from a sample.
            if recipe.tokenizer == "words":
                for fragment in not_held_out(fragments, recipe):
                    yield from texts_of(fragment, recipe).texts
            else:
                most = limits(self.sources, recipe, SAMPLE)
                yield from weighted_texts(*sample(fragments, recipe, most), recipe)

        model = given or train_tokenizer(
            recipe.tokenizer,
            texts(),
            vocab_size=recipe.vocab_size,
            lowercase=recipe.lowercase,
            verbatim=recipe.verbatim,
            words=recipe.words,
        )
        fresh = self.partial / "tokenizer.new"
        shutil.rmtree(fresh, ignore_errors=True)
        model.save(fresh)
        fresh.replace(directory)
        return model

    def _units(self) -> list[StoredUnit]:
        """The units that are finished, in the order of the text."""
        return list(map(StoredUnit, sorted((self.partial / UNITS).glob("*.npz"))))

    def _make_units(self, tokenizer: Tokenizer, processes: int) -> None:
        """Make the units that are missing."""
        made = self._units()
        number, start = len(made), made[-1].follows if made else START
        self.tokens = sum(unit.counts["tokens"] for unit in made)
        found = (word for unit in made for word in unit.oov_words)
        words = {word: i for i, word in enumerate(found)}
        blocks = in_blocks(self._fragments("tokens", start), len(self.sources))
        tokenised = tokenise_all(
            blocks, self.partial / "tokenizer", self.recipe, processes
        )
        parts: list[Unit] = []
        with contextlib.closing(tokenised):
            for part, follows in tokenised:
                parts.append(part)
                if follows:
                    unit = joined(parts, tokenizer, self.tokens, words)
                    save(unit, follows, self.partial / UNITS / f"{number:06}.npz")
                    self.tokens += len(unit.tokens)
                    number, parts = number + 1, []
        if not self.tokens:
            names = ", ".join(source.name for source in self.sources[:3])
            raise UserError(f"there is no text in {names}")

    def _write_arrays(self, tokenizer: Tokenizer) -> Counter[str]:
        """Write the units' arrays end to end, and the words outside the vocabulary."""
        units = self._units()
        counts = sum((unit.counts for unit in units), Counter())
        arrays = layout(counts, token_dtype(tokenizer))
        total = sum(
            dtype.itemsize * math.prod(shape) for dtype, shape in arrays.values()
        )
        done = 0
        for name, (dtype, shape) in arrays.items():
            pieces = (unit.read(name) for unit in units)
            for size in write_array(self.directory / name, dtype, shape, pieces):
                done += size
                self._tell("arrays", done, total)
        words = [word for unit in units for word in unit.oov_words]
        counts["oov_words"] = len(words)
        if tokenizer.keeps_oov_words:
            text = "".join(f"{word}\n" for word in words)
            (self.directory / TYPES).write_text(text, encoding="utf-8", newline="\n")
        return counts


@contextlib.contextmanager
def _writing(directory: str) -> Iterator[None]:
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
def _locked(directory: Path) -> Iterator[None]:
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
        yield
