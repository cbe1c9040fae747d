"""HDF5 files: untrusted ones are read safely, and errors of writing are reported.

with read_hdf5(path) as arrays:               by path, each read when indexed
with write_hdf5(path) as put: put(name, array)
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py

from jaxlm.convert.tensors import named
from jaxlm.types import UserError

Put = Callable[[str, Any], None]  # writes an array, or a list of strings, by its name


@contextlib.contextmanager
def read_hdf5(path: Path) -> Iterator[dict[str, h5py.Dataset]]:
    """The arrays of numbers in a file, by path; links are not followed.

    A dataset may keep its numbers in other files (external storage, virtual sources),
    any that this process can read: it is refused.
    """
    found: dict[str, Any] = {}
    with named(f"{path} cannot be read as HDF5"):
        file = h5py.File(path, "r")
        file.visititems(found.__setitem__)
    with file:
        found = {name: x for name, x in found.items() if isinstance(x, h5py.Dataset)}
        for name, each in found.items():
            if each.is_virtual or each.external:
                raise UserError(f"{path}: the numbers of {name} are in another file")
            if each.shape is None or each.dtype.kind not in "fiu":
                raise UserError(f"{path}: {name} is not an array of numbers")
        yield found


class _File(io.FileIO):
    """A file that keeps its first error: HDF5 crashes when a write fails."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        try:
            while left and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the first error."""
        if self.error:
            raise self.error


@contextlib.contextmanager
def write_hdf5(path: Path) -> Iterator[Put]:
    """Write a file, array by array; OSError as soon as one cannot be written."""
    with _File(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:

                def put(name: str, data: Any) -> None:
                    kind = h5py.string_dtype() if isinstance(data, list) else None
                    if kind:  # HDF5's strings hold no NUL
                        data = [token.replace("\0", "\ufffd") for token in data]
                    file.create_dataset(name, data=data, dtype=kind)
                    raw.check()

                yield put
        finally:
            raw.check()  # HDF5 may have stumbled over what was not written
