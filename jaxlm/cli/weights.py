"""Weights of other programs: `jaxlm export DIR --to …`, `jaxlm import DIR`."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.runtime import say, start_jax
from jaxlm.convert import READABLE, Dtype, Format
from jaxlm.files import local
from jaxlm.types import UserError, plural


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model in a format that other programs read, whole or not at all."""

    directory: Positional[str]
    """Run or model directory."""
    to: Format
    """hf: a directory that transformers loads; sentence: the same for
    sentence-transformers, of a BERT's encoder; elmo: options.json and weights.hdf5, as
    AllenNLP reads them; gguf: a file for llama.cpp, of a GPT-2 or the encoder of a BERT
    or ModernBERT; onnx: a directory for onnxruntime and transformers.js; stablehlo: a
    program with its weights, by jax.export."""
    out: str
    """Directory or file to write; an earlier export there is replaced."""
    dtype: Dtype = "float32"
    """Dtype of the weights."""
    step: int | Literal["", "all"] = ""
    """Step of a run's checkpoint; all: every one that it keeps, each in OUT/stepN;
    empty: the newest."""
    verify: bool = False
    """Load the export with the program that it is for, compare on real text, and exit 1
    if the difference is above the tolerance."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Write a model directory from weights in any known format: BERT, ModernBERT,
    RoFormer, ERNIE, GPT-1 and GPT-2 as transformers saves them, ELMo's options and
    hdf5, Google's checkpoints of BERT, OpenAI's arrays of GPT-1. Nothing is downloaded,
    and no code in DIRECTORY is run."""

    directory: Positional[str]
    """Where the weights are."""
    out: str
    """Model directory to write; an earlier model there is replaced."""
    tokenizer: str = ""
    """Directory or file of the tokenizer; empty: the same directory as the weights."""
    ignore: tuple[str, ...] = ()
    """Regular expressions of tensors that are not needed."""
    allow_pickle: bool = False
    """Read .bin and .pt files, by torch's weights-only loader."""
    dtype: Dtype = "float32"
    """Dtype of the weights that are written."""
    words: Literal["", "basic", "space"] = ""
    """ELMo: how words are cut. basic: by BERT's rules; space: at white space, for text
    that is cut already; empty: as the vocabulary was saved, else basic."""
    verify: bool = False
    """Load DIRECTORY with transformers, compare ids and outputs on real text, and exit
    1 above the tolerance; sentence vectors with sentence-transformers."""


def run_export(argv: list[str]) -> int:
    """The verb `export`."""
    return 0 if export(parse(Export, argv)) else 1


def export(args: Export) -> bool:
    """Write the files, print their digests and, if asked for, the comparison; returns
    whether nothing is above the tolerance."""
    start_jax()
    from jaxlm.convert.verify import check_client
    from jaxlm.open import is_task, kept_steps
    from jaxlm.open.origin import check_out

    check_out(args.out, args.directory)
    if args.verify:
        check_client(args.to)
    if is_task(args.directory):
        if args.step != "":
            raise UserError("--step is of a pretraining run: a task has its best step")
        return _export_task(args)
    if args.step != "all":
        return _export(args, args.step if args.step != "" else None, args.out)
    if not (steps := kept_steps(args.directory)):
        raise UserError(f"{args.directory} has no checkpoint: --step all needs a run")
    end = f".{args.to}" * (args.to in ("gguf", "stablehlo"))  # files
    outs = [f"{args.out}/step{step}{end}" for step in steps]
    return all([*map(_export, itertools.repeat(args), steps, outs)])


def _export(args: Export, step: int | None, path: str) -> bool:
    """Export a run's step, by default the newest, or a model."""
    from jaxlm.convert import model_directory
    from jaxlm.convert.gguf import missing_from_gguf
    from jaxlm.convert.verify import verify
    from jaxlm.open import load
    from jaxlm.open.origin import origin_of

    readable = args.to in READABLE
    model = load(args.directory, step=step, stay=readable)
    origin = origin_of(args.directory, model.run, model.step)
    with model_directory.export_path(path) as out:
        how: Any = {"dtype": args.dtype, "origin": origin}
        digests = model_directory.export(out, args.to, model, **how)
        _say_written(path, digests)
        if args.to == "gguf" and (note := missing_from_gguf(model)):
            say(note)
        if not args.verify:
            return True
        return _passed(verify(load(out) if readable else model, out, args.to))


def run_import(argv: list[str]) -> int:
    """The verb `import`."""
    return 0 if import_weights(parse(Import, argv)) else 1


def import_weights(args: Import) -> bool:
    """Write the model directory and, if asked for, print the comparison; returns
    whether nothing is above the tolerance."""
    start_jax()
    import jaxlm
    from jaxlm.convert.model_directory import export_path, import_model
    from jaxlm.convert.verify import check_source, verify_import
    from jaxlm.open.origin import check_out

    directory = local(args.directory)
    tokenizer = local(args.tokenizer) if args.tokenizer else None
    check_out(args.out, args.directory, args.tokenizer or args.directory)
    if args.verify:
        check_source(directory)
    with export_path(args.out) as out:
        source, digests = import_model(
            directory,
            out,
            tokenizer=tokenizer,
            pickle=args.allow_pickle,
            ignore=args.ignore,
            dtype=args.dtype,
            words=args.words,
        )
        for head in source.missing:
            say(f"the files have no {head} head, so the model has none")
        _say_written(args.out, digests)
        if not args.verify:
            return True
        options: Any = {"tokenizer": tokenizer, "dtype": args.dtype}
        return _passed(*verify_import(jaxlm.load(out), out, directory, **options))


def _export_task(args: Export) -> bool:
    from jaxlm.convert.model_directory import export_path
    from jaxlm.convert.task_head import export_task
    from jaxlm.convert.verify import passages, verify_task
    from jaxlm.open.origin import origin_of
    from jaxlm.tasks.finetuned import open_finetuned, sample

    if args.to != "hf":
        raise UserError(f"a model of a task has no form --to {args.to}: pass --to hf")
    finetuned = open_finetuned(args.directory)
    config, tokenizer = finetuned.config, finetuned.task.tokenizer
    parts = config.model, config.task, finetuned.params, tokenizer
    origin = origin_of(finetuned.directory, config, finetuned.step)
    with export_path(args.out) as out:
        digests = export_task(out, *parts, dtype=args.dtype, origin=origin)
        _say_written(args.out, digests)
        if not args.verify:
            return True
        return _passed(verify_task(*sample(finetuned, passages(tokenizer)), out))


def _say_written(out: str, digests: dict[str, str]) -> None:
    """Print what was written, and where its digests are."""
    if list(digests) == [Path(out).name]:
        print(f"wrote {out}: sha256 {digests[Path(out).name]}", flush=True)
    else:
        what = f"{plural(len(digests), 'file')}, digests in jaxlm_export.json"
        print(f"wrote {out}: {what}", flush=True)


def _passed(*reports: Any) -> bool:
    """Print comparisons; returns whether all are within the tolerance."""
    for report in reports:
        print(*report.lines, sep="\n")
    return all(report.passed for report in reports)
