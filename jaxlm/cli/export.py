"""`jaxlm export DIR --to … --out …`: weights for other programs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import start_jax
from jaxlm.convert import READABLE, Dtype, Format
from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model as other programs read it; whole, or not at all."""

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    to: Format
    """hf: a directory that transformers loads; sentence: the same for
    sentence-transformers, of a BERT's encoder; elmo: options.json and weights.hdf5, as
    AllenNLP reads them; gguf: a file for llama.cpp, of a GPT-2 or a BERT's encoder;
    onnx: a directory for onnxruntime and transformers.js; stablehlo: a program with its
    weights, by jax.export."""
    out: str
    """Directory or file to write; an earlier export there is replaced."""
    dtype: Dtype = "float32"
    """Of the weights."""
    verify: bool = False
    """Load the export with the program that it is for, compare on real text, and exit 1
    if the difference is above the tolerance."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Export, "export", argv)
    start_jax()
    from jaxlm.convert.model_directory import export
    from jaxlm.convert.verify import check_client
    from jaxlm.open.directory import is_task, load

    if args.verify:
        check_client(args.to)
    if is_task(args.directory):
        return _export_task(args)
    readable = args.to in READABLE
    model = load(args.directory, stay=readable)
    digests = export(
        Path(args.out),
        args.to,
        model.config,
        model.params,
        model.tokenizer,
        dtype=args.dtype,
        origin=origin(args.directory, model),
    )
    say_written(args.out, digests)
    if not args.verify:
        return 0
    return verified(args.out, args.to, None if readable else model)


def _export_task(args: Export) -> int:
    from jaxlm.convert.task_head import export_task
    from jaxlm.convert.verify import passages, verify_task
    from jaxlm.tasks.finetuned import open_finetuned, sample

    if args.to != "hf":
        raise UserError(f"a model of a task has no form --to {args.to}: pass --to hf")
    finetuned = open_finetuned(args.directory)
    config = finetuned.config
    digests = export_task(
        Path(args.out),
        config.model,
        config.task,
        finetuned.params,
        finetuned.task.tokenizer,
        dtype=args.dtype,
        origin={
            "run": finetuned.directory.resolve().name,
            "step": f"{finetuned.step:,} of {config.steps:,}",
            "seed": config.seed,
            "from": Path(config.init).name,
        },
    )
    say_written(args.out, digests)
    if not args.verify:
        return 0
    batches, scores = sample(finetuned, passages(finetuned.task.tokenizer))
    return _status(verify_task(batches, scores, Path(args.out)))


def origin(directory: str, model: Any) -> dict[str, Any]:
    """What identifies a model, without paths: its run, or what an export noted."""
    here = Path(directory)
    if model.step is None:
        path = here / "jaxlm_export.json"
        known = json.loads(path.read_text())["origin"] if path.is_file() else {}
        return known or {"model": here.resolve().name}
    run = model.run
    newest = json.loads((here / "provenance.json").read_text())[-1]
    return {
        "run": here.resolve().name,
        "step": f"{model.step:,} of {run.steps:,}",
        "seed": run.seed,
        "rows": ", ".join(
            f"{p.batch} × {p.length} tokens to step {p.until:,}" for p in run.all_phases
        ),
        "optimiser": f"{run.optim.name}, rate {run.optim.peak:g}",
        "corpus sha256": newest["corpus_sha256"],
        "tokenizer sha256": newest["tokenizer_sha256"],
        "commit": newest["commit"] or "none",
        "versions": newest["versions"],
    }


def say_written(out: str, digests: dict[str, str]) -> None:
    """Print the digest and the name of each file."""
    for name, digest in digests.items():
        print(f"{digest}  {name}")
    print(f"wrote {out}", flush=True)


def verified(out: str, to: Format, model: Any = None) -> int:
    """Compare an export with its client, on `model` or what jaxlm reads from `out`; the
    exit status."""
    import jaxlm
    from jaxlm.convert.verify import verify

    return _status(verify(model or jaxlm.load(out), Path(out), to))


def _status(report: Any) -> int:
    for line in report.lines:
        print(line)
    return 0 if report.passed else 1
