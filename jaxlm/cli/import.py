"""`jaxlm import DIR --out DIR`: anyone's weights as one of our model directories."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.progress import say
from jaxlm.cli.runtime import start_jax
from jaxlm.convert import Dtype


@dataclass(frozen=True, kw_only=True)
class Import:
    """Write a model directory from weights of any known layout: BERT, ERNIE, GPT-1 and
    GPT-2 as transformers saves them, ELMo's options and hdf5, Google's checkpoints of
    BERT, OpenAI's arrays of GPT-1. Nothing is downloaded, and no code in DIRECTORY is
    run."""

    directory: tyro.conf.Positional[str]
    """Where the weights are."""
    out: str
    """Model directory to write; an earlier one there is replaced."""
    tokenizer: str = ""
    """Directory or file of the tokenizer; empty: beside the weights."""
    ignore: tuple[str, ...] = ()
    """Regular expressions of tensors that are not needed."""
    allow_pickle: bool = False
    """Read .bin and .pt files, by torch's weights-only loader."""
    dtype: Dtype = "float32"
    """Of the weights that are written."""
    verify: bool = False
    """Compare with transformers on real text; exit 1 above the tolerance."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Import, "import", argv)
    start_jax()
    from jaxlm.cli.export import say_written, verified
    from jaxlm.convert.model_directory import import_model
    from jaxlm.convert.verify import check_client

    if args.verify:
        check_client("hf")
    source, digests = import_model(
        Path(args.directory),
        Path(args.out),
        tokenizer=Path(args.tokenizer) if args.tokenizer else None,
        pickle=args.allow_pickle,
        ignore=args.ignore,
        dtype=args.dtype,
    )
    for note in source.notes:
        say(note)
    for head in source.missing:
        say(f"the files have no {head} head, so the model has none")
    say_written(args.out, digests)
    return verified(args.out, "hf") if args.verify else 0
