"""Text → a corpus on disk: streaming, restartable, the same bytes however it is run.

    sources ─ sample ─ vocabulary
       └───── fragments ─ units ─ arrays ─ manifest

Memory is bounded: the sample has at most 64 MB, and so has a unit. Units are files in
`DIR/.partial/units`; a job that was interrupted goes on after the last of them. The
manifest comes last.
"""

import contextlib
import dataclasses
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.config import RunConfig
from jaxlm.text import manifest as manifests
from jaxlm.text import units as unit_sizes
from jaxlm.text.documents import Fragment, read_fragments
from jaxlm.text.json_files import write_json
from jaxlm.text.languages import with_languages
from jaxlm.text.manifest import Manifest
from jaxlm.text.recipe import ANNOTATED, ReadOptions, Recipe
from jaxlm.text.resume import PARTIAL, UNITS, Job, locked, stored_units, writing
from jaxlm.text.sample import limits, not_held_out, sample, weighted_texts
from jaxlm.text.sources import find_sources
from jaxlm.text.spans import lexicon_sha256, open_finders
from jaxlm.text.store import TYPES, write_array
from jaxlm.text.texts import texts_of
from jaxlm.text.tokenizers import (
    Tokenizer,
    WordPiece,
    load_tokenizer,
    train_tokenizer,
)
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

    Raises:
        UserError: the sources, the tokenizer or the directory cannot be used, and why.
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
        lexicon_sha256=lexicon_sha256(options.lexicon) if options.lexicon else "",
    )
    recipe.check(found)
    open_finders(recipe.spans, recipe.lexicon)  # a missing library is told at once
    job, path = Job(found, recipe), Path(directory)
    with writing(directory):
        if (path / manifests.NAME).exists():
            return _complete(path, job)
        with locked(path) as partial:
            recorded = job.begin(
                partial, lambda done: report(Progress("sources", done, job.total))
            )
            made = _Preparation(path, partial, job, recorded, given, report)
            return made.run(processes)


def _complete(path: Path, job: Job) -> Manifest:
    manifest = manifests.read_manifest(path)
    since = (path / manifests.NAME).stat().st_ctime_ns
    if change := job.difference(manifest.recipe, manifest.sources, since):
        raise UserError(
            f"{change}; the corpus in {path} was made without: delete it, or name "
            "another directory"
        )
    shutil.rmtree(path / PARTIAL, ignore_errors=True)
    return manifest


def _given(path: str, config: RunConfig) -> Tokenizer:
    text = config.text
    model = load_tokenizer(path, lowercase=text.lowercase, words=text.words)
    if text.unused and isinstance(model, WordPiece):
        model = WordPiece(
            padded(model.tokens, model.vocab_size + text.unused),
            lowercase=model.lowercase,
            max_word=model.max_word,
        )
    if model.vocab_size != config.model.vocab_size:
        raise UserError(
            f"tokenizer {path} has {model.vocab_size} entries, model.vocab_size is "
            f"{config.model.vocab_size}: pass --model.vocab_size {model.vocab_size}"
        )
    if config.text.verbatim and model.end_of_document is None:
        raise UserError(
            f"tokenizer {path} has no <|endoftext|>, which ends a document for a "
            "decoder (text.verbatim): name another vocabulary, or none to train one"
        )
    return model


