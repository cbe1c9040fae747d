"""Summaries of news: the article, then "TL;DR:" (Radford et al. 2019, section 3.6).

ROUGE 1, 2 and L (of summaries: rougeLsum) are F-measures of the package rouge-score,
with stems.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sentencex

from jaxlm.config.checks import optional
from jaxlm.generate.sampling import Sampling
from jaxlm.text.sources import read_file
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Options,
    Report,
    Variant,
    continued,
    files_of,
    mean_of,
    room_of,
    shortened,
    wrong,
)

if TYPE_CHECKING:
    from jaxlm.open import Model

NEEDS = "generate"
VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019: 100 tokens, top-k of 2, the first three sentences",
        "{document}\nTL;DR:",
        Sampling(max_tokens=100, top_k=2),
        {"published": (0.2934, 0.0827, 0.2658)},
    ),
    Variant(
        "no hint",
        "the same without TL;DR:",
        "{document}\n",
        Sampling(max_tokens=100, top_k=2),
        {"published": (0.2158, 0.0403, 0.1947)},
    ),
    Variant(
        "community",
        "HELM, summarization_cnndm: zero-shot, temperature .3",
        "###\nArticle: {document}\n\nSummarize the above article in 3 sentences.\n",
        Sampling(max_tokens=100, temperature=0.3, stop=("###",)),
        {},
    ),
)
KINDS = ("rouge1", "rouge2", "rougeLsum")
_PUBLISHED = "GPT-2 1542M"


class Story(NamedTuple):
    """An article and its reference summary, a sentence a line."""

    name: str
    article: str
    summary: str


def read(paths: Sequence[str]) -> list[Story]:
    """The stories of files or directories."""
    found = []
    for path in files_of(paths, ".story", "summary"):
        article, *highlights = read_file(path).split("@highlight")
        kept = [each.strip() for each in highlights if each.strip()]
        if not kept or not article.strip():
            raise UserError(f"{path}: {wrong('summary', article[:1000])}")
        found.append(Story(Path(path).stem, article.strip(), "\n".join(kept)))
    if not found:
        raise UserError(f"{', '.join(paths)}: no story")
    return found


def run(
    model: "Model",
    items: Sequence[Story],
    variants: Sequence[Variant],
    options: Options,
) -> Report:
    """ROUGE of each variant, over seeds and stories."""
    scorer = optional("rouge_score.rouge_scorer", "ROUGE", "'jaxlm[zeroshot]'")
    rouge = scorer.RougeScorer(KINDS, use_stemmer=True)
    items = items[: options.limit or None]

    def scores(said: Sequence[str]) -> np.ndarray:
        pairs = zip(items, said, strict=True)
        found = (rouge.score(item.summary, text) for item, text in pairs)
        return np.array([[each[kind].fmeasure for kind in KINDS] for each in found])

    sentences = [sentences_of(each.article) for each in items]
    lead = scores(["\n".join(each[:3]) for each in sentences]).mean(0)
    chance = np.mean(
        [scores([_random(each, seed) for each in sentences]) for seed in range(5)],
        axis=(0, 1),
    )
    figures, answers, notes = [], [], []
    for variant in variants:
        room = room_of(model, variant.sampling)
        cut = [
            shortened(
                model, variant.template, {"document": each.article}, "document", room
            )
            for each in items
        ]
        every = []
        for seed in range(options.seeds):
            texts = continued(
                model, [prompt for prompt, _ in cut], variant.sampling, seed
            )
            said = ["\n".join(sentences_of(text)[:3]) for text in texts]
            every.append(scores(said))
            answers += [
                {"variant": variant.name, "seed": seed, "id": item.name, "answer": text}
                | {"truth": item.summary, "rouge1": float(score[0])}
                for item, text, score in zip(items, said, every[-1], strict=True)
            ]
        known = variant.facts.get("published", ())
        for i, kind in enumerate(KINDS):
            beside: dict[str, Any] = {"lead-3": lead[i], "random-3": chance[i]}
            beside |= {_PUBLISHED: known[i]} if known else {}
            values = np.mean(every, axis=0)[:, i]
            figures.append(mean_of(variant.name, kind, values, **beside))
        notes.append(
            f"{variant.name}: {sum(short for _, short in cut):,} of {len(items):,} "
            f"articles were cut at their end to fit {room:,} tokens"
        )
    return Report(figures, answers, notes)


def sentences_of(text: str) -> list[str]:
    """The sentences of an English text."""
    lines = [line for line in text.split("\n") if line.strip()]
    found = [each.strip() for line in lines for each in sentencex.segment("en", line)]  # pyrefly: ignore
    return [each for each in found if each]


def _random(sentences: Sequence[str], seed: int) -> str:
    draw = random.Random(seed)
    return "\n".join(draw.sample(sentences, min(3, len(sentences))))
