"""What the kinds of `jaxlm probe` share: the model, its steps, the screen, the page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jaxlm.cli.flags import Positional
from jaxlm.cli.runtime import say, start_jax
from jaxlm.config.checks import optional
from jaxlm.files import cache_of
from jaxlm.types import UserError, note, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader
    from jaxlm.probe.pictures import Figures

Steps = tuple[int | Literal["all"], ...]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a probe is told."""

    directory: Positional[str]
    """Run or model directory."""
    out: str = ""
    """Page to write, .html, with a .json of the same name; empty: none."""
    steps: Steps = ()
    """Steps of a run's kept checkpoints, or all: curves over training; none: the
    newest."""


class Found(NamedTuple):
    """What a model knows: tables, more parts of the page, more of the JSON."""

    tables: "Sequence[Figures]"
    parts: Sequence[tuple[str, str]] = ()
    record: Mapping[str, Any] = MappingProxyType({})


def look(
    args: Probe, title: str, notes: list[str], measure: "Callable[[Reader], Found]"
) -> int:
    """Measure a model, or a run at several of its steps; print and write what is found.

    Over steps, the main column of each table is shown.
    """
    from jaxlm.probe.pictures import over_steps

    check_out(args.out)
    start_jax()
    steps = steps_of(args)
    if over_training(args):
        every = []
        for step in steps:
            reader, said = _opened(args, step)
            say(said[0])
            every.append([each for each in measure(reader).tables if not each.fixed])
        tables = [over_steps(steps, each) for each in zip(*every, strict=True)]
        found = Found(tables, record={"steps": steps})
        said[0] = f"{args.directory}, steps {steps[0]:,} to {steps[-1]:,}"
    else:
        reader, said = _opened(args, *steps)
        found = measure(reader)
    return write_page(args, title, said + notes, found)


def check_out(out: str) -> None:
    """Refuse a page that is not .html, or that no directory is there for."""
    if out and Path(out).suffix != ".html":
        raise UserError(f"--out {out} is not .html")
    if not Path(out).resolve().parent.is_dir():
        raise UserError(f"--out {out}: there is no directory for it")


def _opened(args: Probe, step: int | None = None) -> tuple["Reader", list[str]]:
    """(the model of a directory, notes on it for a page)."""
    import jaxlm
    from jaxlm.probe.features import Reader

    model = jaxlm.load(args.directory, step=step)
    for needed in ("sklearn", "scipy"):
        optional(needed, "this probe", "'jaxlm[probe]'")  # told before it is trained
    at = "" if model.step is None else f" at step {model.step:,}"
    notes = [f"{args.directory}{at}: {plural(model.config.num_layers, 'layer')}"]
    if not model.family.bidirectional:
        notes.append(
            f"{model.family.article} is causal: a word's vector knows only the text "
            "before the word, the context after it is not seen"
        )
        note(notes[-1])
    return Reader(model.config, model.params, model.tokenizer), notes


def over_training(args: Probe) -> bool:
    """Whether a run is measured at several steps."""
    return "all" in args.steps or len(set(args.steps)) > 1


def cache_path(cache: str) -> Path:
    """Where states are kept, if `--cache` says so."""
    return Path(cache) if cache else cache_of("probe")


def steps_of(args: Probe) -> list[int]:
    """The steps that `--steps` names, ascending."""
    from jaxlm.open import kept_steps

    if "all" not in args.steps:
        return sorted({step for step in args.steps if step != "all"})
    kept = kept_steps(args.directory)
    if len(kept) < 3:
        has = f"keeps {plural(len(kept), 'checkpoint')}, a curve needs 3"
        way = "pretrain --keep_every log keeps steps 0, 1, 2, 4, 8 …"
        raise UserError(f"--steps all: {args.directory} {has}; {way}")
    return kept


def _show(table: "Figures") -> None:
    rows = [[table.what, *table.columns], *table.cells()]
    wide = [max(6, *map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{table.title}")
    for name, *values in rows:
        cells = [f"{v:>{w}}" for v, w in zip(values, wide[1:], strict=True)]
        print(f"{name:<{wide[0]}}", *cells, sep="  ")
    for name, value in table.levels.items():
        print(f"{name}: {value:.3f}")


def write_page(
    args: Any, title: str, notes: list[str], found: Found, **code: str
) -> int:
    """Print the tables; write the page, with more CSS and JavaScript, and the JSON."""
    from jaxlm.files import write_file, write_json
    from jaxlm.page import page

    for each in found.tables:
        _show(each)
    if args.out:
        beside = Path(args.out).with_suffix(".json")
        parts = [*found.parts, *((each.title, each.html()) for each in found.tables)]
        write_file(Path(args.out), page(title, notes, parts, **code))
        tables = {each.title: each.json() for each in found.tables}
        record = {"model": args.directory, "notes": notes, "tables": tables}
        write_json(beside, {**record, **found.record})
        print(f"{args.out}, {beside}")
    return 0
