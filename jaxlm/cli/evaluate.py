"""Figures and answers: `jaxlm evaluate DIR`, `jaxlm predict DIR --data …`."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.pretrain import open_shown
from jaxlm.cli.runtime import say, start_jax
from jaxlm.cli.settings import refuse
from jaxlm.config.run import Count
from jaxlm.files import local, place, temporary, write_json
from jaxlm.text.recipe import FileOptions, ReadOptions
from jaxlm.types import UserError, plural

if TYPE_CHECKING:
    from jaxlm.open import Model
    from jaxlm.tasks.finetuned import Finetuned
    from jaxlm.tasks.transfer import Target
    from jaxlm.text.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns that differ from those of the training file."""

    text: str = ""
    """The text: its name in the header or its number from 0, as in `task.text`."""
    pair: str = ""
    """The second text."""
    label: str = ""
    """The label."""
    choices: tuple[str, ...] = ()
    """The alternatives."""
    quoted: Literal["", "true", "false"] = ""
    """Whether fields of TSV are quoted as in CSV; empty: as in the training file."""

    def given(self) -> dict[str, Any]:
        """The columns that the user named: fields of `TaskConfig` → values."""
        found = {name: each for name, each in vars(self).items() if each}
        return found | ({"quoted": self.quoted == "true"} if self.quoted else {})


@dataclass(frozen=True, kw_only=True)
class Evaluate(FileOptions):
    """Loss and accuracy of a run on text that it was not trained on; for a fine-tuned
    run, the figures of its task on a labelled file."""

    directory: Positional[str]
    """Run or model directory."""
    data: str = ""
    """Fine-tuned runs: a file of the task, with labels."""
    transfer: tuple[str, ...] = ()
    """Fine-tuned runs, of all seeds: files in other languages, as for finetune."""
    text: tuple[str, ...] = ()
    """Files, directories or quoted globs. Without any such flag: what the
    run itself held out, documents of its corpus or the dev file of its task."""
    corpus: str = ""
    """Prepared corpus whose held-out documents to use, instead of --text."""
    rows: Annotated[int, "[0, inf)"] = 0
    """Rows to use, evenly spaced over the text; 0: all."""
    batch: Count = 32
    """Rows of a batch."""
    length: Annotated[int, "[0, inf)"] = 0
    """Tokens in a row; 0: as in the first phase of training."""
    stride: Annotated[int, "[0, inf)"] = 0
    """GPTs: tokens that the window moves by; 0: half of --length."""
    json: bool = False
    """Print the figures as JSON."""
    task: Columns = dataclasses.field(default_factory=Columns)


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Answer every row of a file with the best checkpoint; labels are not read."""

    directory: Positional[str]
    """Run directory of jaxlm finetune; the best seed is used if there are several."""
    data: str
    """File in the same format as the training file."""
    out: str
    """File to write."""
    batch: Count = 32
    """Rows at a time."""
    task: Columns = dataclasses.field(default_factory=Columns)


def run_evaluate(argv: list[str]) -> int:
    """The verb `evaluate`."""
    args = parse(Evaluate, argv)
    if args.transfer:
        _check(args, argv)
        start_jax()
        _transferred(args)
        return 0
    step, figures, lines = evaluate(args, argv)
    if not args.json:
        print(*lines, sep="\n")
        return 0
    print(json.dumps(_finite({"step": step, **figures})))
    return 0


def _finite(content: Any) -> Any:
    """What JSON can hold: null stands for NaN and infinity."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)


Found = tuple[int | None, dict[str, float], list[str]]  # step, figures, for people


def evaluate(args: Evaluate, flags: list[str]) -> Found:
    """The figures of a run or model; `flags` are those that were given."""
    _check(args, flags)
    if args.transfer:
        raise UserError("transfer: jaxlm evaluate --transfer writes its table")
    start_jax()
    if not (args.text or args.corpus or args.data):
        args = dataclasses.replace(args, **_own(args.directory))
    return _of_task(args) if args.data else _of_text(args)


def _check(args: Evaluate, flags: list[str]) -> None:
    if sum(map(bool, (args.text, args.corpus, args.data, args.transfer))) > 1:
        these = "--text, --corpus, --data and --transfer"
        raise UserError(f"jaxlm evaluate takes one of {these}")
    if args.data or args.transfer:
        of_text = [each.name for each in fields(FileOptions)]
        of_text += ["rows", "length", "stride"]
        flag = "--data" if args.data else "--transfer"
        refuse(flags, dict.fromkeys(of_text, f"is for text, and {flag} is of a task"))
    else:
        refuse(flags, {"task": "is for columns of --data"})


def run_predict(argv: list[str]) -> int:
    """The verb `predict`."""
    args = parse(Predict, argv)
    count, finetuned = predict(args)
    print(f"{args.out}: {plural(count, 'answer')}, by {finetuned}")
    return 0


def predict(args: Predict) -> "tuple[int, Finetuned]":
    """Write the answers; (their number, the model that gave them)."""
    start_jax()
    from jaxlm.open import open_task

    finetuned = open_task(args.directory, args.task.given())
    count, notes = finetuned.predict(args.data, args.out, batch=args.batch)
    say(*notes)
    return count, finetuned


