"""What protocols share: variants as data, files, prompts, answers, figures.

A protocol is a file with `VARIANTS` and two functions:

    read(paths) ── items ── run(model, items, variants, options) ── Report
"""

import bisect
import dataclasses
import json
import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from jaxlm.config.checks import check_fields, instead
from jaxlm.generate.sampling import Sampling
from jaxlm.text.sources import once, read_lines
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.open import Model


class Protocol(NamedTuple):
    """What a user must know of a protocol before its file is imported."""

    holds: str  # what its data files hold
    uses: str  # the fields of `Options` that it depends on
    marks: tuple[str, ...] = ()  # what the beginning of its files has


PROTOCOLS = {
    "pairs": Protocol(
        "sentence_good and sentence_bad (BLiMP, ZhoBLiMP), or two text files",
        "limit method",
        ("sentence_good",),
    ),
    "lambada": Protocol(
        "one text in each record, whose last word is asked for", "limit"
    ),
    "lm": Protocol("running text", "limit detokenise"),
    "reading": Protocol(
        "SQuAD's or CoQA's JSON", "limit", ('"paragraphs"', '"story"', '"data"')
    ),
    "summary": Protocol(
        "stories with @highlight (CNN/DailyMail)", "limit seeds", ("@highlight",)
    ),
    "translation": Protocol(
        "two columns, or two text files with as many lines",
        "limit seeds shots source target",
    ),
}
_AT_ONCE = 16  # prompts


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a protocol is run."""

    limit: Annotated[int, "[0, inf)"] = 0
    """First items to use, of pairs those of each paradigm; 0: all."""
    seeds: Annotated[int, "[1, 1000]"] = 1
    """Random draws of what is random: sampled answers, example pairs."""
    shots: Annotated[int, "[0, 1000]"] = 5
    """translation: example pairs in the prompt, drawn from the file."""
    source: str = "en"
    """translation: language of the first column, --from."""
    target: str = "fr"
    """translation: language of the second column, --to."""
    detokenise: str = "none"
    """lm: how the text was cut into tokens: wikitext, ptb or none."""
    method: str = ""
    """How texts are scored: of a BERT pll or pll_word_l2r, of an ELMo both, forward or
    backward; empty: the first."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Variant:
    """One way to do a protocol, and who does it so."""

    name: str
    source: str
    template: str = ""
    example: str = ""  # the template of what is shown before: a turn, a pair
    sampling: Sampling = field(default_factory=Sampling)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Figure → model → its value."""


Variants = Sequence[Variant]


class Figure(NamedTuple):
    """One number of a variant."""

    variant: str
    name: str
    value: float
    error: float  # standard error; nan: none
    n: int
    beside: Mapping[str, float] = MappingProxyType({})  # chance, baselines, published


@dataclass
class Report:
    """What a protocol found."""

    figures: list[Figure] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def greedy(max_tokens: int, *stop: str) -> Sampling:
    """Sampling that takes the likeliest token."""
    return Sampling(temperature=0.0, max_tokens=max_tokens, stop=stop)


def mean_of(variant: Variant, name: str, values: Any, **beside: float) -> Figure:
    """The mean of values with its standard error, beside what is published."""
    values = np.asarray(values, np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else math.nan
    error = float(spread) / math.sqrt(len(values))
    beside |= variant.published.get(name, {})
    return Figure(variant.name, name, float(values.mean()), error, len(values), beside)


def perplexity_of(variant: Variant, name: str, nats: Any, **beside: float) -> Figure:
    """exp of mean nats, with its standard error by the delta method."""
    mean = mean_of(variant, name, nats, **beside)
    value = math.exp(min(700, mean.value))
    return mean._replace(value=value, error=value * mean.error)


def with_template(variants: Variants, prompt: str) -> list[Variant]:
    """The variants, or with a template of the user's own the first one with it."""
    if not prompt:
        return list(variants)
    if not variants[0].template:
        raise UserError("--prompt: this protocol has no prompt, it scores texts")
    own = {"name": "yours", "source": "--prompt", "template": prompt}
    return [dataclasses.replace(variants[0], **own)]


