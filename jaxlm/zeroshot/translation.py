"""Translation: example pairs in the prompt, then a sentence and "=".

The first line of the greedy continuation is the translation. BLEU is sacrebleu's, with
its signature; the standard error is of 1,000 bootstrap samples.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

from jaxlm.config.checks import optional
from jaxlm.open import Model
from jaxlm.text.sources import read_lines
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Figure,
    Options,
    Report,
    Variant,
    Variants,
    answered,
    first_line,
    greedy,
    two_texts,
    wrong,
)

Pairs = Sequence[tuple[str, str]]
VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019, section 3.7: english sentence = french sentence",
        "{examples}{source} =",
        "{source} = {target}\n",
        greedy(48, "\n"),
        {"en-fr": {"GPT-2 1542M": 5.0}, "fr-en": {"GPT-2 1542M": 11.5}},
    ),
    Variant(
        "community",
        "lm-evaluation-harness, wmt14-en-fr",
        "{examples}{from} phrase: {source}\n{to} phrase:",
        "{from} phrase: {source}\n{to} phrase: {target}\n\n",
        greedy(48, "\n"),
    ),
)
NAMES = {
    "ar": "Arabic",
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ja": "Japanese",
    "nl": "Dutch",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "zh": "Chinese",
}


def read(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(sentence, translation) of two columns, or of two files."""
    if len(paths) == 2:
        return two_texts(paths)
    found = []
    for path in paths:
        for number, line in enumerate(read_lines(path), start=1):
            cells = [cell.strip() for cell in line.split("\t")]
            if not line.strip():
                continue
            if len(cells) < 2:
                where = f"{path}, line {number} has {len(cells)} column"
                raise UserError(f"{where}: {wrong('translation', line)}")
            if not cells[0] or not cells[1]:
                raise UserError(f"{path}, line {number} has an empty column")
            found.append((cells[0], cells[1]))
    return found


def run(model: Model, items: Pairs, variants: Variants, options: Options) -> Report:
    """BLEU of each variant and seed."""
    bleu_of = optional("sacrebleu.metrics", "BLEU", "'jaxlm[zeroshot]'").BLEU
    if len(items) <= options.shots:
        raise UserError(f"{len(items)} pairs, and --shots {options.shots} of them go")
    cut_by = {"zh": "zh", "ja": "char", "ko": "char"}.get(options.target, "13a")
    names = {"from": NAMES.get(options.source, options.source)}
    names["to"] = NAMES.get(options.target, options.target)
    report = Report()
    for variant in variants:
        for seed in range(options.seeds):
            drawn = random.Random(seed).sample(range(len(items)), options.shots)
            shown = [
                variant.example.format(source=items[i][0], target=items[i][1], **names)
                for i in drawn
            ]
            shared = {"examples": "".join(shown), **names}
            tested = [each for i, each in enumerate(items) if i not in {*drawn}]
            sources, truths = zip(*tested[: options.limit or None], strict=True)
            fields = [{"source": source, **shared} for source in sources]
            said, note = answered(model, variant, fields, first_line, seed=seed)
            bleu = bleu_of(tokenize=cut_by)
            found: Any = bleu.corpus_score(said, [truths], n_bootstrap=1000)
            copied = bleu_of(tokenize=cut_by).corpus_score(sources, [truths])
            beside = {"copied": copied.score}
            beside |= variant.published.get(f"{options.source}-{options.target}", {})
            error = found._ci / 1.96 if hasattr(found, "_ci") else math.nan
            figure = f"BLEU, seed {seed}", found.score, error, len(sources), beside
            report.figures.append(Figure(variant.name, *figure))
            report.notes.append(
                f"{variant.name}, seed {seed}: {bleu.get_signature()}; {note}"
            )
            told = {"variant": variant.name, "seed": seed}
            report.answers += [
                {**told, "source": source, "answer": answer, "truth": truth}
                for source, answer, truth in zip(sources, said, truths, strict=True)
            ]
    return report