def _transferred(args: Evaluate) -> None:
    from jaxlm.open import open_task
    from jaxlm.tasks.finetuned import runs_of
    from jaxlm.tasks.transfer import find, read
    from jaxlm.train.workdir import provenance

    files, columns = find(args.transfer), args.task.given()
    runs = [str(run) for run in runs_of(args.directory)] or [args.directory]
    data = (provenance(runs[0]) or [{}])[-1]
    targets = read(open_task(runs[0], columns).task, files, data)
    options: Any = {"columns": columns, "batch": args.batch, "as_json": args.json}
    say_transfer(args.directory, runs, targets, **options)


def say_transfer(
    directory: str,
    runs: Sequence[str],
    targets: Sequence["Target"],
    *,
    columns: dict[str, Any],
    batch: int,
    as_json: bool = False,
) -> None:
    """Print the figures of all runs on all targets, and write them to DIRECTORY."""
    import jax

    from jaxlm.open import open_task
    from jaxlm.tasks.transfer import transfer

    if jax.process_index():
        return
    found = transfer([open_task(run, columns) for run in runs], targets, batch=batch)
    content = _finite(found.content())
    write_json(place(directory) / "transfer.json", content)
    print(json.dumps(content) if as_json else "\n".join(found.lines()))


def _of_task(args: Evaluate) -> Found:
    from jaxlm.open import open_task
    from jaxlm.tasks.objective import FIGURES
    from jaxlm.train.screen import evaluated

    finetuned = open_task(args.directory, args.task.given())
    figures, notes = finetuned.evaluate(args.data, batch=args.batch)
    say(*notes)
    line = "  ".join([str(finetuned), *evaluated(figures, FIGURES)])
    return finetuned.step, figures, [line]


def _of_text(args: Evaluate) -> Found:
    import jaxlm
    from jaxlm.text.prepare import prepare

    model = jaxlm.load(args.directory)
    model.check_heads()
    with temporary(Path(tempfile.mkdtemp(prefix="jaxlm-"))) as scratch:
        directory = args.corpus or f"{scratch}/corpus"
        if args.text:
            read = {each.name: getattr(args, each.name) for each in fields(FileOptions)}
            options: Any = {"options": ReadOptions(**read)}
            options["tokenizer"] = str(model.files)
            say(*prepare(model.run, args.text, directory, **options).notes)
        cache = model.run.data.cache  # of another machine, perhaps
        corpus = open_shown(directory, cache if Path(cache).is_dir() else "")
        if corpus.manifest.tokenizer_sha256 != model.tokenizer.sha256:
            raise UserError(f"{directory} has another vocabulary than {args.directory}")
        figures = _figures(model, corpus, args)
    declared = model.family.figures(model.run)
    what = next(each.what for each in declared if each.what)
    where = args.directory if model.step is None else f"step {model.step}"
    lines = [line for figure in declared for line in figure.report(figures)]
    return model.step, figures, [f"{where}: {figures['targets']:,.0f} {what}", *lines]


def _own(directory: str) -> dict[str, Any]:
    """What a run held out, as a field of `Evaluate`; UserError if it is not there."""
    from jaxlm.convert.model_directory import is_model
    from jaxlm.open import is_task
    from jaxlm.tasks.finetuned import best_seed
    from jaxlm.train.workdir import corpus_of, provenance, read_config

    evaluate = f"jaxlm evaluate {directory}"
    if is_task(directory):
        dev = provenance(best_seed(directory))[-1]["dev"]
        if not dev:
            raise UserError(f"{directory} had no dev file: {evaluate} --data FILE")
        return {"data": dev}
    if is_model(local(directory)):
        raise UserError(f"{directory} has no text of its own: {evaluate} --text FILE")
    read_config(directory)  # a run, or an error that says what it is
    corpus = corpus_of(directory)
    if not (place(corpus) / "manifest.json").exists():
        remedy = f"{evaluate} --text FILE"
        raise UserError(f"the corpus {corpus} of {directory} is gone: {remedy}")
    return {"corpus": corpus}


def _figures(model: "Model", corpus: "Corpus", args: Evaluate) -> dict[str, float]:
    import jax

    from jaxlm.config import MeshConfig
    from jaxlm.evaluation import evaluate_stream, open_evaluation
    from jaxlm.sharding import batch_sharding, make_mesh

    run, family, phase = model.run, model.family, model.run.all_phases[0]
    length = args.length or phase.length
    phase = dataclasses.replace(phase, length=length, batch=args.batch)
    what = run, model.module, corpus, phase
    split = 1 if args.corpus else 0  # held-out documents, or all of --text
    if split and not corpus.manifest.held_out:
        remedy = "prepare it with --holdout 0.01, or evaluate --text FILE"
        raise UserError(f"{args.corpus} has no held-out documents: {remedy}")
    rows: Any = {"split": split, "limit": args.rows}
    if not family.bidirectional:
        stride = args.stride or max(1, length // 2)
        return evaluate_stream(*what, model.params, stride=stride, **rows)
    if args.stride:
        raise UserError(f"--stride is of GPTs, {family.article} reads whole rows")
    mesh = make_mesh(MeshConfig(data=1))
    with jax.set_mesh(mesh):
        return open_evaluation(*what, batch_sharding(mesh), **rows)(model.params)
