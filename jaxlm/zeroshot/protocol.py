"""What protocols share: variants as data, templates, answers, figures.

A protocol is a file with `NEEDS`, `FIELDS`, `VARIANTS` and two functions:

    read(paths) ── items ── run(model, items, variants, options) ── Report
"""

import dataclasses
import json
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from jaxlm.config.checks import check_fields, instead
from jaxlm.generate.sampling import Sampling
from jaxlm.text.sources import read_lines
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.open import Model

PROTOCOLS = {  # name → what its file holds
    "pairs": "sentence_good and sentence_bad (BLiMP, ZhoBLiMP), or two text files",
    "lambada": "one text in each record, whose last word is asked for",
    "lm": "running text",
    "reading": "SQuAD's or CoQA's JSON",
    "summary": "stories with @highlight (CNN/DailyMail)",
    "translation": "two columns, or two text files with as many lines",
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
    sampling: Sampling = field(default_factory=Sampling)
    facts: dict[str, Any] = field(default_factory=dict)  # what else differs


class Figure(NamedTuple):
    """One number of a variant."""

    variant: str
    name: str
    value: float
    error: float  # standard error; nan: none
    n: int
    beside: Mapping[str, float] = MappingProxyType(
        {}
    )  # chance, trivial baselines, published


class Report(NamedTuple):
    """What a protocol found."""

    figures: list[Figure]
    answers: list[dict[str, Any]]
    notes: list[str]


def greedy(max_tokens: int, *stop: str) -> Sampling:
    """Sampling that takes the likeliest token."""
    return Sampling(temperature=0.0, max_tokens=max_tokens, stop=stop)


def mean_of(variant: str, name: str, values: Any, **beside: float) -> Figure:
    """The mean of values with its standard error."""
    values = np.asarray(values, np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else math.nan
    error = float(spread) / math.sqrt(len(values))
    return Figure(variant, name, float(values.mean()), error, len(values), beside)


def perplexity_of(variant: str, name: str, nats: Any, **beside: float) -> Figure:
    """exp of mean nats, with its standard error by the delta method."""
    mean = mean_of(variant, name, nats)
    value = math.exp(min(700, mean.value))
    return mean._replace(value=value, error=value * mean.error, beside=beside)


def with_template(variants: Sequence[Variant], prompt: str) -> list[Variant]:
    """The variants, or with a template of the user's own the first one with it."""
    if not prompt:
        return list(variants)
    if not variants[0].template:
        raise UserError("--prompt: this protocol has no prompt, it scores texts")
    own = {"name": "yours", "source": "--prompt", "template": prompt}
    return [dataclasses.replace(variants[0], **own)]


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


def shortened(
    model: "Model", template: str, fields: dict[str, str], long: str, room: int
) -> tuple[str, bool]:
    """(the prompt, whether the field `long` lost its end to fit `room` tokens)."""
    whole = filled(template, fields)
    if size(model, whole) <= room:
        return whole, False
    words = fields[long].split(" ")
    least, most = 0, len(words)  # so many words fit, so many do not
    while most - least > 1:
        middle = (least + most) // 2
        short = filled(template, {**fields, long: " ".join(words[:middle])})
        fits = size(model, short) <= room
        least, most = (middle, most) if fits else (least, middle)
    return filled(template, {**fields, long: " ".join(words[:least])}), True


def size(model: "Model", text: str) -> int:
    """The number of a text's tokens."""
    return len(model.tokenizer.encode(text, specials=True).ids)


def room_of(model: "Model", sampling: Sampling) -> int:
    """Tokens of a prompt that fit the context beside the answer."""
    room = model.config.max_length - sampling.max_tokens  # type: ignore[union-attr]
    if room < 1:
        length = model.config.max_length  # type: ignore[union-attr]
        raise UserError(
            f"the context of {length} tokens has no room for a prompt and "
            f"{sampling.max_tokens} tokens of an answer"
        )
    return room


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


def records(path: str, protocol: str, *needed: str) -> Iterator[tuple[str, dict]]:
    """("file, line", the object) of each line of a JSONL file that has the fields."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
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


def wrong(protocol: str, start: str) -> str:
    """What a file should be, and the protocol that its beginning looks like."""
    marks = {"sentence_good": "pairs", '"paragraphs"': "reading", '"story"': "reading"}
    marks |= {'"data"': "reading", "@highlight": "summary", '{"text"': "lambada"}
    like = next((name for mark, name in marks.items() if mark in start), "")
    hint = (
        f"; it looks like one of --protocol {like}"
        if like not in ("", protocol)
        else ""
    )
    return f"a file of --protocol {protocol} has {PROTOCOLS[protocol]}{hint}"


def files_of(paths: Sequence[str], suffix: str, protocol: str) -> list[str]:
    """The files that were named; of a directory those with this suffix."""
    found: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(str(each) for each in Path(path).glob(f"*{suffix}*"))
        if not inside:
            raise UserError(f"{path} has no file *{suffix}: {wrong(protocol, '')}")
        found += inside
    return found


def two_texts(paths: Sequence[str]) -> list[tuple[str, str]]:
    """The lines of two files side by side."""
    one, two = (list(read_lines(path)) for path in paths)
    if len(one) != len(two):
        counts = f"{paths[0]} has {len(one):,} lines and {paths[1]} {len(two):,}"
        raise UserError(f"{counts}: line i of one goes with line i of the other")
    for number, pair in enumerate(zip(one, two, strict=True), start=1):
        for path, line in zip(paths, pair, strict=True):
            if not line.strip():
                raise UserError(f"{path}, line {number} is empty")
    return list(zip(one, two, strict=True))
