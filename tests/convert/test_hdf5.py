"""HDF5: no data of other files, and no crash where the disk is full."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from states import script

from jaxlm.convert.hdf5 import read_hdf5, write_hdf5
from jaxlm.types import UserError


def external(file, secret):
    file.create_dataset("a", (4,), "u1", external=[(str(secret), 0, 4)])


def virtual(file, secret):
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.arange(4)
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "x", (4,))
    file.create_virtual_dataset("a", layout)


@pytest.mark.parametrize("kind", [external, virtual])
def test_numbers_in_another_file_are_refused(kind, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        kind(file, secret)
    with (
        pytest.raises(UserError, match="the numbers of a are in another file"),
        read_hdf5(tmp_path / "w.h5"),
    ):
        pass


def test_links_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(4)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = np.arange(3)
        file["b"] = h5py.ExternalLink("other.h5", "x")
        file["c"] = h5py.SoftLink("/a")
    with read_hdf5(tmp_path / "w.h5") as arrays:
        assert arrays.keys() == {"a"}


@pytest.mark.parametrize("value", ["text", np.array([b"x"], object), h5py.Empty("f")])
def test_what_is_no_array_of_numbers_is_refused(value, tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = value
    with (
        pytest.raises(UserError, match="a is not an array of numbers"),
        read_hdf5(tmp_path / "w.h5"),
    ):
        pass


@pytest.mark.parametrize("keep", [0, 100, 700])
def test_a_torn_file_is_refused(keep, tmp_path):
    with write_hdf5(tmp_path / "w.h5") as put:
        put("a/b", np.arange(5.0))
    with read_hdf5(tmp_path / "w.h5") as arrays:
        np.testing.assert_array_equal(arrays["a/b"], np.arange(5.0))
    (tmp_path / "w.h5").write_bytes((tmp_path / "w.h5").read_bytes()[:keep])
    with (
        pytest.raises(UserError, match="cannot be read as HDF5"),
        read_hdf5(tmp_path / "w.h5"),
    ):
        pass


FULL = """
import resource, sys
import numpy as np
sys.dont_write_bytecode = True  # Python would keep modules that are cut off
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from pathlib import Path
from jaxlm.convert.hdf5 import write_hdf5
size = int(sys.argv[2])
try:
    with write_hdf5(Path(sys.argv[1])) as put:
        for i in range(1000):
            put(str(i), np.zeros(size))
            put(f"tokens/{i}", ["a", "b"])
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_full_disk_is_an_error_and_no_crash(size, tmp_path):
    """HDF5's own files end the process by SIGSEGV here."""
    done = script(FULL, tmp_path / "w.h5", size)
    assert (done.returncode, done.stdout) == (0, "File too large\n"), done.stderr


def test_a_token_with_a_nul_is_written(tmp_path):
    with write_hdf5(tmp_path / "x.h5") as put:
        put("tokens/0", ["a\0b", "c"])
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["tokens/0"].asstr()[:].tolist() == ["a\ufffdb", "c"]
