"""Tasks without training: `jaxlm zeroshot DIR --protocol … --data …`."""

import dataclasses
import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Named, Positional
from jaxlm.cli.runtime import say, start_jax
from jaxlm.files import write_file, write_json
from jaxlm.types import UserError, plural
from jaxlm.zeroshot.protocol import (
    PROTOCOLS,
    Figure,
    Options,
    Report,
    Variant,
    with_template,
    wrong,
)

Name = Literal["", "pairs", "lambada", "lm", "reading", "summary", "translation"]


@dataclass(frozen=True, kw_only=True)
class Zeroshot(Options):
    """Tasks without training, each as its paper and as the community does it.

    pairs fits every family: BLiMP, ZhoBLiMP. The others are GPT-2's: lambada (last
    words), lm (perplexity), reading (answers), summary (TL;DR:), translation. With
    --prompt alone, the prompt is continued greedily.
    """

    directory: Positional[str]
    """Run or model directory."""
    step: Annotated[int, "[-1, inf)"] = -1
    """Checkpoint of a run, one that it keeps; -1: the newest."""
    protocol: Name = ""
    """What to do."""
    data: tuple[str, ...] = ()
    """Files of the protocol, or their directory."""
    prompt: str = ""
    """A prompt of your own; of a protocol its template, with {fields}."""
    source: Annotated[str, Named("from")] = "en"
    """translation: language of the first column."""
    target: Annotated[str, Named("to")] = "fr"
    """translation: language of the second column."""
    harness: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness to run instead, by name or .yaml file."""
    out: str = ""
    """File for the answers, .jsonl, with the figures beside it in .json; empty:
    none."""


_USES = {name: each.uses for name, each in PROTOCOLS.items()}
_USES |= {"harness": "limit", "prompt": ""}  # which of `Options` matter


def run_zeroshot(argv: list[str]) -> int:
    """The verb `zeroshot`."""
    args = parse(Zeroshot, argv)
    _check(args)
    if args.harness:
        return _harness(args)
    if not args.protocol:
        return _continue(args)
    protocol: Any = importlib.import_module(f"jaxlm.zeroshot.{args.protocol}")
    variants = with_template(protocol.VARIANTS, args.prompt)
    if not (items := protocol.read(args.data)):
        said = f"{', '.join(args.data)}: nothing to read"
        raise UserError(f"{said}: {wrong(args.protocol)}")
    model = _opened(args)
    if args.protocol != "pairs" and model.family.bidirectional:
        raise UserError(
            f"{model.family.article} continues no text, as {args.protocol} asks: "
            f"--protocol pairs fits every family, and jaxlm {model.family.purpose}"
        )
    report = protocol.run(model, items, variants, args)
    for variant in variants:
        print(f"{variant.name}: {variant.source}")
    print()
    table = _pairs_table if args.protocol == "pairs" else _table
    table(report.figures)
    for note in report.notes:
        say(note)
    if args.out:
        _write(report, variants, args)
    return 0


def _check(args: Zeroshot) -> None:
    """Refuse flags that are missing, or that would do nothing."""
    if args.out and Path(args.out).suffix != ".jsonl":
        raise UserError(f"--out {args.out} is not .jsonl")
    if args.protocol and args.harness:
        raise UserError("--protocol or --harness: choose one")
    what = args.protocol or ("harness" if args.harness else "prompt")
    for field in dataclasses.fields(Options):
        given = getattr(args, field.name) != field.default
        if given and field.name not in _USES[what].split():
            flag = {"source": "from", "target": "to"}.get(field.name, field.name)
            raise UserError(f"--{flag} changes nothing in {what}")
    for flag in ("data", "out") if what == "prompt" else ():
        if getattr(args, flag):
            raise UserError(f"--{flag} needs --protocol: {', '.join(PROTOCOLS)}")
    if what == "prompt" and not args.prompt:
        raise UserError(f"--protocol is missing: {', '.join(PROTOCOLS)}; or --prompt")
    if args.protocol and not args.data:
        raise UserError(f"--data: {what} needs {PROTOCOLS[what].holds}")


def _opened(args: Zeroshot) -> Any:
    start_jax()
    import jaxlm

    return jaxlm.load(args.directory, step=None if args.step < 0 else args.step)


def _continue(args: Zeroshot) -> int:
    model = _opened(args)
    most = min(50, model.config.max_length // 2)
    (made,) = model.generate(args.prompt, temperature=0.0, max_tokens=most)
    print(args.prompt + made.text)
    return 0


def _harness(args: Zeroshot) -> int:
    from jaxlm.zeroshot.harness import evaluate

    found = evaluate(_opened(args), args.harness, limit=args.limit or None)
    for task, figures in found.items():
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{task}  {shown}")
    if args.out:
        Path(args.out).with_suffix(".json").write_text(json.dumps(found, indent=1))
    return 0


def _table(figures: list[Figure]) -> None:
    for each in figures:
        beside = ", ".join(f"{k} {_number(v)}" for k, v in each.beside.items())
        name = f"{each.variant}  {each.name}"
        print(f"{name:<36} {_with_error(each):>18}  n {each.n:,}  {beside}".rstrip())


def _pairs_table(figures: list[Figure]) -> None:
    """A row for all, each phenomenon and, indented, each of its paradigms."""
    rows: dict[str, dict[str, Figure]] = {}
    for each in figures:
        rows.setdefault(each.name, {})[each.variant] = each
    variants = list(dict.fromkeys(each.variant for each in figures))
    published = [name for name in figures[0].beside if name != "chance"]
    wide = max(map(len, rows)) + 2
    print(f"{'':<{wide}} {'n':>6}", *(f"{c:>13}" for c in [*variants, *published]))
    for name, row in rows.items():
        beside = next(iter(row.values())).beside
        cells = [_with_error(row[c]) if c in row else "" for c in variants]
        cells += [f"{beside[c]:.3f}" if c in beside else "" for c in published]
        label = name.rstrip(".") if name == "all" or name[-1] == "." else f"  {name}"
        number = max(each.n for each in row.values())
        print(f"{label:<{wide}} {number:>6,}", *(f"{cell:>13}" for cell in cells))
    print("chance .5; humans 0.886 on BLiMP; columns of other models are published")


def _with_error(figure: Figure) -> str:
    error = "" if math.isnan(figure.error) else f" ± {_number(figure.error)}"
    return f"{_number(figure.value)}{error}"


def _number(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def _write(report: Report, variants: list[Variant], args: Any) -> None:
    lines = (json.dumps(each, ensure_ascii=False) for each in report.answers)
    write_file(Path(args.out), "".join(f"{line}\n" for line in lines))
    beside = Path(args.out).with_suffix(".json")
    figures = [each._asdict() for each in report.figures]
    figures = [{k: None if v != v else v for k, v in each.items()} for each in figures]
    record = {name: getattr(args, name) for name in ("step", "protocol", "data")}
    record |= {"variants": [dataclasses.asdict(each) for each in variants]}
    record |= {"notes": report.notes, "figures": figures}
    write_json(beside, {"model": args.directory, **record})
    say(f"{args.out}: {plural(len(report.answers), 'answer')}; {beside}: figures")
