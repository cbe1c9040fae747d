"""Summaries of news: the article, then "TL;DR:" (Radford et al. 2019, section 3.6).

ROUGE 1, 2 and L (of summaries: rougeLsum) are F-measures of the package rouge-score,
with stems.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencex

from jaxlm.config.checks import optional
from jaxlm.generate.sampling import Sampling
from jaxlm.open import Model
from jaxlm.text.sources import read_file
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Options,
    Report,
    Variant,
    Variants,
    answered,
    files_of,
    mean_of,
    wrong,
)

KINDS = ("rouge1", "rouge2", "rougeLsum")
_SAMPLING = Sampling(max_tokens=100, top_k=2)


def _published(*rouge: float) -> dict[str, dict[str, float]]:
    return {k: {"GPT-2 1542M": v} for k, v in zip(KINDS, rouge, strict=True)}


VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019: 100 tokens, top-k of 2, the first three sentences",
        "{document}\nTL;DR:",
        sampling=_SAMPLING,
        published=_published(0.2934, 0.0827, 0.2658),
    ),
    Variant(
        "no hint",
        "the same without TL;DR:",
        "{document}\n",
        sampling=_SAMPLING,
        published=_published(0.2158, 0.0403, 0.1947),
    ),
    Variant(
        "community",
        "HELM, summarization_cnndm: zero-shot, temperature .3",
        "###\nArticle: {document}\n\nSummarize the above article in 3 sentences.\n",
        sampling=Sampling(max_tokens=100, temperature=0.3, stop=("###",)),
    ),
)


class Story(NamedTuple):
    """An article and its reference summary, a sentence a line."""

    name: str
    article: str
    summary: str


Stories = Sequence[Story]


def read(paths: Sequence[str]) -> list[Story]:
    """The stories of files or directories."""
    found = []
    for path in files_of(paths, ".story", "summary"):
        article, *highlights = read_file(path).split("@highlight")
        kept = [each.strip() for each in highlights if each.strip()]
        if not kept or not article.strip():
            raise UserError(f"{path}: {wrong('summary', article[:1000])}")
        found.append(Story(Path(path).stem, article.strip(), "\n".join(kept)))
    return found


def run(model: Model, items: Stories, variants: Variants, options: Options) -> Report:
    """ROUGE of each variant, over seeds and stories."""
    scorer = optional("rouge_score.rouge_scorer", "ROUGE", "'jaxlm[zeroshot]'")
    rouge = scorer.RougeScorer(KINDS, use_stemmer=True)
    items = items[: options.limit or None]

    def scores(said: Sequence[str]) -> np.ndarray:
        pairs = zip(items, said, strict=True)
        found = (rouge.score(item.summary, text) for item, text in pairs)
        return np.array([[each[kind].fmeasure for kind in KINDS] for each in found])

    sentences = [sentences_of(each.article) for each in items]
    drawn = [scores([_random(each, seed) for each in sentences]) for seed in range(5)]
    lead = scores([_lead(each.article) for each in items])
    levels = {"lead-3": lead.mean(0), "random-3": np.mean(drawn, axis=(0, 1))}
    fields = [{"document": each.article} for each in items]
    report = Report()
    for variant in variants:
        every, note = [], ""
        for seed in range(options.seeds):
            said, note = answered(
                model, variant, fields, _lead, seed=seed, long="document"
            )
            every.append(scores(said))
            report.answers += [
                {"variant": variant.name, "seed": seed, "id": item.name, "answer": text}
                | {"truth": item.summary, "rouge1": float(score[0])}
                for item, text, score in zip(items, said, every[-1], strict=True)
            ]
        for i, kind in enumerate(KINDS):
            beside = {name: float(level[i]) for name, level in levels.items()}
            values = np.mean(every, axis=0)[:, i]
            report.figures.append(mean_of(variant, kind, values, **beside))
        report.notes.append(f"{variant.name}: {note}")
    return report


def sentences_of(text: str) -> list[str]:
    """The sentences of an English text."""
    lines = [line for line in text.split("\n") if line.strip()]
    found = [each.strip() for line in lines for each in sentencex.segment("en", line)]  # pyrefly: ignore
    return [each for each in found if each]


def _lead(text: str) -> str:
    """The first three sentences, a line each."""
    return "\n".join(sentences_of(text)[:3])


def _random(sentences: Sequence[str], seed: int) -> str:
    draw = random.Random(seed)
    return "\n".join(draw.sample(sentences, min(3, len(sentences))))
