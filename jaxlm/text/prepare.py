"""Text → a corpus on disk: streaming, restartable, the same bytes however it is run.

    sources ─ sample ─ vocabulary
       └───── fragments ─ blocks ─ parts ─ arrays ─ manifest

Memory is bounded: the sample is at most 64 MB, a block 1 MB, and the reader waits for
the tokenisers. The parts, in `DIR/.partial`, are journalled each 64 MB of text, at the
end of a document; a job that is killed goes on there. The manifest comes last.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxlm.config import RunConfig
from jaxlm.text import manifest as manifests
from jaxlm.text.blocks import Recipe, texts_of, token_dtype, tokenise_all
from jaxlm.text.documents import Fragment, read_fragments
from jaxlm.text.job import (
    PARTIAL,
    Job,
    asked,
    begin,
    by_language,
    check_fitting,
    check_unchanged,
    difference,
    locked,
    writing,
)
from jaxlm.text.manifest import Manifest
from jaxlm.text.parts import Journal, Parts
from jaxlm.text.sample import limits, not_held_out, sample, weighted_texts
from jaxlm.text.sentences import Errors, Sentences
from jaxlm.text.sources import find_sources
from jaxlm.text.spans import ANNOTATED, open_finders
from jaxlm.text.store import files_below, sha256
from jaxlm.text.tokenizers import (
    Tokenizer,
    WordPiece,
    load_tokenizer,
    train_tokenizer,
)
from jaxlm.text.tokenizers.tokenizer import padded
from jaxlm.types import UserError

BLOCK = 1 << 20  # bytes of text that are tokenised at a time
UNIT = 64 << 20  # bytes of text after which the parts are journalled
SAMPLE = 64 << 20  # bytes of text that a vocabulary is learnt from, at most


class Progress(NamedTuple):
    """How far `prepare` is; `done` and `total` are bytes of the files that it reads."""

    stage: str  # "sources" | "vocabulary" | "tokens" | "arrays"
    done: int
    total: int
    tokens: int = 0  # stored so far


Report = Callable[[Progress], None]


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
    spans: str = "none",
    lexicon: str = "",
    report: Report | None = None,
) -> Manifest:
    """Make the corpus of `sources` in `directory`, or finish one that was begun.

    A corpus that is complete, of these sources and this recipe, is left as it is.

    Args:
        config: its `text`, `seed`, `model.vocab_size` and, of texts in several
            languages, `smoothing` matter.
        sources: files, globs, directories, `shipped:NAME`, `tfds:NAME`; each may have
            its language before it, `fr:books/*.txt`.
        directory: of the corpus; made where it is missing.
        tokenizer: the path of one to use; None: train one.
        sentences: whether lines are sentences or paragraphs (see `documents`).
        errors: bytes that are not UTF-8 stop it, or are replaced and counted.
        holdout: share of documents, chosen by hash, that get split 1.
        processes: that tokenise; the result does not depend on it.
        spans: what finds words, phrases and entities, or how the text says them (see
            `spans`).
        lexicon: file of the user's own entities, one a line; empty: none.
        report: is told how far it is, about each megabyte.

    Raises:
        UserError: the sources, the tokenizer or the directory will not do: which, why.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout = {holdout} is not in [0, 1)")
    if processes < 1:
        raise UserError(f"processes = {processes} must be positive")
    kind = spans if spans in ANNOTATED else ""
    found, languages = by_language(find_sources(sources, kind), config)
    recipe = Recipe(
        language=languages[0],
        languages=languages if len(languages) > 1 else (),
        errors=errors,
        seed=config.seed,
        holdout=holdout,
        verbatim=config.text.verbatim,
        spans=spans,
        lexicon=lexicon,
        dialogues=config.text.dialogues,
        chinese=config.text.chinese,
    )
    check_fitting(config, found, recipe, sentences)
    open_finders(spans, lexicon)  # what they lack is told before any work
    given = None if tokenizer is None else _given(tokenizer, config)
    what = asked(config, recipe, sentences, given)
    job = Job(found, recipe, sentences, what)
    report = report or (lambda progress: None)
    path = Path(directory)
    with writing(directory):
        if (path / manifests.NAME).exists():
            return _complete(path, job)
        with locked(path) as partial:
            return _prepare(path, partial, job, config, given, processes, report)


def _complete(path: Path, job: Job) -> Manifest:
    manifest = manifests.read_manifest(path)
    since = (path / manifests.NAME).stat().st_ctime_ns
    if change := difference(manifest.recipe, manifest.sources, job, since):
        raise UserError(
            f"{change}; the corpus in {path} was made without: delete it, or name "
            "another directory"
        )
    shutil.rmtree(path / PARTIAL, ignore_errors=True)
    return manifest


