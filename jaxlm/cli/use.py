"""A model in use: `jaxlm fill DIR …`, `jaxlm generate DIR …`, `jaxlm embed DIR …`."""

import contextlib
import itertools
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.glance import check_family, with_masks
from jaxlm.cli.runtime import say, start_jax
from jaxlm.config.vectors import Pooling, VectorOptions
from jaxlm.files import is_remote
from jaxlm.generate.sampling import Sampling
from jaxlm.types import UserError, plural


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The likeliest words for each [MASK] of a text."""

    directory: Positional[str]
    """Run or model directory of a BERT."""
    sentence: Positional[tuple[str, ...]]
    """Texts, each with one [MASK] or several."""
    top_k: int = 5
    """Number of words for each [MASK]."""


@dataclass(frozen=True, kw_only=True)
class Generate(Sampling):
    """Continue texts. Equal seed and settings give equal text."""

    directory: Positional[str]
    """Run or model directory of a GPT."""
    prompt: tuple[str, ...] = ("",)
    """Texts to continue; an empty one starts a document. A prompt that does not fit the
    context together with --max_tokens is truncated on the left."""
    json: bool = False
    """Print each continuation as a line of JSON, with tokens and log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class Embed(VectorOptions):
    """Write the vectors of each line of a text, from any layer of any family.

    The file has an array for each line, named by the line's number from 0: [tokens,
    width], or [layers, tokens, width] for all layers, as in AllenNLP's ELMo files. With
    pooling they are [width] or [layers, width]. `tokens/N` has the tokens of line N.
    """

    directory: Positional[str]
    """Run or model directory."""
    out: str
    """File to write: .h5, .hdf5 or .npz."""
    text: tuple[str, ...]
    """Files with one text in each line; /dev/stdin for a pipe."""
    pooling: Pooling = "none"


def run_fill(argv: list[str]) -> int:
    """The verb `fill`."""
    args = parse(Fill, argv)
    if not args.sentence:
        raise UserError("no text to fill: jaxlm fill DIRECTORY 'It is a [MASK].'")
    check_family(args.directory, "bert", "fills no blanks")
    texts = with_masks(args.sentence)
    start_jax()
    import jaxlm

    model = jaxlm.load(args.directory)
    found = [model.fill(text, args.top_k) for text in texts]
    for text, masks in zip(args.sentence, found, strict=True):
        if len(found) > 1:
            print(text)
        for number, guesses in enumerate(masks, 1):
            words = "  ".join(f"{g.token} {g.probability:.1%}" for g in guesses)
            print(f"[MASK] {number}: {words}")
    return 0


def run_generate(argv: list[str]) -> int:
    """The verb `generate`."""
    args = parse(Generate, argv)
    check_family(args.directory, "gpt", "continues no text")
    start_jax()
    import jaxlm

    # The first prompt is printed together with the first text behind it: by then the
    # model has accepted all arguments.
    unprinted = list(args.prompt[:1])

    def show(text: str) -> None:
        print(*unprinted, text, sep="", end="", flush=True)
        unprinted.clear()

    found: Any = jaxlm.load(args.directory).generate(
        args.prompt, args, scored=args.json, stream=None if args.json else show
    )
    for i, each in enumerate(found):
        prompt = args.prompt[i // args.samples]
        if args.json:
            scores = [round(float(score), 6) for score in each.scores]
            scored = (
                {"score": scores[0]} if args.beams else {"log_probabilities": scores}
            )
            record = {"prompt": prompt, "text": each.text}
            record |= {"tokens": each.tokens.tolist(), **scored}
            print(json.dumps(record, ensure_ascii=False))
        elif i:
            print(f"\n---\n{prompt}{each.text}", end="")
        else:
            show("")
    if not args.json:
        print()
    return 0


def run_embed(argv: list[str]) -> int:
    """The verb `embed`."""
    args = parse(Embed, argv)
    if Path(args.out).suffix not in (".h5", ".hdf5", ".npz"):
        raise UserError(f"--out {args.out} is none of .h5, .hdf5 and .npz")
    for path in args.text:
        if not is_remote(path) and not os.path.exists(path):
            pipe = "echo 'A text.' | jaxlm embed … --text /dev/stdin"
            remedy = f"write one text a line into a file, or pipe it: {pipe}"
            raise UserError(f"--text {path!r} is not a file: {remedy}")
    start_jax()
    import jaxlm
    from jaxlm.convert.hdf5 import write_hdf5
    from jaxlm.convert.model_directory import atomic, export_path
    from jaxlm.text.sources import read_lines

    writer = _npz if args.out.endswith(".npz") else write_hdf5
    lines = tokens = cut_off = 0
    shape: tuple[int, ...] = ()
    with export_path(args.out) as out, atomic(out, file=True) as beside:
        texts = itertools.chain.from_iterable(map(read_lines, args.text))
        found = jaxlm.load(args.directory).embed_each(texts, args)
        try:
            with writer(beside) as put:
                for each in found:
                    put(str(lines), each.vectors)
                    put(f"tokens/{lines}", list(each.tokens))
                    shape = each.vectors.shape
                    lines, tokens = lines + 1, tokens + len(each.tokens)
                    cut_off += bool(each.cut_off)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--out {args.out} cannot be written: {reason}") from None
        if not lines:
            raise UserError(f"{', '.join(args.text)}: no line")
    counts = f"{plural(lines, 'line')}, {plural(tokens, 'token')}"
    print(f"{args.out}: {counts}, the last {shape}")
    if cut_off:
        say(f"{plural(cut_off, 'line')} cut off: the sentence model reads no more")
    return 0


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Any]:
    import numpy as np

    # One array at a time: `np.savez` would hold all of them in memory.
    with zipfile.ZipFile(path, "w") as file:

        def put(name: str, data: Any) -> None:
            array = np.asarray(data, str if isinstance(data, list) else None)
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        yield put
