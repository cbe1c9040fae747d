"""The tabs that fit a model → the page of its playground."""

import html
import json
from importlib.resources import files
from typing import Any

from jaxlm.families.samples import BEGUN, HOLE, MASKED, suited
from jaxlm.page import page
from jaxlm.playground.answers import Answers

_TITLES = {
    "fill": "Fill",
    "generate": "Generate",
    "words": "Nearest words",
    "senses": "Senses",
    "attention": "Attention",
}
_WHAT = {
    "fill": f"The likeliest words for each {HOLE}; press one to put it in.",
    "generate": "Continue a text; an empty one starts a document.",
    "words": "The words that are nearest to a word in its context, layer by layer.",
    "senses": "Uses of one word in your own sentences, one a line: which are near?",
    "attention": "Where the heads of each layer look in a text.",
}
# name: (label, value, smallest, largest, step)
_NUMBERS = {
    "max_tokens": ("tokens", 40, 1, 1000, 1),
    "temperature": ("temperature", 0.8, 0, 5, 0.1),
    "top_k": ("top k (0: all)", 40, 0, 100000, 1),
    "top_p": ("top p", 1, 0.01, 1, 0.01),
    "seed": ("seed", 0, 0, 4294967295, 1),
}
_IN_CONTEXT = (
    ("The keys to the cabinet are on the table.", "table"),
    ("She was a very happy woman.", "happy"),
    ("他把钱存在银行。", "银行"),
)
_USES = (
    (
        "bank",
        "The bank lent me money.\nHe paid the money into the bank.\nThey sat on the "
        "bank of the river.\nThe river rose above its bank.",
    ),
    (
        "kind",
        "She was kind to her sister.\nHe was a kind man.\nIt was a kind of "
        "letter.\nWhat kind of house was it?",
    ),
    ("打", "他打电话给我。\n我打电话回家。\n孩子们在打球。\n他喜欢打球。"),
)
_STYLE = """
[role=tablist] { display: flex; flex-wrap: wrap; gap: .3rem;
                 border-bottom: 1px solid var(--line); margin: 1rem 0 }
button { font: inherit; color: inherit; background: none; cursor: pointer;
         border: 1px solid var(--line); border-radius: .4rem; padding: .25rem .7rem }
button:hover, button:focus-visible { border-color: var(--series0) }
[role=tab] { border-bottom: none; border-radius: .4rem .4rem 0 0 }
[role=tab][aria-selected=true] { font-weight: 600; background: var(--series0);
                                 color: var(--paper) }
form { display: grid; gap: .6rem; margin: .6rem 0 }
label { display: grid; gap: .2rem; color: var(--soft); font-size: 14px }
textarea, input { font: inherit; color: var(--ink); background: var(--paper);
       border: 1px solid var(--line); border-radius: .4rem; padding: .4rem;
       box-sizing: border-box; width: 100% }
.numbers { display: grid; gap: .6rem;
           grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)) }
.row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center }
button[type=submit] { background: var(--series0); color: var(--paper) }
.text { white-space: pre-wrap; border-inline-start: 3px solid var(--series0);
        padding-inline-start: .8rem } .error { color: var(--series1) }
iframe { width: 100%; height: 75rem; border: 1px solid var(--line);
         box-sizing: border-box }
meter { width: 8rem } td button { padding: 0 .5rem }
"""


def examples(answers: Answers) -> dict[str, list[dict[str, str]]]:
    """Tab → what can be tried: texts that the vocabulary spells; all if it spells
    none."""
    tokenizer = answers.model.tokenizer
    texts: dict[str, tuple[str, ...]] = {"fill": MASKED, "generate": BEGUN}
    texts["attention"] = tuple(text for text, _ in _IN_CONTEXT)
    found: dict[str, list[dict[str, str]]] = {
        kind: [{"text": e} for e in suited(tokenizer, every) or every]
        for kind, every in texts.items()
    }
    pairs = {
        "words": [{"text": text, "word": word} for text, word in _IN_CONTEXT],
        "senses": [{"text": text, "word": word} for word, text in _USES],
    }
    for kind, each in pairs.items():
        fits = [e for e in each if suited(tokenizer, [e["text"].replace("\n", " ")])]
        found[kind] = fits or each
    for each in found["generate"]:
        each |= {name: str(value) for name, (_, value, *_) in _NUMBERS.items()}
    return {kind: found[kind] for kind in answers.kinds}


def playground(answers: Answers, name: str) -> str:
    """The page."""
    kinds = list(answers.kinds)
    tried = examples(answers)
    tabs = "".join(
        f"<button role=tab id=tab-{kind} aria-controls={kind} "
        f"aria-selected={'false' if i else 'true'} tabindex={-1 if i else 0}>"
        f"{_TITLES[kind]}</button>"
        for i, kind in enumerate(kinds)
    )
    panels = "".join(
        _panel(kind, tried[kind], hidden=i > 0) for i, kind in enumerate(kinds)
    )
    model = answers.model
    step = "" if model.step is None else f", step {model.step:,}"
    notes = [f"{model.family.article}, {model.config.num_layers} layers{step}"]
    part = f"<div role=tablist aria-label='What to try'>{tabs}</div>{panels}"
    script = files("jaxlm.playground").joinpath("playground.js").read_text()
    found = page(f"jaxlm playground: {name}", notes, [], style=_STYLE, script=script)
    return found.replace("<script>", f"<main>{part}</main><script>", 1)


def _panel(kind: str, tried: list[dict[str, Any]], *, hidden: bool) -> str:
    first = tried[0]
    fields = ""
    if "word" in first:
        value = html.escape(first["word"])
        fields += f"<label>word<input name=word dir=auto value='{value}'></label>"
    rows = 5 if kind == "senses" else 3
    text = html.escape(first["text"])
    label = "sentences" if kind == "senses" else "text"
    fields += f"<label>{label}<textarea name=text dir=auto rows={rows}>{text}"
    fields += "</textarea></label>"
    if kind == "generate":
        inputs = "".join(
            f"<label>{title}<input type=number name={name} value={value} min={low} "
            f"max={high} step={step}></label>"
            for name, (title, value, low, high, step) in _NUMBERS.items()
        )
        fields += f"<div class=numbers>{inputs}</div>"
    buttons = "".join(
        f"<button type=button data-example='{html.escape(json.dumps(each))}'>"
        f"<bdi>{html.escape(each.get('word') or each['text'])}</bdi></button>"
        for each in tried
    )
    return (
        f"<section role=tabpanel id={kind} aria-labelledby=tab-{kind}"
        f"{' hidden' if hidden else ''}><p class=note>{html.escape(_WHAT[kind])}</p>"
        f"<form data-kind={kind}>{fields}<div class=row><button type=submit>Go"
        f"</button> <small>or try:</small> {buttons}</div></form>"
        f"<div class=out aria-live=polite aria-busy=false></div></section>"
    )
