"""What the kinds of `jaxlm probe` share: the model, tables on the screen, the page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.cli.runtime import say, start_jax
from jaxlm.files import cache_of
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.probe.features import Reader


def opened(args: Any) -> tuple["Reader", Path, list[str]]:
    """(the model, the cache, notes on the model for a page)."""
    if args.out and Path(args.out).suffix != ".html":
        raise UserError(f"--out {args.out} is not .html")
    start_jax()
    import jaxlm
    from jaxlm.probe.features import Reader

    cache = Path(args.cache) if args.cache else cache_of("probe")
    model = jaxlm.load(args.directory)
    step = "" if model.step is None else f" at step {model.step:,}"
    notes = [f"{args.directory}{step}: {plural(model.config.num_layers, 'layer')}"]
    if not model.family.bidirectional:
        notes.append(
            f"{model.family.article} is causal: a word's vector knows only the text "
            "before the word, the context after it is not seen"
        )
        say(notes[-1])
    return Reader(model.config, model.params, model.tokenizer), cache, notes


def show_table(head: list[str], rows: dict[str, list[float]]) -> None:
    """Print figures in columns."""
    wide = max(map(len, rows))
    wide = max(wide, len(head[0]))
    print(f"{head[0]:<{wide}}", *(f"{each:>7}" for each in head[1:]), sep="  ")
    for name, values in rows.items():
        shown = ["–" if v != v else f"{v:.3f}" for v in values]
        cells = [f"{v:>{max(7, len(h))}}" for v, h in zip(shown, head[1:], strict=True)]
        print(f"{name:<{wide}}", *cells, sep="  ")


def write_page(
    args: Any, title: str, notes: list[str], parts: Any, record: dict
) -> int:
    """Write the page and, beside it, the JSON."""
    from jaxlm.files import write_file, write_json
    from jaxlm.page import page

    if args.out:
        beside = Path(args.out).with_suffix(".json")
        write_file(Path(args.out), page(title, notes, parts))
        write_json(beside, {"model": args.directory, "notes": notes, **record})
        print(f"{args.out}, {beside}")
    return 0