@dataclass(frozen=True)
class _Preparation:
    """One job, from its sources to the manifest."""

    path: Path  # of the corpus
    partial: Path  # of unfinished files
    job: Job
    recorded: Sequence[dict]  # of the sources
    given: Tokenizer | None
    report: Callable[[Progress], None]

    def run(self, processes: int) -> Manifest:
        tokenizer = self._vocabulary()
        # A little text is done before another process has started.
        processes = min(processes, 1 + 4 * self.job.total // unit_sizes.BLOCK)
        self._make_units(tokenizer, processes)
        units = stored_units(self.partial)
        counts = sum((unit.counts for unit in units), Counter())
        counts["oov_words"] = sum(len(unit.oov_words) for unit in units)
        self._write_arrays(units, counts, tokenizer)
        shutil.rmtree(self.path / "tokenizer", ignore_errors=True)
        shutil.copytree(self.partial / "tokenizer", self.path / "tokenizer")
        self.job.check_unchanged(self.partial, self.recorded)
        manifest = Manifest.of(
            counts, tokenizer, self.job.recipe, self.recorded, self.path
        )
        write_json(self.path / manifests.NAME, dataclasses.asdict(manifest))
        shutil.rmtree(self.partial)
        return manifest

    def _report(self, stage: str, tokens: int = 0) -> Callable[[int], None]:
        """Reports bytes of the sources that are done."""
        return lambda done: self.report(Progress(stage, done, self.job.total, tokens))

    def _fragments(
        self, report: Callable[[int], None], start: Place = START
    ) -> Iterator[tuple[int, Fragment]]:
        """(number of its source, fragment) from a place on; reports each megabyte."""
        before = sum(each.size for each in self.job.sources[: start.source])
        for number in range(start.source, len(self.job.sources)):
            source, reported = self.job.sources[number], -unit_sizes.BLOCK
            for fragment in read_fragments(
                source,
                start=start.offset if number == start.source else 0,
                lines=self.recorded[number]["lines"],
                verbatim=self.job.recipe.verbatim,
            ):
                yield number, fragment
                if fragment.read >= reported + unit_sizes.BLOCK:
                    reported = fragment.read
                    report(before + reported)
            before += source.size
        report(self.job.total)

    def _vocabulary(self) -> Tokenizer:
        """The tokenizer: given, or trained, now or before; saved in `partial`."""
        directory, recipe = self.partial / "tokenizer", self.job.recipe
        if directory.is_dir():
            return load_tokenizer(directory)

        def texts() -> Iterator[str]:
            text = self._fragments(self._report("vocabulary"))
            fragments = (fragment for _, fragment in text)
            # Words are counted in all of the text; the others learn from a sample.
            if recipe.tokenizer == "words":
                for each in not_held_out(fragments, recipe):
                    yield from texts_of(each, recipe).texts
            else:
                most = limits(self.job.sources, recipe, SAMPLE)
                yield from weighted_texts(sample(fragments, recipe, most), recipe)

        model = self.given or train_tokenizer(
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

    def _make_units(self, tokenizer: Tokenizer, processes: int) -> None:
        """Make the units that are missing."""
        made = stored_units(self.partial)
        number, start = len(made), made[-1].follows if made else START
        tokens = sum(unit.counts["tokens"] for unit in made)
        found = (word for unit in made for word in unit.oov_words)
        words = {word: i for i, word in enumerate(found)}
        parts: list[Unit] = []

        def report(done: int) -> None:
            self._report("tokens", tokens)(done)

        text = self._fragments(report, start)
        blocks = in_blocks(text, len(self.job.sources))
        directory, recipe = self.partial / "tokenizer", self.job.recipe
        with contextlib.closing(
            tokenise_all(blocks, directory, recipe, processes)
        ) as tokenised:
            for part, follows in tokenised:
                parts.append(part)
                if follows:
                    unit = joined(parts, tokenizer, tokens, words)
                    save(unit, follows, self.partial / UNITS / f"{number:06}.npz")
                    tokens += len(unit.tokens)
                    number, parts = number + 1, []
        if not tokens:
            names = ", ".join(source.name for source in self.job.sources[:3])
            raise UserError(f"there is no text in {names}")

    def _write_arrays(
        self, units: Sequence[StoredUnit], counts: Counter[str], tokenizer: Tokenizer
    ) -> None:
        """Write the units' arrays, and the words outside the vocabulary, end to end."""
        tokens = counts["tokens"]
        arrays = {
            "tokens": (token_dtype(tokenizer), (tokens,)),
            "marks": (np.dtype(np.uint8), (tokens,)),
            "sentences": (np.dtype(np.int64), (counts["sentences"],)),
            "documents": (np.dtype(np.int64), (counts["documents"], 3)),
        }
        total = sum(dtype.itemsize * math.prod(size) for dtype, size in arrays.values())
        done = 0
        for name, (dtype, shape) in arrays.items():
            pieces = (unit.read(name) for unit in units)
            for size in write_array(self.path / name, dtype, shape, pieces):
                done += size
                self.report(Progress("arrays", done, total, tokens))
        if tokenizer.keeps_oov_words:
            text = "".join(f"{word}\n" for unit in units for word in unit.oov_words)
            (self.path / TYPES).write_text(text, encoding="utf-8", newline="\n")
