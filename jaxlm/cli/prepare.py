"""`jaxlm prepare CONFIG --text … --corpus DIR`: text → tokenizer → corpus."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.cli.arguments import Config, parse
from jaxlm.cli.progress import preparing, say
from jaxlm.config import RunConfig
from jaxlm.text.recipe import ReadOptions
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.text.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class TextOptions(ReadOptions):
    """Where text comes from and how it is read."""

    text: tuple[str, ...] = ()
    """Files, directories or quoted globs (.txt, .jsonl, also .gz .xz .zst), tfds:name,
    tfds:/directory or shipped:austen; in several languages, each with its label in
    front: en:'en/*.txt' zh:'zh/*.txt' (see --smoothing)."""
    tokenizer: str = ""
    """Vocabulary to use (vocab.txt, tokenizer.json, a directory); empty: train one."""
    holdout: float = 0.01
    """Share of documents, chosen by hash, that are kept for evaluation."""
    processes: int = 0
    """Processes that prepare; the result does not depend on it. 0: one a core."""


@dataclass(frozen=True, kw_only=True)
class Prepare(TextOptions):
    """Text → tokenizer → corpus. The same command resumes after a kill."""

    config: Config
    corpus: str
    """Directory to write."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Prepare, "prepare", argv)
    if not args.text:
        raise UserError("jaxlm prepare needs --text")
    say(prepare_corpus(args.config, args, args.corpus))
    from jaxlm.text.corpus import open_corpus

    for line in language_lines(open_corpus(args.corpus), args.config.smoothing):
        say(line)
    return 0


def language_lines(corpus: Corpus, smoothing: float) -> list[str]:
    """What a corpus holds of each of several languages, and its share of the rows."""
    from jaxlm.text.languages import smoothed

    tokens = corpus.language_tokens(split=0)
    rows = smoothed(tokens, smoothing)
    return [
        f"  {name:<8} {count:>15,} tokens to train on  {count / tokens.sum():6.2%}  "
        f"rows {share:6.2%} at smoothing {smoothing}"
        for name, count, share in zip(
            corpus.manifest.languages, tokens.tolist(), rows.tolist(), strict=True
        )
        if len(tokens) > 1
    ]


def prepare_corpus(config: RunConfig, options: TextOptions, directory: str) -> str:
    """Prepare a corpus with a progress bar; returns a line about what it holds."""
    from jaxlm.text.prepare import prepare

    with preparing() as report:
        manifest = prepare(
            config,
            options.text,
            directory,
            options=options,
            tokenizer=options.tokenizer or None,
            processes=options.processes or os.cpu_count() or 1,
            report=report,
        )
    return (
        f"{directory}: {manifest.tokens:,} tokens, {manifest.sentences:,} sentences, "
        f"{manifest.documents:,} documents ({manifest.held_out:,} held out for "
        f"evaluation by --holdout {options.holdout:g})"
    )
