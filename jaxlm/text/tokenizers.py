"""Tokenizers by one interface: trained from text, or loaded from anyone's files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from jaxlm.text.training import train_wordpiece
from jaxlm.text.vocabulary import OPTIONS_FILE, Kind, Tokenizer, read_json
from jaxlm.text.wordpiece import MAX_WORD, WordPiece, looks_cased, read_vocabulary
from jaxlm.types import UserError

__all__ = ["Tokenizer", "load_tokenizer", "train_tokenizer"]


def train_tokenizer(
    kind: Kind, texts: Iterable[str], *, vocab_size: int, lowercase: bool = True
) -> Tokenizer:
    """A vocabulary of exactly `vocab_size` entries; equal texts give equal bytes."""
    match kind:
        case "wordpiece":
            return train_wordpiece(texts, vocab_size=vocab_size, lowercase=lowercase)
    raise UserError(f"no tokenizer kind {kind!r}")


def load_tokenizer(path: str | Path, *, lowercase: bool | None = None) -> Tokenizer:
    """The tokenizer in a directory or file."""
    path = Path(path)
    if (path / OPTIONS_FILE).is_file():
        return _load_ours(path)
    if path.is_dir() and (path / "vocab.txt").is_file():
        path = path / "vocab.txt"
    if path.suffix == ".txt":
        tokens = read_vocabulary(path)
        if lowercase is None:
            lowercase = not looks_cased(tokens)
        return WordPiece(tokens, lowercase=lowercase)
    raise UserError(f"no tokenizer at {path}")


def _load_ours(directory: Path) -> Tokenizer:
    options = read_json(directory / OPTIONS_FILE)
    tokens = read_vocabulary(directory / "vocab.txt")
    tokenizer = WordPiece(
        tokens,
        lowercase=options["lowercase"],
        max_word=options.get("max_word", MAX_WORD),
    )
    if tokenizer.sha256 != options["sha256"]:
        raise UserError(f"{directory}: vocab.txt is not the one that was saved")
    return tokenizer