def answered(
    model: "Model",
    variant: Variant,
    fields: Sequence[dict[str, str]],
    cut: Callable[[str], str],
    *,
    seed: int = 0,
    long: str = "",
) -> tuple[list[str], str]:
    """The answer to each prompt, and a note of how many prompts did not fit.

    A prompt is the variant's template with its `fields`. Where it is too long the field
    `long` loses its end, or without one the prompt its beginning. `cut` takes the
    answer out of what the model said.
    """
    room = model.config.max_length - variant.sampling.max_tokens  # type: ignore[union-attr]
    if room < 1:
        length = model.config.max_length  # type: ignore[union-attr]
        raise UserError(
            f"the context of {length} tokens has no room for a prompt and "
            f"{variant.sampling.max_tokens} tokens of an answer"
        )
    found = [_fitted(model, variant.template, each, long, room) for each in fields]
    texts = continued(model, [text for text, _ in found], variant.sampling, seed)
    short = f"{sum(short for _, short in found):,} of {len(found):,}"
    what = f"{long}s were cut at their end to fit" if long else ""
    what = what or "prompts were truncated on the left to"
    return [cut(text) for text in texts], f"{short} {what} {room:,} tokens"


def _fitted(
    model: "Model", template: str, fields: dict[str, str], long: str, room: int
) -> tuple[str, bool]:
    """(the prompt, whether it was too long)."""

    def prompt(words: int | None = None) -> str:
        kept = {long: " ".join(fields[long].split(" ")[:words])} if long else {}
        return filled(template, fields | kept)

    whole = prompt()
    too_long = size(model, whole) > room
    if not long or not too_long:
        return whole, too_long
    count = range(len(fields[long].split(" ")))
    fit = bisect.bisect(count, room, key=lambda n: size(model, prompt(n)))
    return prompt(max(0, fit - 1)), True


def filled(template: str, fields: dict[str, str]) -> str:
    """The template with its {fields}."""
    try:
        names = {name for _, name, *_ in string.Formatter().parse(template) if name}
    except ValueError as error:
        raise UserError(f"the prompt {template!r}: {error}") from None
    for name in names - fields.keys():
        every = instead(name, fields, "its fields are")
        raise UserError(f"the prompt has {{{name}}}: {every}")
    return template.format_map(fields)


def size(model: "Model", text: str) -> int:
    """The number of a text's tokens."""
    return len(model.tokenizer.encode(text, specials=True).ids)


def continued(
    model: "Model", prompts: Sequence[str], sampling: Sampling, seed: int = 0
) -> list[str]:
    """The continuation of each prompt; prompts of about one length share a batch."""
    order = np.argsort([size(model, each) for each in prompts], kind="stable")
    found = [""] * len(prompts)
    sampling = dataclasses.replace(sampling, seed=seed)
    for start in range(0, len(order), _AT_ONCE):
        numbers = order[start : start + _AT_ONCE]
        some = [prompts[i] for i in numbers]
        fill = min(_AT_ONCE, len(prompts)) - len(some)  # batches of one size
        made = model.generate(some + some[:1] * fill, sampling)
        for i, each in zip(numbers, made, strict=False):
            found[i] = each.text
    return found


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return text.strip().partition("\n")[0]


def records(path: str, protocol: str, *needed: str) -> Iterator[tuple[str, dict]]:
    """("file, line", the object) of each line of a JSONL file that has the fields."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line, object_pairs_hook=once)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{where}: {wrong(protocol, line)}")
        for name in needed:
            if name not in record:
                raise UserError(f"{where} has no {name}: {wrong(protocol, line)}")
            if not isinstance(record[name], str) or not record[name].strip():
                raise UserError(f"{where}: {name} is empty, or no text")
        yield where, record


def wrong(protocol: str, start: str = "") -> str:
    """What a file should be, and the protocol that its beginning looks like."""
    marks = [(mark, name) for name, each in PROTOCOLS.items() for mark in each.marks]
    like = next((name for mark, name in marks if mark in start), "")
    if not like and start.startswith('{"text"'):
        like = "lambada"
    said = f"a file of --protocol {protocol} has {PROTOCOLS[protocol].holds}"
    hint = f"; it looks like one of --protocol {like}"
    return said + hint * (like not in ("", protocol))


def files_of(paths: Sequence[str], suffix: str, protocol: str) -> list[str]:
    """The files that were named; of a directory all those below with this suffix."""
    found: list[str] = []
    for path in paths:
        below = Path(path).rglob(f"*{suffix}*") if Path(path).is_dir() else [path]
        if not (files := sorted(str(each) for each in below)):
            raise UserError(f"{path} has no file *{suffix}: {wrong(protocol)}")
        found += files
    return found


def two_texts(paths: Sequence[str]) -> list[tuple[str, str]]:
    """The lines of two files side by side."""
    one, two = (list(read_lines(path)) for path in paths)
    if len(one) != len(two):
        counts = f"{paths[0]} has {len(one):,} lines and {paths[1]} {len(two):,}"
        raise UserError(f"{counts}: line i of one goes with line i of the other")
    for path, lines in zip(paths, (one, two), strict=True):
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                raise UserError(f"{path}, line {number} is empty")
    return list(zip(one, two, strict=True))
