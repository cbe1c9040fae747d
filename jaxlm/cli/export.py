"""`jaxlm export DIR --to … --out …`: weights for other programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import start_jax
from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model as other programs read it; whole, or not at all."""

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    to: Literal["hf", "sentence", "elmo", "gguf", "onnx", "stablehlo"]
    """hf: a directory that transformers loads; sentence: one for sentence-transformers,
    of a BERT's encoder; elmo: options.json and weights.hdf5, as
    AllenNLP reads them; gguf: a file for llama.cpp, of a GPT-2 or a BERT's encoder;
    onnx: a directory for onnxruntime and transformers.js; stablehlo: a program with its
    weights, by jax.export."""
    out: str
    """Directory or file to write; an earlier export there is replaced."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    verify: bool = False
    """Load it with the program that it is for, compare on real text, and exit 1 where
    the difference is above the tolerance."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Export, "export", argv)
    start_jax()
    from jaxlm.convert.formats import READABLE, export
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
    from jaxlm.config import ElmoConfig
    from jaxlm.convert.task_head import export_task
    from jaxlm.tasks.finetuned import open_finetuned

    if args.to != "hf":
        raise UserError(f"a model of a task has no form --to {args.to}: pass --to hf")
    finetuned = open_finetuned(args.directory)
    config = finetuned.config
    if isinstance(config.model, ElmoConfig):
        raise UserError(
            "transformers has no ELMo: jaxlm predict uses what is fine-tuned"
        )
    where = {
        "run": finetuned.directory.resolve().name,
        "step": f"{finetuned.step:,} of {config.steps:,}",
        "seed": config.seed,
        "from": Path(config.init).name,
    }
    digests = export_task(
        Path(args.out),
        config.model,
        config.task,
        finetuned.params,
        finetuned.task.tokenizer,
        dtype=args.dtype,
        origin=where,
    )
    say_written(args.out, digests)
    return _verified_task(finetuned, args.out) if args.verify else 0


def _verified_task(finetuned: Any, out: str) -> int:
    """Compare a fine-tuned model with transformers' on real text; the exit status."""
    from jaxlm.convert.verify import passages, verify_task
    from jaxlm.tasks.finetuned import sample

    batches, scores = sample(finetuned, passages(finetuned.task.tokenizer))
    report = verify_task(batches, scores, Path(out))
    for line in report.lines:
        print(line)
    return 0 if report.passed else 1


def origin(directory: str, model: Any) -> dict[str, Any]:
    """Where a model comes from: all that tells it from another, and no path."""
    if model.step is None:
        path = Path(directory) / "jaxlm_export.json"
        known = json.loads(path.read_text())["origin"] if path.is_file() else {}
        return known or {"model": Path(directory).resolve().name}
    run = model.run
    records = json.loads((Path(directory) / "provenance.json").read_text())
    newest = records[-1]
    return {
        "run": Path(directory).resolve().name,
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
    """A line a file."""
    for name, digest in digests.items():
        print(f"{digest}  {name}")
    print(f"wrote {out}", flush=True)


def verified(out: str, to: str, model: Any = None) -> int:
    """Compare what was written with its own client; the exit status.

    Args:
        out: what was written.
        to: its format.
        model: what it must equal; None: what jaxlm reads from it.
    """
    import jaxlm
    from jaxlm.convert.verify import verify

    report = verify(model or jaxlm.load(out), Path(out), to)
    for line in report.lines:
        print(line)
    return 0 if report.passed else 1
