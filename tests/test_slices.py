"""Several slices of TPUs: which axis of the mesh crosses them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from jaxlm.config import MeshConfig
from jaxlm.sharding import make_mesh, mesh_notes
from jaxlm.types import UserError


@dataclass(frozen=True)
class Chip:
    """What JAX tells of a TPU chip."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    process_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    client: Any = None


def chips(slices: int) -> list[Chip]:
    """Slices of 4 × 4 chips."""
    places = [(x, y, 0) for y in range(4) for x in range(4)]
    return [
        Chip(16 * n + i, n, at) for n in range(slices) for i, at in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (2, 16, 1, 1)),
        (MeshConfig(replica=2), (2, 16, 1, 1)),
        (MeshConfig(replica=8), (8, 4, 1, 1)),
        (MeshConfig(replica=-1, data=2, tensor=4), (4, 2, 1, 4)),
        (MeshConfig(data=2, fsdp=8), (2, 2, 8, 1)),  # 8 lie in two rows of a slice
        (MeshConfig(data=1, fsdp=4), (2, 1, 4, 1)),  # not all chips
    ],
)
def test_slices_lie_along_replica_and_no_other_axis_crosses_them(config, shape):
    mesh = make_mesh(config, chips(2))
    assert mesh.devices.shape == shape
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    wanted = np.repeat([0, 1], shape[0] // 2)
    np.testing.assert_array_equal(slices, np.broadcast_to(wanted, shape[::-1]).T)


@pytest.mark.parametrize(
    ("config", "slices", "notes"),
    [
        (MeshConfig(), 1, []),
        (MeshConfig(replica=4), 4, []),
        (
            MeshConfig(),
            4,
            ["4 slices: --mesh.replica 4, so only gradients cross slices"],
        ),
    ],
)
def test_a_run_says_that_it_takes_a_replica_for_each_slice(config, slices, notes):
    assert mesh_notes(config, make_mesh(config, chips(slices))) == notes


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            MeshConfig(replica=3),
            "mesh.replica = 3 does not fit 4 slices: pass one of 4, 8, 16, 32, 64",
        ),
        (MeshConfig(replica=-1, data=32), "mesh.replica = 2 does not fit 4 slices: "),
        (MeshConfig(data=32), "mesh.replica = 4 mesh.data = 32 .*: 128 devices asked"),
        (MeshConfig(data=5), "the chips of a slice do not form a mesh of 1 x 5 x 1 x"),
    ],
)
def test_sizes_that_do_not_fit_slices_are_one_line(config, said):
    with pytest.raises(UserError, match=said) as error:
        make_mesh(config, chips(4))
    assert "\n" not in str(error.value)
