"""Runs → the page of a report, one file that needs no network."""

import html
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxlm import __version__
from jaxlm.config.files import difference
from jaxlm.families import num_parameters, parameter_shapes
from jaxlm.page import page, table
from jaxlm.report.curves import chosen, panels
from jaxlm.report.runs import RunRecord
from jaxlm.tasks.finetuned import best_figures
from jaxlm.train.screen import evaluated, shown
from jaxlm.types import plural

_STYLE = """
div.panels { display: grid; gap: 1rem;
             grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)) }
td p { margin: 0; min-width: 12em } td code, td.code { font-size: 13px }
summary { cursor: pointer; margin: .6rem 0 } summary h3 { display: inline }
h3 { font-size: 1rem; font-weight: 600 }
iframe { width: 100%; height: 40rem; border: 1px solid var(--line); background: #fff }
"""
_MARK = "<meta name=jaxlm content=report>"  # a report is no part of another one
_PROVENANCE = {
    "time": "newest start",
    "commit": "commit of jaxlm",
    "python": "Python",
    "devices": "devices",
    "hosts": "hosts",
    "cores": "CPU cores",
    "xla_flags": "XLA flags",
    "corpus": "corpus",
    "corpus_sha256": "corpus sha256",
    "data": "data",
    "data_sha256": "data sha256",
    "tokenizer_sha256": "tokenizer sha256",
}


def report(runs: Sequence[RunRecord], link: Callable[[str], str]) -> str:
    """The page; `link(path)` is the address of a file, as seen from the page."""
    parts = [("Runs" if len(runs) > 1 else "Run", _summary(runs)), *panels(runs)]
    if any(run.samples for run in runs):
        parts.append(("Samples", _samples(runs)))
    parts += [("Configuration", _configuration(runs)), ("Provenance", _origin(runs))]
    parts.append(("State digests", _digests(runs)))
    if any(run.pages for run in runs):
        parts.append(("Probes", _pages(runs, link)))
    names = ", ".join(run.name for run in runs)
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    notes = [f"Made by jaxlm {__version__} on {made}."]
    for run in runs:
        if run.torn:
            notes.append(
                f"{run.name}: {plural(run.torn, 'torn line')} of metrics.jsonl left "
                "out; a run that trains writes its newest line meanwhile."
            )
    found = page(f"jaxlm report: {names}", notes, parts, style=_STYLE)
    return found.replace("<meta charset=utf-8>", f"<meta charset=utf-8>{_MARK}", 1)


def _summary(runs: Sequence[RunRecord]) -> str:
    """What each run is and how far it has come, a column a run."""
    columns = []
    for run in runs:
        newest = run.records[-1]
        held_out: Any = next(
            (r for r in reversed(run.records) if any("eval_" in n for n in r)), {}
        )
        figures = {k[5:]: v for k, v in held_out.items() if k.startswith("eval_")}
        lines = evaluated(figures, run.figures)
        lines = [f"step {held_out['step']:,}", *lines] if lines else []
        count = num_parameters(parameter_shapes(run.config.model), run.config.model)
        facts = {
            "model": f"{run.kind}, {count:,} parameters",
            "step": f"{newest['step']:,} of {run.config.steps:,}",
            "held out": "\n".join(lines),
            "tokens per second": shown(
                "tokens_per_second", newest.get("tokens_per_second")
            ),
            "goodput": shown("goodput", newest.get("goodput")),
            "skipped steps": str(newest.get("skipped", 0)),
            "seed": str(run.config.seed),
        }
        if run.config.finetunes and (best := best_figures(run.path)):
            facts["best step"] = f"{best[0]:,}"
        columns.append(facts)
    names = dict.fromkeys(name for facts in columns for name in facts)
    rows = [
        [html.escape(name), *(_lines(facts.get(name, "")) for facts in columns)]
        for name in names
    ]
    return table(["", *(run.name for run in runs)], rows)


def _lines(text: str) -> str:
    return "".join(f"<p>{html.escape(line or '–')}</p>" for line in text.split("\n"))


def _samples(runs: Sequence[RunRecord]) -> str:
    """A table for each prompt: what each run says to it, step by step."""
    prompts = dict.fromkeys(
        each["prompt"] for run in runs for r in run.samples for each in r["samples"]
    )
    steps = chosen([*{r["step"] for run in runs for r in run.samples}])
    said = [
        {
            (r["step"], each["prompt"]): _said(each)
            for r in run.samples
            for each in r["samples"]
        }
        for run in runs
    ]
    head = ["step", *(run.name if len(runs) > 1 else "sample" for run in runs)]
    blocks = []
    for prompt in prompts:
        rows = [
            [f"{step:,}", *(each.get((step, prompt), "–") for each in said)]
            for step in steps
        ]
        title = f"<h3 dir=auto>{html.escape(prompt)}</h3>"
        blocks.append(
            f"<details open><summary>{title}</summary>{table(head, rows)}</details>"
        )
    return "".join(blocks)


