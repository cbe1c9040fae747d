"""`jaxlm evaluate DIR --text …`: held-out figures, each beside its baseline."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro

from jaxlm.cli.arguments import Columns, parse
from jaxlm.cli.progress import say
from jaxlm.cli.runtime import start_jax
from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Loss and accuracy of a run on text it was not trained on; of a fine-tuned run,
    the figures of its task on a file with labels."""

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    data: str = ""
    """Fine-tuned runs: a file of the task, with labels."""
    text: tuple[str, ...] = ()
    """Files, directories or quoted globs."""
    corpus: str = ""
    """Prepared corpus whose held-out documents to use, instead of --text."""
    sentences: Literal["auto", "split", "lines"] = "auto"
    """lines: each line is a sentence; split: lines are paragraphs; auto: look."""
    errors: Literal["strict", "replace"] = "strict"
    """Bytes that are not UTF-8: stop, or replace and count them."""
    rows: int = 0
    """Rows to use, evenly spaced over the text; 0: all."""
    batch: int = 32
    """Rows of a batch."""
    length: int = 0
    """Tokens in a row; 0: as in the first phase of training."""
    stride: int = 0
    """Decoders: tokens that the window moves by; 0: half of --length."""
    json: bool = False
    """Print the figures as JSON."""
    task: Columns = field(default_factory=Columns)


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Evaluate, "evaluate", argv)
    if args.data:
        return _evaluate_task(args)
    if bool(args.text) == bool(args.corpus):
        raise UserError("jaxlm evaluate needs either --text or --corpus")
    start_jax()
    import jaxlm
    from jaxlm.text.corpus import open_corpus
    from jaxlm.text.prepare import prepare
    from jaxlm.text.recipe import ReadOptions

    model = jaxlm.load(args.directory)
    model.check_heads()
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as scratch:
        directory, split = args.corpus, 1
        if args.text:
            directory, split = f"{scratch}/corpus", 0
            prepare(
                model.run,
                args.text,
                directory,
                options=ReadOptions(sentences=args.sentences, errors=args.errors),
                tokenizer=str(model.files),
            )
        corpus = open_corpus(directory)
        if corpus.manifest.tokenizer_sha256 != model.tokenizer.sha256:
            raise UserError(f"{directory} has another vocabulary than {args.directory}")
        figures = _figures(model, corpus, split, args)
    if args.json:
        print(_as_json({"step": model.step, **figures}))
        return 0
    declared = model.family.figures(model.run)
    what = next(each.what for each in declared if each.what)
    where = args.directory if model.step is None else f"step {model.step}"
    print(f"{where}: {figures['targets']:,.0f} {what}")
    for figure in declared:
        for line in figure.report(figures):
            print(line)
    return 0


def _evaluate_task(args: Evaluate) -> int:
    if args.text or args.corpus:
        raise UserError("--data is of a task: --text and --corpus do not go with it")
    start_jax()
    from jaxlm.open.directory import open_task
    from jaxlm.tasks.objective import FIGURES
    from jaxlm.train.screen import evaluated

    finetuned = open_task(args.directory, args.task.given())
    figures, notes = finetuned.evaluate(args.data, batch=args.batch)
    for note in notes:
        say(note)
    if args.json:
        print(_as_json({"step": finetuned.step, **figures}))
    else:
        where = f"{finetuned.directory} at step {finetuned.step}"
        print("  ".join([where, *evaluated(figures, FIGURES)]))
    return 0


def _as_json(figures: dict[str, Any]) -> str:
    """JSON has no NaN and no infinity: null."""
    finite = {
        name: value if value is None or math.isfinite(value) else None
        for name, value in figures.items()
    }
    return json.dumps(finite, allow_nan=False)


def _figures(model, corpus, split: int, args: Evaluate) -> dict[str, float]:
    import jax

    from jaxlm.config import MeshConfig
    from jaxlm.evaluate import evaluate_stream, open_evaluation
    from jaxlm.sharding import batch_sharding, make_mesh

    if not model.family.bidirectional:
        length = args.length or model.run.all_phases[0].length
        return evaluate_stream(
            model.run,
            model.module,
            model.params,
            corpus,
            split=split,
            length=length,
            stride=args.stride or max(1, length // 2),
            batch=args.batch,
            limit=args.rows,
        )
    phase = model.run.all_phases[0]
    if args.length:
        phase = dataclasses.replace(phase, length=args.length)
    mesh = make_mesh(MeshConfig(data=1))
    with jax.set_mesh(mesh):
        return open_evaluation(
            model.run,
            model.module,
            corpus,
            batch_sharding(mesh),
            split=split,
            phase=phase,
            batch=args.batch,
            limit=args.rows,
        )(model.params)
