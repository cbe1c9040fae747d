"""`jaxlm embed DIR --text … --out …`: vectors of each line of a text."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from jaxlm.cli.arguments import parse
from jaxlm.cli.runtime import start_jax
from jaxlm.config.vectors import Pooling, VectorOptions
from jaxlm.types import UserError

if TYPE_CHECKING:
    import numpy as np

    Put = Callable[[int, np.ndarray, Sequence[str]], None]  # line, vectors, tokens


@dataclass(frozen=True, kw_only=True)
class Embed(VectorOptions):
    """Vectors of each line of a text, by any layer of any family.

    The file has an array for each line, named by its number from 0: [tokens, width], or
    [layers, tokens, width] of all layers, as in AllenNLP's ELMo files; pooled, [width]
    or [layers, width]. `tokens/N` are the tokens of line N.
    """

    directory: tyro.conf.Positional[str]
    """Run or model directory."""
    out: str
    """File to write: .h5, .hdf5 or .npz."""
    text: tuple[str, ...]
    """Files with a text a line."""
    pooling: Pooling = "none"


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Embed, "embed", argv)
    writer = {".h5": _hdf5, ".hdf5": _hdf5, ".npz": _npz}.get(Path(args.out).suffix)
    if writer is None:
        raise UserError(f"--out {args.out} is none of .h5, .hdf5 and .npz")
    start_jax()
    import jaxlm

    found = jaxlm.load(args.directory).embed_each(_lines(args.text), args)
    partial = f"{args.out}.{os.getpid()}.tmp"
    lines = tokens = 0
    shape: tuple[int, ...] = ()
    try:
        with writer(partial) as put:
            for each in found:
                put(lines, each.vectors, each.tokens)
                shape = each.vectors.shape
                lines, tokens = lines + 1, tokens + len(each.tokens)
        if not lines:
            raise UserError(f"{', '.join(args.text)}: no line")
        os.replace(partial, args.out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    print(f"{args.out}: {lines:,} lines, {tokens:,} tokens, the last {shape}")
    return 0


def _lines(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                yield from (line.rstrip("\n") for line in file)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None


@contextlib.contextmanager
def _hdf5(path: str) -> Iterator[Put]:
    import h5py

    with h5py.File(path, "w") as file:
        words = h5py.string_dtype()

        def put(number: int, vectors: np.ndarray, tokens: Sequence[str]) -> None:
            file.create_dataset(str(number), data=vectors)
            file.create_dataset(f"tokens/{number}", data=list(tokens), dtype=words)

        yield put


@contextlib.contextmanager
def _npz(path: str) -> Iterator[Put]:
    import numpy as np

    # One array at a time: `np.savez` would hold all of them in memory.
    with zipfile.ZipFile(path, "w") as file:

        def put(number: int, vectors: np.ndarray, tokens: Sequence[str]) -> None:
            arrays = {str(number): vectors, f"tokens/{number}": np.array(tokens, str)}
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

        yield put