def _prepare(
    path: Path,
    partial: Path,
    job: Job,
    config: RunConfig,
    given: Tokenizer | None,
    processes: int,
    report: Report,
) -> Manifest:
    recorded = begin(
        partial, job, lambda done: report(Progress("sources", done, job.total))
    )
    lines = [each["lines"] for each in recorded]
    model = _vocabulary(partial, given, config, job, lines, report)
    parts = Parts(partial, model)
    with contextlib.closing(parts):
        if not parts.journal.finished:
            # Small text is done before another process has started.
            processes = min(processes, 1 + 4 * job.total // BLOCK)
            _tokenise(parts, partial, job, lines, processes, report)
        for done in parts.write_arrays(path):
            report(Progress("arrays", done, parts.size, parts.journal.tokens))
    shutil.rmtree(path / "tokenizer", ignore_errors=True)
    shutil.copytree(partial / "tokenizer", path / "tokenizer")
    check_unchanged(partial, job, recorded)
    manifest = _manifest(path, parts.journal, model, job.asked, recorded)
    manifests.write_manifest(manifest, path)
    shutil.rmtree(partial)
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


def _fragments(
    job: Job,
    lines: Sequence[bool],
    report: Callable[[int], None],
    source: int = 0,
    offset: int = 0,
) -> Iterator[tuple[int, Fragment]]:
    """(number of its source, fragment) from a place on; reports bytes on disk."""
    before = sum(each.size for each in job.sources[:source])
    for number in range(source, len(job.sources)):
        reported = -BLOCK
        start = offset if number == source else 0
        for fragment in read_fragments(
            job.sources[number],
            start=start,
            lines=lines[number],
            verbatim=job.recipe.verbatim,
        ):
            yield number, fragment
            if fragment.read >= reported + BLOCK:
                reported = fragment.read
                report(before + reported)
        before += job.sources[number].size
    report(job.total)


def _vocabulary(
    partial: Path,
    given: Tokenizer | None,
    config: RunConfig,
    job: Job,
    lines: Sequence[bool],
    report: Report,
) -> Tokenizer:
    """The tokenizer of the job, saved in it: given, trained before, or trained now."""
    directory = partial / "tokenizer"
    if directory.is_dir():
        return load_tokenizer(directory)

    def read(done: int) -> None:
        report(Progress("vocabulary", done, job.total))

    def texts() -> Iterator[str]:
        fragments = (each for _, each in _fragments(job, lines, read))
        # Words are counted, in all of the text; pieces are learnt, from a part of it.
        if config.text.tokenizer == "words":
            for each in not_held_out(fragments, job.recipe):
                yield from texts_of(each, job.recipe).texts
        else:
            most = limits(job.sources, job.recipe, config.smoothing, SAMPLE)
            found = sample(fragments, job.recipe, most)
            yield from weighted_texts(found, job.recipe, config.smoothing)

    model = given or train_tokenizer(
        config.text.tokenizer,
        texts(),
        vocab_size=config.model.vocab_size,
        lowercase=config.text.lowercase,
        verbatim=config.text.verbatim,
        words=config.text.words,
    )
    fresh = partial / "tokenizer.new"
    shutil.rmtree(fresh, ignore_errors=True)
    model.save(fresh)
    fresh.replace(directory)
    return model


def _tokenise(
    parts: Parts,
    partial: Path,
    job: Job,
    lines: Sequence[bool],
    processes: int,
    report: Report,
) -> None:
    """Append the text's tokens to the parts, from the journal's place on."""

    def read(done: int) -> None:
        report(Progress("tokens", done, job.total, parts.journal.tokens))

    journal = parts.journal
    text = _fragments(job, lines, read, journal.source, journal.offset)
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
    journal: Journal,
    model: Tokenizer,
    recipe: dict,
    recorded: Sequence[dict],
) -> Manifest:
    return Manifest(
        format=manifests.FORMAT,
        tokens=journal.tokens,
        sentences=journal.sentences,
        documents=journal.documents,
        held_out=journal.held_out,
        text_bytes=journal.text_bytes,
        replaced=journal.replaced,
        token_dtype=token_dtype(model).name,
        vocab_size=model.vocab_size,
        tokenizer_kind=model.kind,
        tokenizer_sha256=model.sha256,
        special=model.special,
        end_of_document=model.end_of_document,
        languages=tuple(recipe.get("languages") or [recipe["language"]]),
        recipe=recipe,
        sources=tuple(recorded),
        files={
            name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for name, file in files_below(path)
        },
        notes=tuple(_notes(journal, model, recipe)),
        boundaries=model.boundaries,
        strangers=journal.strangers,
    )


def _notes(journal: Journal, model: Tokenizer, recipe: dict) -> Iterator[str]:
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
    if journal.spans_dropped:
        yield (
            f"{journal.spans_dropped:,} spans were dropped: they lie across words of "
            f"the vocabulary, or hold none; {journal.spans:,} phrases and entities kept"
        )
    if {"spans", "lexicon"} & set(recipe) and not journal.spans:
        yield "no phrase and no entity was found: is the text in the right script?"
    if journal.replaced:
        yield f"{journal.replaced:,} byte sequences that are not UTF-8 were replaced"
    # GPT-1's words leave no line ends to tell lines by.
    if journal.sentences < 1.5 * journal.documents and model.kind != "gpt1_bpe":
        mean = journal.sentences / journal.documents
        yield (
            f"a document has {mean:.1f} sentences on average: is there a blank line "
            "after each? Blank lines separate documents"
        )
    if recipe["holdout"] and not journal.held_out:
        yield (
            f"no document of {journal.documents:,} is held out: raise "
            f"holdout = {recipe['holdout']}"
        )
