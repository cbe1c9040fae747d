"""Tensors on disk: safetensors, one file or several → arrays by name; arrays → a file.

    with open_tensors(directory) as tensors:      nothing is read yet
        tensors.shapes ; tensors.read(name)
    write_tensors(path, shapes, make, dtype)      a few in memory at a time

Nothing here runs code of a file: a pickle is read only where it is asked for, and then
through torch's loader of plain weights. Next: `rules.py` says what the arrays are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxlm.text.json_files import read_json
from jaxlm.types import UserError

Dtype = Literal["float32", "bfloat16", "float16"]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt")

_AHEAD = 8  # tensors that may wait to be written
_SYNC = 2**28  # bytes that are written at once, before the disk has them

_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_FLOATS = {"F64", "F32", "F16", "BF16"}
_NUMPY = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensors(NamedTuple):
    """Arrays by name, each read when it is asked for."""

    source: Path  # for messages
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]  # float32, finite


@contextlib.contextmanager
def open_tensors(directory: Path, *, pickle: bool = False) -> Iterator[Tensors]:
    """The tensors of a model directory.

    Args:
        directory: with `model.safetensors`, its parts and an index of them, or pickles.
        pickle: pickles may be read.

    Raises:
        UserError: there are none, or they are damaged, or are pickles and may not be.
    """
    if (directory / WEIGHTS).is_file():
        files = {directory / WEIGHTS: None}
    elif (directory / INDEX).is_file():
        files = _parts(directory)
    else:
        with _pickles(directory, pickle) as tensors:
            yield tensors
        return
    with contextlib.ExitStack() as stack:
        where: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path, expected in files.items():
            file = stack.enter_context(_open(path))
            names = set(file.keys())
            for name in sorted(expected - names) if expected is not None else ():
                raise UserError(f"{directory / INDEX}: {name} is not in {path.name}")
            for name in sorted(names if expected is None else expected):
                part = file.get_slice(name)
                if part.get_dtype() in _FLOATS:
                    where[name] = file
                    shapes[name] = tuple(part.get_shape())

        def read(name: str) -> np.ndarray:
            return finite(name, where[name].get_tensor(name), directory)

        yield Tensors(directory / WEIGHTS, shapes, read)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        # Not mapped: pages of a file that was read would count as this process's.
        with safe_open(path, framework="np", backend="pread") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no sound safetensors file: {error}") from None


def _parts(directory: Path) -> dict[Path, set[str]]:
    """File → its tensors, by the index."""
    index = directory / INDEX
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} has no weight_map")
    files: dict[Path, set[str]] = {}
    for tensor, file in names.items():
        if not isinstance(file, str) or PurePosixPath(file).name != file:
            raise UserError(
                f"{index} puts {tensor} into {file!r}: not the name of a file beside it"
            )
        if not (directory / file).is_file():
            raise UserError(f"{index} names {file}, which is not there")
        files.setdefault(directory / file, set()).add(tensor)
    return files


@contextlib.contextmanager
def _pickles(directory: Path, allowed: bool) -> Iterator[Tensors]:
    found = [name for name in PICKLES if (directory / name).is_file()]
    if not found:
        have = sorted(each.name for each in directory.iterdir())[:8]
        raise UserError(
            f"{directory} has no weights: neither {WEIGHTS} nor {INDEX}; it has "
            f"{', '.join(have) or 'nothing'}"
        )
    path = directory / found[0]
    if not allowed:
        raise UserError(
            f"{path} is a pickle, which can run code as it is read: take safetensors, "
            "or pass --allow-pickle to read it by torch's weights-only loader"
        )
    if path.suffix == ".json":
        raise UserError(f"{path}: pickles in parts are not read; join them first")
    try:
        import torch  # pyrefly: ignore
    except ImportError:
        raise UserError(f"reading {path} needs torch: pip install torch") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise UserError(
            f"torch {torch.__version__} runs code even of weights-only pickles "
            "(CVE-2025-32434): pip install 'torch>=2.6'"
        )
    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is refused by torch's loader: {line}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not tensors by name")
    tensors = {
        name: each
        for name, each in state.items()
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    }

    def read(name: str) -> np.ndarray:
        return finite(name, tensors[name].float().numpy(), directory)

    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    yield Tensors(path, shapes, read)


def finite(name: str, array: np.ndarray, source: Path) -> np.ndarray:
    """`array` in float32.

    Raises:
        UserError: an element is NaN or infinite.
    """
    with np.errstate(over="ignore"):
        array = np.asarray(array, np.float32)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise UserError(
            f"{source}: {bad:,} of {array.size:,} elements of {name} are NaN or "
            "infinite"
        )
    return array


def cast(name: str, array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """`array` in the dtype of a file.

    Raises:
        UserError: an element is too large for it.
    """
    with np.errstate(over="ignore"):
        out = array.astype(_NUMPY.get(dtype, np.dtype(dtype)), copy=False)
    if dtype == "float16" and not np.isfinite(out).all():
        worst = np.abs(array).max()
        raise UserError(f"{name} reaches {worst:.3g}, float16 65504: take bfloat16")
    return out


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[str], np.ndarray],
    dtype: Dtype = "float32",
) -> str:
    """A safetensors file, made one tensor at a time, in the order of `shapes`.

    The library's own writer wants all tensors in memory at once. The format is eight
    bytes that say how long the header is, the header (JSON), and the tensors in its
    order, without gaps.

    Args:
        path: of the file.
        shapes: name → shape.
        make: the tensor of a name.
        dtype: to round to.

    Returns:
        SHA-256 of the file.
    """
    size = np.dtype(_NUMPY.get(dtype, dtype)).itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in shapes:
        start, end = end, end + size * int(np.prod(shapes[name]))
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shapes[name]),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha256 = hashlib.sha256()
    with (
        open(path, "wb") as file,
        # Some are written, and hashed, while others are made.
        ThreadPoolExecutor(1) as writer,
        ThreadPoolExecutor(1) as hasher,
    ):
        waiting: deque[Future] = deque()
        synced = 0

        def write(content: Any) -> None:
            nonlocal synced
            file.write(content)
            if file.tell() - synced > _SYNC:
                synced = file.tell()
                os.fsync(file.fileno())  # the disk works while tensors are made

        def put(content: Any) -> None:
            waiting.append(writer.submit(write, content))
            waiting.append(hasher.submit(sha256.update, content))
            while len(waiting) > 2 * _AHEAD:
                waiting.popleft().result()

        put(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            array = cast(name, make(name), dtype)
            if array.shape != tuple(shapes[name]):
                raise ValueError(f"{name} is {array.shape}, not {shapes[name]}")
            put(np.ascontiguousarray(array).view(np.uint8).data)
        for each in waiting:
            each.result()
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()
