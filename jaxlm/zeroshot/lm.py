"""Running text: perplexity by token, by word and by byte.

The perplexity of a word divides by the words of the file as it is, before it is
detokenised: so models with different vocabularies compare.

    community   documents apart, windows side by side, the harness's detokeniser
    paper       one stream, windows that overlap by half, our detokeniser

The paper's windows and invertible detokenisers are not public.
"""

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from jaxlm.open import Model
from jaxlm.text.sources import read_file
from jaxlm.types import UserError, without_notes
from jaxlm.zeroshot.protocol import (
    Figure,
    Options,
    Report,
    Variant,
    Variants,
    files_of,
    perplexity_of,
)

Texts = Sequence[str]
VARIANTS = (
    Variant("paper", "Radford et al. 2019, section 3.1 and table 3"),
    Variant("community", "lm-evaluation-harness, wikitext"),
)
PUBLISHED = {"wikitext": 29.41, "ptb": 65.85}  # WikiText2, PTB
_TITLE = re.compile(r"(?m)^ ?= [^=\n]+ = ?$")


def wikitext(text: str) -> str:
    """WikiText as it was before it was cut: @-@ joins, and marks stick to words."""
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]}])(?=\s|$)", r"\1", text)
    text = re.sub(r"([(\[{$£]) ", r"\1", text)
    text = re.sub(r" ('(?:s|re|ve|ll|d|m|t)|n't)\b", r"\1", text)
    return re.sub(r'" ([^"\n]*?) "', r'"\1"', text)


def ptb(text: str) -> str:
    """The Penn Treebank without the spaces of its tokens."""
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m))\b", r"\1", text)
    return re.sub(r"\$ (?=\d)", "$", re.sub(r"\bN\b", "1", text))


DETOKENISERS: dict[str, Callable[[str], str]] = {
    "wikitext": wikitext,
    "ptb": ptb,
    "none": lambda text: text,
}


def of_the_harness() -> Callable[[str], str] | None:
    """The harness's detokeniser; None if the harness is not installed."""
    try:
        task = importlib.import_module("lm_eval.tasks.wikitext.preprocess_wikitext")
    except ImportError:
        return None
    return lambda text: task.wikitext_detokenizer({"page": text})


def read(paths: Sequence[str]) -> list[str]:
    """The content of each file that has any."""
    found = [read_file(path) for path in files_of(paths, ".txt", "lm")]
    return [text for text in found if text.strip()]


def pages(text: str) -> list[str]:
    """The documents of a file: WikiText's articles, each from its title on."""
    at = [match.start() for match in _TITLE.finditer(text)]
    found = [text[a:b] for a, b in zip(at, [*at[1:], len(text)], strict=True)]
    return [each for each in found if each.strip()] or [text]


def run(model: Model, items: Texts, variants: Variants, options: Options) -> Report:
    """Perplexities of each variant."""
    kind = options.detokenise
    if kind not in DETOKENISERS:
        raise UserError(f"--detokenise {kind} is none of {', '.join(DETOKENISERS)}")
    documents = [page for text in items for page in pages(text)]
    documents = documents[: options.limit or None]
    stream = ["".join(documents)] if options.limit else items
    half = model.config.max_length // 2  # type: ignore[union-attr]
    report = Report()
    for variant in variants:
        if variant.name == "paper":
            parts, stride, count, detokenise = stream, half, _words, DETOKENISERS[kind]
            known = {"GPT-2 117M": PUBLISHED[kind]} if kind in PUBLISHED else {}
        else:
            parts, stride, count, known = documents, 0, _runs, {}
            detokenise = DETOKENISERS[kind] if kind != "wikitext" else of_the_harness()
        if detokenise is None:
            report.notes.append('community is left out: pip install "jaxlm[zeroshot]"')
            continue
        with without_notes():  # counted below
            found: Any = model.score(list(map(detokenise, parts)), stride=stride)
        nats = -sum(each.total for each in found)
        tokens = sum(len(each.log_p) for each in found)
        words = sum(map(count, parts))
        size = sum(len(each.encode()) for each in parts)
        by_token = perplexity_of(
            variant,
            "perplexity of a token",
            [-each.mean for each in found],
            uniform=float(model.tokenizer.vocab_size),
        )
        by_word = math.exp(min(700, nats / words))
        beside = known | {"unigram of this text": _unigram(parts)}
        bits = nats / size / math.log(2)
        report.figures += [
            by_token._replace(value=math.exp(nats / tokens), n=tokens),
            Figure(
                variant.name, "perplexity of a word", by_word, math.nan, words, beside
            ),
            Figure(variant.name, "bits a byte", bits, math.nan, size, {"uniform": 8.0}),
        ]
        cut = sum(not each.whole for each in found)
        report.notes.append(
            f"{variant.name}: {cut:,} of {len(found):,} texts are read in windows"
        )
    return report


def _words(text: str) -> int:
    """Tokens as published: an <eos> ends each line."""
    return len(text.split()) + text.count("\n")


def _runs(text: str) -> int:
    return len(re.split(r"\s+", text))


def _unigram(texts: Sequence[str]) -> float:
    """The perplexity of a unigram model fitted to the very words that it predicts."""
    counts = Counter(word for text in texts for word in text.split())
    total = counts.total()
    return math.exp(-sum(n / total * math.log(n / total) for n in counts.values()))
