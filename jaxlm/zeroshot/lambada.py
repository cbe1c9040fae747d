"""LAMBADA: the last word of a passage (Paperno et al. 2016).

    paper       the last token of the word, stop words barred      accuracy, perplexity
    community   all tokens of the word, as in the harness          accuracy, perplexity

Which stop words OpenAI barred is not public; ours are in `STOP_WORDS`.
"""

from collections.abc import Sequence

import numpy as np

from jaxlm.open import Model
from jaxlm.scoring import Scorer, Scoring
from jaxlm.types import UserError, without_notes
from jaxlm.zeroshot.protocol import (
    Options,
    Report,
    Variant,
    Variants,
    files_of,
    mean_of,
    perplexity_of,
    records,
)

_SMALL = "GPT-2 117M"
Passages = Sequence[tuple[str, str]]
VARIANTS = (
    Variant(
        "paper",
        "Radford et al. 2019, section 3.3: OpenAI scored the last token "
        "(lm-evaluation-harness#356), and barred stop words",
        published={"accuracy": {_SMALL: 0.4599}, "perplexity": {_SMALL: 35.13}},
    ),
    Variant("no filter", "the same without the filter of stop words"),
    Variant(
        "community",
        "lm-evaluation-harness, lambada_openai: the whole word",
        published={"accuracy": {_SMALL: 0.3256}, "perplexity": {_SMALL: 40.06}},
    ),
)
_STOP_WORDS = """
a about after again all also am an and any are as at be because been before being
but by can could did do does doing down each else even for from further had has have
having he her here hers herself him himself his how i if in into is it its itself
just me might more most must my myself no nor not now of off on once only or other
our ours ourselves out over own same shall she should so some such than that the
their theirs them themselves then there these they this those through to too under
until up us very was we were what when where which while who whom whose why will
with would you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def read(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(the passage, its last word) of each record."""
    found = []
    for path in files_of(paths, ".jsonl", "lambada"):
        for where, each in records(path, "lambada", "text"):
            passage, _, word = each["text"].rpartition(" ")
            if not passage.strip() or not word.strip():
                raise UserError(f"{where}: no passage before a last word")
            found.append((passage, word))
    return found


def run(model: Model, items: Passages, variants: Variants, options: Options) -> Report:
    """Accuracy and perplexity of each variant."""
    items = items[: options.limit or None]
    passages, words = [one for one, _ in items], [f" {word}" for _, word in items]
    scorer = Scorer(model.module, model.params, model.tokenizer)
    size = model.tokenizer.vocab_size
    words_of_ids = [model.tokenizer.decode([i]).strip().lower() for i in range(size)]
    barred = [i for i, word in enumerate(words_of_ids) if word in STOP_WORDS]
    with without_notes():  # counted below
        plain = scorer.score(words, passages, Scoring())
        filtered = scorer.score(words, passages, Scoring(), barred)
    right = {
        "paper": [each.likeliest[-1] for each in filtered],
        "no filter": [each.likeliest[-1] for each in plain],
        "community": [each.likeliest.all() for each in plain],
    }
    last = [-float(each.log_p[-1]) for each in plain]
    nats = {"paper": last, "no filter": last, "community": [-e.total for e in plain]}
    luck = np.mean([p.split().count(w) / len(p.split()) for p, w in items])
    beside = {"chance": 1 / size, "a word of the passage": float(luck)}
    report = Report()
    for each in variants:
        report.figures += [
            mean_of(each, "accuracy", right[each.name], **beside),
            perplexity_of(each, "perplexity", nats[each.name], chance=size),
        ]
    for (passage, word), each, other in zip(items, plain, filtered, strict=True):
        answer = {
            "passage": passage,
            "word": word,
            "log_p": each.log_p.round(4).tolist(),
        }
        answer |= {"likeliest": each.likeliest.tolist()}
        answer |= {"filtered": other.likeliest.tolist()}
        report.answers.append(answer)
    tokens = np.mean([len(each.log_p) for each in plain])
    cut = sum(not each.whole for each in plain)
    report.notes.append(
        f"a last word has {tokens:.2f} tokens on average; {cut:,} of {len(items):,} "
        "passages were truncated on the left to fit the context"
    )
    return report
