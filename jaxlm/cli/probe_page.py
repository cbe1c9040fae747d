"""What the kinds of `jaxlm probe` share: the model, its steps, the screen, the page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jaxlm.cli.runtime import say, start_jax
from jaxlm.config.checks import optional
from jaxlm.files import cache_of
from jaxlm.types import UserError, note, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader
    from jaxlm.probe.pictures import Figures

Steps = tuple[int | Literal["all"], ...]


class Found(NamedTuple):
    """What a model knows: tables, more parts of the page, more of the JSON."""

    tables: "Sequence[Figures]"
    parts: Sequence[tuple[str, str]] = ()
    record: Mapping[str, Any] = MappingProxyType({})


def look(
    args: Any, title: str, notes: list[str], measure: "Callable[[Reader], Found]"
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
            reader, said = opened(args, step)
            say(said[0])
            every.append([each for each in measure(reader).tables if not each.fixed])
        tables = [over_steps(steps, each) for each in zip(*every, strict=True)]
        found = Found(tables, record={"steps": steps})
        said[0] = f"{args.directory}, steps {steps[0]:,} to {steps[-1]:,}"
    else:
        reader, said = opened(args, *steps)
        found = measure(reader)
    parts = [*found.parts]
    for each in found.tables:
        show_table(each)
        parts.append((each.title, each.html(steps if over_training(args) else None)))
    tables = {each.title: each.json() for each in found.tables}
    record = {"tables": tables, **found.record}
    return write_page(args, title, said + notes, parts, record)


def check_out(out: str) -> None:
    """Refuse a page that is not .html, or that no directory is there for."""
    if out and Path(out).suffix != ".html":
        raise UserError(f"--out {out} is not .html")
    if not Path(out).resolve().parent.is_dir():
        raise UserError(f"--out {out}: there is no directory for it")


def opened(args: Any, step: int | None = None) -> tuple["Reader", list[str]]:
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


def over_training(args: Any) -> bool:
    """Whether a run is measured at several steps."""
    return "all" in args.steps or len(set(args.steps)) > 1


def cache_path(args: Any) -> Path:
    """Where states are kept."""
    return Path(args.cache) if args.cache else cache_of("probe")


def steps_of(args: Any) -> list[int]:
    """The steps that `--steps` names, ascending."""
    from jaxlm.open import kept_steps

    if "all" not in args.steps:
        return sorted(set(args.steps))
    kept = kept_steps(args.directory)
    if len(kept) < 3:
        has = f"keeps {plural(len(kept), 'checkpoint')}, a curve needs 3"
        way = "pretrain --keep_every log keeps steps 0, 1, 2, 4, 8 …"
        raise UserError(f"--steps all: {args.directory} {has}; {way}")
    return kept


def show_table(table: "Figures") -> None:
    """Print figures in columns."""
    rows = [[table.what, *table.columns], *table.cells()]
    wide = [max(6, *map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{table.title}")
    for name, *values in rows:
        cells = [f"{v:>{w}}" for v, w in zip(values, wide[1:], strict=True)]
        print(f"{name:<{wide[0]}}", *cells, sep="  ")
    for name, value in table.levels.items():
        print(f"{name}: {value:.3f}")


def write_page(
    args: Any, title: str, notes: list[str], parts: Any, record: dict, **code: str
) -> int:
    """Write the page, with more CSS and JavaScript, and beside it the JSON."""
    from jaxlm.files import write_file, write_json
    from jaxlm.page import page

    if args.out:
        beside = Path(args.out).with_suffix(".json")
        write_file(Path(args.out), page(title, notes, parts, **code))
        write_json(beside, {"model": args.directory, "notes": notes, **record})
        print(f"{args.out}, {beside}")
    return 0
