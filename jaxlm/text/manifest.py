"""What a corpus says of itself: `manifest.json`, written last."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from jaxlm.text.json_files import read_json, write_json
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
    end_of_document: int | None  # stored after each document
    languages: tuple[str, ...]  # by language id
    recipe: dict  # what was asked: how sentences are split, seed, hold-out …
    sources: tuple[dict, ...]  # name, bytes, sha256 of each, in order
    files: dict  # relative path → bytes, sha256, of arrays and tokenizer
    notes: tuple[str, ...] = ()  # what a user may want to know
    boundaries: tuple[int, int] | None = None  # stored round each sentence
    strangers: int = 0  # words beyond the vocabulary, with ids from `vocab_size` on

    @property
    def sha256(self) -> str:
        """Of what the corpus holds: the digests of its arrays and its tokenizer."""
        lines = [f"{name} {each['sha256']}\n" for name, each in self.files.items()]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write the manifest, whole or not at all."""
    fresh = directory / (NAME + ".new")
    write_json(fresh, dataclasses.asdict(manifest))
    with open(fresh, "rb") as file:
        os.fsync(file.fileno())
    os.replace(fresh, directory / NAME)


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
        return Manifest(**content, special=special and SpecialTokens(**special))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest: {error}") from None
