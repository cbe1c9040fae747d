"""Text → a corpus on disk: streaming, restartable, the same bytes however it is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.config import RunConfig
from jaxlm.text.documents import (
    Errors,
    Fragment,
    Rules,
    Sentences,
    read_fragments,
    sentences_of,
)
from jaxlm.text.files import find_sources
from jaxlm.text.manifest import FORMAT, Manifest, read_manifest, write_manifest
from jaxlm.text.store import (
    SHARD,
    files_below,
    sha256,
    token_dtype,
    write_array,
)
from jaxlm.text.tokenizers import Tokenizer, load, train
from jaxlm.types import Mark, UserError

BLOCK = 1 << 20  # bytes of text that are tokenised at a time


class Progress(NamedTuple):
    """How far `prepare` is."""

    stage: str  # "vocabulary" | "tokens" | "store"
    done: int  # bytes of text
    total: int  # bytes of the sources on disk
    seconds: float
    tokens: int


class Block(NamedTuple):
    """Tokens of some fragments; offsets count from the block's first token."""

    tokens: np.ndarray
    marks: np.ndarray
    sentences: np.ndarray  # int64 [m]
    documents: np.ndarray  # int64 [d, 2]: first token, split
    text_bytes: int
    replaced: int


def split_of(data: bytes, seed: int, holdout: float) -> int:
    """1 for the share `holdout` of documents, by the hash of their first fragment."""
    if not holdout:
        return 0
    digest = hashlib.blake2b(
        data, digest_size=8, key=seed.to_bytes(8, "little"), person=b"holdout"
    ).digest()
    return int(int.from_bytes(digest, "little") < holdout * 2.0**64)


def tokenise(
    fragments: Sequence[Fragment],
    tokenizer: Tokenizer,
    *,
    rules: Rules,
    seed: int,
    holdout: float,
) -> Block:
    """The tokens of some fragments."""
    texts: list[str] = []
    first_text, splits, replaced = [], [], 0
    for fragment in fragments:
        if fragment.starts:
            first_text.append(len(texts))
            splits.append(split_of(fragment.data, seed, holdout))
        sentences, bad = sentences_of(fragment, rules)
        texts += sentences
        replaced += bad
    ids, word_start, counts = tokenizer.encode_flat(texts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    marks = word_start * np.uint8(Mark.WORD)
    sentences = starts[:-1][counts > 0]
    marks[sentences] |= np.uint8(Mark.SENTENCE)
    documents = np.stack(
        [starts[np.array(first_text, np.int64)], np.array(splits, np.int64)], axis=1
    ).astype(np.int64)
    tokens = ids.astype(token_dtype(tokenizer.vocab_size))
    text_bytes = sum(len(fragment.data) for fragment in fragments)
    return Block(tokens, marks, sentences, documents, text_bytes, replaced)


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
    """Make the corpus of `sources` in `directory`, or go on making it."""
    path = Path(directory)
    if (path / "manifest.json").exists():
        return read_manifest(path)
    found = find_sources(sources)
    rules = Rules(config.text.language, errors)
    path.mkdir(parents=True, exist_ok=True)

    def fragments() -> Iterator[Fragment]:
        for source in found:
            yield from read_fragments(
                source, sentences=sentences, language=rules.language
            )

    if tokenizer is not None:
        model = load(tokenizer)
    else:
        texts = (s for f in fragments() for s in sentences_of(f, rules)[0])
        model = train(
            config.text.tokenizer,
            texts,
            vocab_size=config.model.vocab_size,
            lowercase=config.text.lowercase,
        )
    model.save(path / "tokenizer")
    blocks = [
        tokenise(block, model, rules=rules, seed=config.seed, holdout=holdout)
        for block in in_blocks(fragments())
    ]
    base = np.cumsum([0, *(len(b.tokens) for b in blocks)])
    tokens = np.concatenate([b.tokens for b in blocks])
    marks = np.concatenate([b.marks for b in blocks])
    sentence_starts = np.concatenate(
        [b.sentences + at for b, at in zip(blocks, base, strict=False)]
    )
    documents = np.concatenate(
        [b.documents + [at, 0] for b, at in zip(blocks, base, strict=False)]
    )
    follows = np.append(documents[1:, 0], len(tokens))
    documents = documents[documents[:, 0] < follows]
    documents = np.insert(documents, 1, 0, axis=1)
    marks[documents[:, 0]] |= np.uint8(Mark.DOCUMENT)
    if not len(tokens):
        raise UserError(f"no text in {', '.join(sources)}")
    for name, array in (
        ("tokens", tokens),
        ("marks", marks),
        ("sentences", sentence_starts),
        ("documents", documents),
    ):
        parts = (array[i : i + SHARD] for i in range(0, len(array), SHARD))
        write_array(path / name, array.dtype, array.shape, parts)
    manifest = Manifest(
        format=FORMAT,
        num_tokens=len(tokens),
        num_sentences=len(sentence_starts),
        num_documents=len(documents),
        num_held_out=int(documents[:, 2].sum()),
        text_bytes=sum(b.text_bytes for b in blocks),
        replaced=sum(b.replaced for b in blocks),
        token_dtype=tokens.dtype.name,
        tokenizer={
            "kind": model.kind,
            "sha256": model.sha256,
            "vocab_size": model.vocab_size,
            "end_of_document": model.end_of_document,
        },
        special=model.special,
        languages=(config.text.language,),
        recipe={},
        sources=tuple({"name": s.name, "bytes": s.size} for s in found),
        files={
            name: {"bytes": p.stat().st_size, "sha256": sha256(p)}
            for name, p in files_below(path)
        },
    )
    write_manifest(manifest, path)
    return manifest


def in_blocks(fragments: Iterable[Fragment]) -> Iterator[list[Fragment]]:
    """Fragments, about `BLOCK` bytes of them at a time."""
    block, size = [], 0
    for fragment in fragments:
        block.append(fragment)
        size += len(fragment.data)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block
