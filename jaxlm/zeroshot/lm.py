"""Running text: perplexity by token, by word and by byte.

The perplexity of a word divides by the words of the file as it is, before it is
detokenised: so models with different vocabularies compare.

    community   documents apart, windows side by side, the harness's detokeniser
    paper       one stream, windows that overlap by half, our detokeniser

The paper's windows and invertible detokenisers are not public.
"""

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.text.sources import read_file
from jaxlm.types import UserError, without_notes
from jaxlm.zeroshot.protocol import (
    Figure,
    Options,
    Report,
    Variant,
    files_of,
    perplexity_of,
)

if TYPE_CHECKING:
    from jaxlm.open import Model

NEEDS = "next"
VARIANTS = (
    Variant("paper", "Radford et al. 2019, section 3.1 and table 3"),
    Variant("community", "lm-evaluation-harness, wikitext"),
)
PUBLISHED = {"wikitext": 29.41, "ptb": 65.85, "none": math.nan}  # WikiText2, PTB
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


def of_the_harness() -> Callable[[dict], str] | None:
    """The harness's detokeniser of a record {"page": …}; None if it is missing."""
    found = importlib.util.find_spec("lm_eval")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "tasks/wikitext/preprocess_wikitext.py"
        spec = importlib.util.spec_from_file_location("preprocess_wikitext", path)
        if path.is_file() and spec and spec.loader:
            module: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.wikitext_detokenizer
    return None


def read(paths: Sequence[str]) -> list[str]:
    """The content of each file."""
    found = [read_file(path) for path in files_of(paths, ".txt", "lm")]
    if not any(text.strip() for text in found):
        raise UserError(f"{', '.join(paths)}: no text")
    return [text for text in found if text.strip()]


def pages(text: str) -> list[str]:
    """The documents of a file: WikiText's articles, each from its title on."""
    at = [match.start() for match in _TITLE.finditer(text)]
    ends = [*at[1:], len(text)]
    found = [text[a:b] for a, b in zip(at, ends, strict=True)]
    return [each for each in found if each.strip()] or [text]


def run(
    model: "Model",
    items: Sequence[str],
    variants: Sequence[Variant],
    options: Options,
) -> Report:
    """Perplexities of each variant."""
    kind = options.detokenise
    if kind not in DETOKENISERS:
        raise UserError(f"--detokenise {kind} is none of {', '.join(DETOKENISERS)}")
    harness = of_the_harness() if kind == "wikitext" else None
    documents = [page for text in items for page in pages(text)]
    documents = documents[: options.limit or None]
    streams = items if not options.limit else ["".join(documents)]
    figures: list[Figure] = []
    notes = []
    for name in (variant.name for variant in variants):
        if name == "community" and kind == "wikitext" and harness is None:
            notes.append('community is left out: pip install "jaxlm[zeroshot]"')
            continue
        parts = documents if name == "community" else streams
        plain = [DETOKENISERS[kind](each) for each in parts]
        if name == "community" and harness:
            plain = [harness({"page": each}) for each in parts]
        half = model.config.max_length // 2  # type: ignore[union-attr]
        stride = 0 if name == "community" else half
        with without_notes():  # counted below
            found: Any = model.score(plain, stride=stride)
        nats = -sum(each.total for each in found)
        tokens = sum(len(each.log_p) for each in found)
        words = sum(map(_words, parts) if name == "paper" else map(_runs, parts))
        size = sum(len(each.encode()) for each in parts)
        beside = {"uniform": float(model.tokenizer.vocab_size)}
        errors = [-each.total / len(each.log_p) for each in found]
        by_token = perplexity_of(name, "perplexity of a token", errors, **beside)
        by_token = by_token._replace(value=math.exp(nats / tokens), n=tokens)
        known = {"GPT-2 117M": PUBLISHED[kind]} if name == "paper" else {}
        known = {k: v for k, v in known.items() if v == v}
        known["unigram of this text"] = _unigram(parts)
        per_word = math.exp(min(700, nats / words))
        none = math.nan
        figures += [
            by_token,
            Figure(name, "perplexity of a word", per_word, none, words, known),
            Figure(
                name,
                "bits a byte",
                nats / size / math.log(2),
                none,
                size,
                {"uniform": 8.0},
            ),
        ]
        cut = sum(not each.whole for each in found)
        notes.append(f"{name}: {cut:,} of {len(found):,} texts are read in windows")
    return Report(figures, [], notes)


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