def _said(sample: dict[str, Any]) -> str:
    if "text" in sample:
        return f"<p dir=auto>{html.escape(sample['text'])}</p>"
    lines = [
        " · ".join(
            f"<bdi>{html.escape(word)}</bdi> "
            f"<small>{'–' if p is None else format(p, '.1%')}</small>"
            for word, p in words
        )
        for words in sample["words"]
    ]
    return "".join(f"<p>{each}</p>" for each in lines)


def _configuration(runs: Sequence[RunRecord]) -> str:
    """The fields in which runs differ from their recipes, and from each other."""
    began = {run.recipe: run.began for run in runs}
    # The model of a task is not the recipe's, but that of --init.
    from_recipe = {
        run.name: difference(recipe, run.config)
        for run in runs
        if (recipe := began[run.recipe])
    }
    fields = {name for each in from_recipe.values() for name in each}
    for run in runs[1:]:
        fields |= difference(runs[0].config, run.config).keys()
    unknown = [run for run in runs if not began[run.recipe]]
    note = ""
    if unknown:
        names = ", ".join(run.name for run in unknown)
        note = f"<p class=note>The recipe of {html.escape(names)} is none of jaxlm's: "
        note += "config.json has all fields.</p>"
    if runs[0].config.finetunes:
        fields = {each for each in fields if not each.startswith("model.")}
    recipes = {name: config for name, config in began.items() if config}
    columns = [*recipes.values(), *(run.config for run in runs)]
    rows = [
        [html.escape(name), *(_field(config, name) for config in columns)]
        for name in sorted(fields)
    ]
    if not rows:
        return note or "<p>All fields are those of the recipe.</p>"
    head = [*(f"recipe {each}" for each in recipes), *(run.name for run in runs)]
    return note + table(["field", *head], rows)


def _field(config: Any, name: str) -> str:
    value = config
    for part in name.split("."):
        if isinstance(value, tuple):
            index = int(part)
            value = value[index] if index < len(value) else None
        else:
            value = getattr(value, part, None)
    return "–" if value is None else f"<code>{html.escape(str(value))}</code>"


def _origin(runs: Sequence[RunRecord]) -> str:
    newest = [run.provenance[-1] if run.provenance else {} for run in runs]

    def cell(value: Any) -> str:
        if isinstance(value, list):
            more = f" and {len(value) - 8} more" if len(value) > 8 else ""
            value = ", ".join(map(str, value[:8])) + more
        return f"<code>{html.escape(str(value))}</code>" if value or value == 0 else "–"

    def first(run: RunRecord) -> str:
        argv = map(str, run.provenance[0]["argv"]) if run.provenance else ()
        return shlex.join(["jaxlm", *argv]) if run.provenance else ""

    rows = [
        ["directory", *(cell(run.path) for run in runs)],
        ["first command", *(cell(first(run)) for run in runs)],
        ["starts", *(str(len(run.provenance)) for run in runs)],
    ]
    for name, title in _PROVENANCE.items():
        if any(each.get(name) for each in newest):
            rows.append([title, *(cell(each.get(name)) for each in newest)])
    packages = dict.fromkeys(p for each in newest for p in each.get("versions", {}))
    rows += [
        [html.escape(p), *(cell(e.get("versions", {}).get(p)) for e in newest)]
        for p in packages
    ]
    return table(["", *(run.name for run in runs)], rows)


def _digests(runs: Sequence[RunRecord]) -> str:
    rows = [
        [html.escape(run.name), f"{step:,}", f"<code>{digest}</code>"]
        for run in runs
        for step, digest in run.digests.items()
    ]
    if not rows:
        return "<p>No checkpoint is kept.</p>"
    return table(["run", "checkpoint", "state sha256"], rows)


def _pages(runs: Sequence[RunRecord], link: Callable[[str], str]) -> str:
    blocks = []
    for run in runs:
        for name, content in run.pages.items():
            said = html.escape(f"{run.name}/{name}")
            if not content:
                address = html.escape(link(f"{run.path}/{name}"))
                blocks.append(f'<p><a href="{address}">{said}</a></p>')
                continue
            inside = html.escape(content)
            blocks.append(
                f"<details><summary>{said}</summary><iframe sandbox=allow-scripts "
                f'title="{said}" srcdoc="{inside}"></iframe></details>'
            )
    return "".join(blocks)
