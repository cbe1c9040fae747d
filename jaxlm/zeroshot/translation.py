"""Translation: example pairs in the prompt, then a sentence and "=".

The first line of the greedy continuation is the translation. BLEU is sacrebleu's, with
its signature; the standard error is of 1,000 bootstrap samples.
"""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxlm.config.checks import optional
from jaxlm.text.sources import read_lines
from jaxlm.types import UserError
from jaxlm.zeroshot.protocol import (
    Figure,
    Options,
    Report,
    Variant,
    continued,
    filled,
    greedy,
    room_of,
    size,
    two_texts,
    wrong,
)

if TYPE_CHECKING:
    from jaxlm.open import Model

NEEDS = "generate"
VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019, section 3.7: english sentence = french sentence",
        "{examples}{source} =",
        greedy(48, "\n"),
        {"example": "{source} = {target}\n", "published": {"fr": 5.0, "en": 11.5}},
    ),
    Variant(
        "community",
        "lm-evaluation-harness, wmt14-en-fr",
        "{examples}{from} phrase: {source}\n{to} phrase:",
        greedy(48, "\n"),
        {"example": "{from} phrase: {source}\n{to} phrase: {target}\n\n"},
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
    if not found:
        raise UserError(f"{', '.join(paths)}: no pair of sentences")
    return found


def run(
    model: "Model",
    items: Sequence[tuple[str, str]],
    variants: Sequence[Variant],
    options: Options,
) -> Report:
    """BLEU of each variant and seed."""
    bleu_of = optional("sacrebleu.metrics", "BLEU", "'jaxlm[zeroshot]'").BLEU
    if len(items) <= options.shots:
        raise UserError(f"{len(items)} pairs, and --shots {options.shots} of them go")
    cut_by = {"zh": "zh", "ja": "char", "ko": "char"}.get(options.target, "13a")
    names = {"from": NAMES.get(options.source, options.source)}
    names["to"] = NAMES.get(options.target, options.target)
    figures, answers, notes = [], [], []
    for variant in variants:
        room = room_of(model, variant.sampling)
        example = variant.facts["example"]
        for seed in range(options.seeds):
            drawn = random.Random(seed).sample(range(len(items)), options.shots)
            tested = [each for i, each in enumerate(items) if i not in {*drawn}]
            tested = tested[: options.limit or None]
            shown = [
                dict(zip(("source", "target"), items[i], strict=True)) for i in drawn
            ]
            examples = "".join(example.format(**each, **names) for each in shown)
            prompts = [
                filled(variant.template, {"examples": examples, "source": s, **names})
                for s, _ in tested
            ]
            long = sum(size(model, prompt) > room for prompt in prompts)
            said = continued(model, prompts, variant.sampling, seed)
            said = [text.strip().partition("\n")[0] for text in said]
            truths = [[truth for _, truth in tested]]
            bleu = bleu_of(tokenize=cut_by)
            found: Any = bleu.corpus_score(said, truths, n_bootstrap=1000)
            copied = bleu_of(tokenize=cut_by).corpus_score(
                [s for s, _ in tested], truths
            )
            beside = {"copied": copied.score}
            known = variant.facts.get("published", {})
            if {options.source, options.target} == {"en", "fr"} and known:
                beside["GPT-2 1542M"] = known[options.target]
            error = found._ci / 1.96 if hasattr(found, "_ci") else math.nan
            name = f"BLEU, seed {seed}"
            figures.append(
                Figure(variant.name, name, found.score, error, len(tested), beside)
            )
            notes.append(
                f"{variant.name}, seed {seed}: {bleu.get_signature()}; {long:,} of "
                f"{len(prompts):,} prompts truncated on the left to {room:,} tokens"
            )
            answers += [
                {
                    "variant": variant.name,
                    "seed": seed,
                    "source": s,
                    "answer": a,
                    "truth": t,
                }
                for (s, t), a in zip(tested, said, strict=True)
            ]
    return Report(figures, answers, notes)
