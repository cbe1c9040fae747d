"""What a corpus says of itself: `manifest.json`, which is written last."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxlm.text.json_files import read_json
from jaxlm.text.recipe import Recipe
from jaxlm.text.store import files_below, sha256
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.text.units import token_dtype
from jaxlm.types import SpecialTokens, UserError

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Counts, digests and how the text was read."""

    format: int
    tokens: int
    sentences: int
    documents: int
    held_out: int  # documents of split 1
    text_bytes: int  # of the unpacked sources
    replaced: int  # byte sequences that were not UTF-8
    token_dtype: str
    vocab_size: int
    tokenizer_kind: str
    tokenizer_sha256: str
    special: SpecialTokens | None
    end_of_document: int | None  # id stored after each document
    languages: tuple[str, ...]  # by language id
    recipe: Recipe
    sources: tuple[dict, ...]  # name, bytes, sha256 of each, in order
    files: dict  # relative path → bytes, sha256, of arrays and tokenizer
    notes: tuple[str, ...] = ()  # what a user may want to know
    boundaries: tuple[int, int] | None = None  # ids stored round each sentence
    oov_words: int = 0  # outside the vocabulary, with ids from `vocab_size` on

    @property
    def sha256(self) -> str:
        """Digest of the corpus's arrays and tokenizer."""
        lines = [f"{name} {each['sha256']}\n" for name, each in self.files.items()]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        tokenizer: Tokenizer,
        recipe: Recipe,
        sources: Sequence[dict],
        directory: Path,
    ) -> "Manifest":
        """The manifest of the files in a directory."""
        names = ("tokens", "sentences", "documents", "held_out", "text_bytes")
        return cls(
            format=FORMAT,
            **{name: counts[name] for name in (*names, "replaced", "oov_words")},
            token_dtype=token_dtype(tokenizer).name,
            vocab_size=tokenizer.vocab_size,
            tokenizer_kind=tokenizer.kind,
            tokenizer_sha256=tokenizer.sha256,
            special=tokenizer.special,
            end_of_document=tokenizer.end_of_document,
            languages=recipe.languages,
            recipe=recipe,
            sources=tuple(sources),
            files={
                name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
                for name, file in files_below(directory)
            },
            notes=tuple(_notes(counts, tokenizer, recipe)),
            boundaries=tokenizer.boundaries,
        )


def _notes(
    counts: Mapping[str, int], tokenizer: Tokenizer, recipe: Recipe
) -> Iterator[str]:
    """What a user may not have meant."""
    found = tokenizer.training or {}
    if unused := found.get("unused"):
        yield (
            f"{unused:,} of {tokenizer.vocab_size:,} entries of the vocabulary are "
            "[unusedN]: the text yields no more; a smaller model.vocab_size would do"
        )
    if left_out := found.get("characters_left_out"):
        share = found["words_unknown"] / found["words"]
        yield (
            f"{left_out:,} of {found['characters']:,} characters are not in the "
            f"vocabulary, and {share:.2%} of words [UNK]: raise model.vocab_size"
        )
    spans, dropped = counts["spans"], counts["spans_dropped"]
    if dropped:
        yield (
            f"{dropped:,} spans were dropped: they lie across words of the vocabulary, "
            f"or hold none; {spans:,} phrases and entities kept"
        )
    if recipe.marks_spans and not spans:
        yield "no phrase and no entity was found: is the text in the right script?"
    if replaced := counts["replaced"]:
        yield f"{replaced:,} byte sequences that are not UTF-8 were replaced"
    documents = counts["documents"]
    mean = counts["sentences"] / documents
    # GPT-1's words leave no line ends to tell lines by.
    if mean < 1.5 and tokenizer.kind != "gpt1_bpe":
        yield (
            f"a document has {mean:.1f} sentences on average: is there a blank line "
            "after each? Blank lines separate documents"
        )
    if recipe.holdout and not counts["held_out"]:
        yield (
            f"no document of {documents:,} is held out: raise "
            f"holdout = {recipe.holdout}"
        )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a complete corpus.

    Raises:
        UserError: there is none, or it is of another format.
    """
    path = directory / NAME
    if not path.is_file():
        raise UserError(
            f"no complete corpus in {directory}: make it, or finish it, with "
            f"`jaxlm prepare CONFIG --text … --corpus {directory}`"
        )
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {content.get('format')}, this version reads {FORMAT}: "
            "prepare the corpus again"
        )
    try:
        special = content.pop("special")
        for name in ("languages", "sources", "notes"):
            content[name] = tuple(content[name])
        if content.get("boundaries"):
            content["boundaries"] = tuple(content["boundaries"])
        if "strangers" in content:  # as corpora of the first version have it
            content["oov_words"] = content.pop("strangers")
        content["recipe"] = Recipe.stored(content["recipe"])
        return Manifest(**content, special=special and SpecialTokens(**special))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest: {error}") from None
