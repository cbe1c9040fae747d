"""`jaxlm embed DIR --text … --out …`: vectors of each line of a text."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.types import UserError


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Vectors of each line of a text, by any layer of any family.

    The file has an array for each line, named by its number from 0: [tokens, width], or
    [layers, tokens, width] of all layers, as AllenNLP's ELMo files; pooled, [width] or
    [layers, width]. `tokens/N` are the tokens of line N.
    """

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    out: str
    """File to write: .h5, .hdf5 or .npz."""
    text: tuple[str, ...] = ()
    """Files, a text a line."""
    layers: str = "last"
    """last, all, mix (the mean of all), or a number: 0 is the embedding."""
    pooling: Literal["none", "mean", "cls", "sentence"] = "none"
    """A vector a token, their mean, that of BERT's [CLS], or the mean of all with [CLS]
    and [SEP], of length 1, as sentence-transformers has it."""
    batch: int = 16
    """Lines at a time."""
    stateful: bool = False
    """ELMo: a line goes on from the state of the line --batch before it, as in the
    original."""


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Embed, "embed", argv)
    writer = {".h5": _hdf5, ".hdf5": _hdf5, ".npz": _npz}.get(Path(args.out).suffix)
    if writer is None:
        raise UserError(f"--out {args.out} is none of .h5, .hdf5 and .npz")
    if not args.text:
        raise UserError("jaxlm embed needs --text")
    layers = _layers(args.layers)

    from jaxlm.cli.runtime import start_jax

    start_jax()
    import jaxlm

    model = jaxlm.load(args.directory)
    found = model.embed_each(
        _lines(args.text),
        layers=layers,
        pooling=args.pooling,
        batch=args.batch,
        stateful=args.stateful,
    )
    beside = f"{args.out}.{os.getpid()}.tmp"
    lines = tokens = 0
    shape: tuple[int, ...] = ()
    try:
        with writer(beside) as put:
            for each in found:
                put(lines, each.vectors, each.tokens)
                shape = each.vectors.shape
                lines, tokens = lines + 1, tokens + len(each.tokens)
        if not lines:
            raise UserError(f"{', '.join(args.text)}: no line")
        os.replace(beside, args.out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
    print(f"{args.out}: {lines:,} lines, {tokens:,} tokens, the last {shape}")
    return 0


def _layers(text: str):
    if text in ("last", "all", "mix"):
        return text
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"--layers {text} is none of last, all, mix and a number"
        ) from None


def _lines(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    yield line.rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None


@contextlib.contextmanager
def _hdf5(path: str):
    import h5py

    with h5py.File(path, "w") as file:
        words = h5py.string_dtype()

        def put(number, vectors, tokens):
            file.create_dataset(str(number), data=vectors)
            file.create_dataset(f"tokens/{number}", data=list(tokens), dtype=words)

        yield put


@contextlib.contextmanager
def _npz(path: str):
    import numpy as np

    # An array at a time, where `np.savez` would hold all of them.
    with zipfile.ZipFile(path, "w") as file:

        def put(number, vectors, tokens):
            arrays = {str(number): vectors, f"tokens/{number}": np.array(tokens, str)}
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

        yield put
