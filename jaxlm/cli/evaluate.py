"""`jaxlm evaluate DIR --text …`: held-out figures, each beside its baseline."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tyro

from jaxlm.cli.arguments import Columns, parse
from jaxlm.cli.progress import say
from jaxlm.cli.runtime import start_jax
from jaxlm.text.recipe import Errors, ReadOptions, Sentences
from jaxlm.types import UserError

if TYPE_CHECKING:
    from jaxlm.open import Model
    from jaxlm.text.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Loss and accuracy of a run on text that it was not trained on; of a fine-tuned
    run, the figures of its task on a file with labels."""

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    data: str = ""
    """Fine-tuned runs: a file of the task, with labels."""
    text: tuple[str, ...] = ()
    """Files, directories or quoted globs."""
    corpus: str = ""
    """Prepared corpus whose held-out documents to use, instead of --text."""
    sentences: Sentences = "auto"
    """lines: each line is a sentence; split: lines are paragraphs; auto: look."""
    errors: Errors = "strict"
    """Bytes that are not UTF-8: stop, or replace and count them."""
    rows: int = 0
    """Rows to use, evenly spaced over the text; 0: all."""
    batch: int = 32
    """Rows of a batch."""
    length: int = 0
    """Tokens in a row; 0: as in the first phase of training."""
    stride: int = 0
    """GPTs: tokens that the window moves by; 0: half of --length."""
    json: bool = False
    """Print the figures as JSON."""
    task: Columns = field(default_factory=Columns)


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Evaluate, "evaluate", argv)
    if args.data and (args.text or args.corpus):
        raise UserError("--data is of a task: --text and --corpus do not go with it")
    if not args.data and bool(args.text) == bool(args.corpus):
        raise UserError("jaxlm evaluate needs either --text or --corpus")
    start_jax()
    step, figures, lines = _task(args) if args.data else _text(args)
    if args.json:
        print(_as_json({"step": step, **figures}))
    else:
        print(*lines, sep="\n")
    return 0


Found = tuple[int | None, dict[str, float], list[str]]  # step, figures, for people


def _task(args: Evaluate) -> Found:
    from jaxlm.open.directory import open_task
    from jaxlm.tasks.objective import FIGURES
    from jaxlm.train.screen import evaluated

    finetuned = open_task(args.directory, args.task.given())
    figures, notes = finetuned.evaluate(args.data, batch=args.batch)
    for note in notes:
        say(note)
    where = f"{finetuned.directory} at step {finetuned.step}"
    return finetuned.step, figures, ["  ".join([where, *evaluated(figures, FIGURES)])]


def _text(args: Evaluate) -> Found:
    import jaxlm
    from jaxlm.text.corpus import open_corpus
    from jaxlm.text.prepare import prepare

    model = jaxlm.load(args.directory)
    model.check_heads()
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as scratch:
        directory, split = args.corpus, 1
        if args.text:
            directory, split = f"{scratch}/corpus", 0
            options = ReadOptions(sentences=args.sentences, errors=args.errors)
            tokenizer = str(model.files)
            prepare(
                model.run, args.text, directory, options=options, tokenizer=tokenizer
            )
        corpus = open_corpus(directory)
        if corpus.manifest.tokenizer_sha256 != model.tokenizer.sha256:
            raise UserError(f"{directory} has another vocabulary than {args.directory}")
        figures = _figures(model, corpus, split, args)
    declared = model.family.figures(model.run)
    what = next(each.what for each in declared if each.what)
    where = args.directory if model.step is None else f"step {model.step}"
    lines = [line for figure in declared for line in figure.report(figures)]
    return model.step, figures, [f"{where}: {figures['targets']:,.0f} {what}", *lines]


def _figures(
    model: Model, corpus: Corpus, split: int, args: Evaluate
) -> dict[str, float]:
    import jax

    from jaxlm.config import MeshConfig
    from jaxlm.evaluate import evaluate_stream, open_evaluation
    from jaxlm.sharding import batch_sharding, make_mesh

    phase = model.run.all_phases[0]
    phase = dataclasses.replace(phase, length=args.length or phase.length)
    options: Any = {"split": split, "batch": args.batch, "limit": args.rows}
    if not model.family.bidirectional:
        options |= {
            "length": phase.length,
            "stride": args.stride or max(1, phase.length // 2),
        }
        return evaluate_stream(model.run, model.module, model.params, corpus, **options)
    if args.stride:
        raise UserError(f"--stride is of GPTs, {model.family.article} reads whole rows")
    mesh = make_mesh(MeshConfig(data=1))
    with jax.set_mesh(mesh):
        evaluate = open_evaluation(
            model.run,
            model.module,
            corpus,
            batch_sharding(mesh),
            phase=phase,
            **options,
        )
        return evaluate(model.params)


def _as_json(figures: dict[str, Any]) -> str:
    """JSON, which has no NaN and no infinity: null in their place."""
    finite = {
        name: value if value is None or math.isfinite(value) else None
        for name, value in figures.items()
    }
    return json.dumps(finite, allow_nan=False)
