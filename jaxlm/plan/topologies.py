"""The name of a machine → its devices, to compile for, and the figures of a chip.

    v5e:16x16     256 chips of one TPU slice          2xv5e:4x4    two slices of 16
    v5p:4x4x4     64 chips                            h100:8       GPUs of one host

No such device is needed: `libtpu`, or the CUDA plugin of JAX, compiles for it.
"""

import importlib.metadata
import importlib.util
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from jaxlm.config.checks import instead
from jaxlm.devices import peak_flops
from jaxlm.types import UserError

_GIB = 2**30
_EXAMPLES = ("v5e:2x4", "v5e:4x4", "v5e:16x16", "v6e:2x4", "v6e:4x4", "v6e:16x16")
_EXAMPLES += ("v5p:2x2x2", "v5p:4x4x4", "2xv5e:16x16", "h100:1", "h100:8")


class Chip(NamedTuple):
    """The figures of a chip; rates are a second."""

    memory: float  # bytes that a program may use
    hbm: float  # bytes to and from that memory
    vector: float  # element-wise operations
    unit: int  # width of the matrix unit, to which products are padded; 1: none are
    links: float  # bytes over all links to other chips of a slice, both ways
    network: float  # bytes to chips of other slices, one way


# Bandwidths: cloud.google.com/tpu/docs/{v5e,v6e,v5p}, NVIDIA's data sheet of the H100
# SXM. Memory: what XLA gives a program. Vector units of TPUs: lanes × sublanes × ALUs ×
# clock; of the H100, its fp32 rate. Network between slices: of v5e and v6e, that of a
# pod (6.4 and 25.6 Tbit/s, v6e's page) / 256; of v5p, 25 GB/s of a host of four chips
# (jax-ml/scaling-book).
_CHIPS = {
    "v5e": Chip(15.75 * _GIB, 819e9, 6.1e12, 128, 180e9, 3.125e9),
    "v6e": Chip(31.25 * _GIB, 1640e9, 7.2e12, 256, 360e9, 12.5e9),
    "v5p": Chip(95.74 * _GIB, 2765e9, 14.3e12, 128, 540e9, 6.25e9),
    "h100": Chip(84_942_979_072, 3350e9, 33e12, 1, 450e9, 50e9),
}

# As XLA wants it described: NVIDIA H100 80GB HBM3.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Topology(NamedTuple):
    """A machine to compile for."""

    name: str
    devices: Any  # of jax, none of which is here
    chip: Chip
    peak: float  # FLOP/s of a chip, in bfloat16
    float32: float  # the share of it that float32 products reach

    @property
    def slices(self) -> int:
        """The number of slices."""
        return len({getattr(each, "slice_index", 0) for each in self.devices})


def open_topology(name: str) -> Topology:
    """The machine with this name; UserError if it or its compiler is missing."""
    found = re.fullmatch(r"(?:(\d+)x)?(\w+):(\d+(?:x\d+)*)", name)
    slices, kind, shape = found.groups() if found else ("", "", "")
    rank = {"h100": 1, "v5p": 3}.get(kind, 2)
    fits = kind in _CHIPS and shape.count("x") == rank - 1
    if not fits or (slices and kind == "h100"):
        known = instead(name, _EXAMPLES, "such are")
        raise UserError(f"no topology {name!r}: {known}")
    _require("jax-cuda12-plugin" if kind == "h100" else "libtpu")
    try:
        devices = _devices(kind, shape, int(slices or 1))
    except Exception as error:
        said = str(error).splitlines()[0]
        raise UserError(f"no topology {name!r}: {said}") from None
    chip = _CHIPS[kind]
    if kind == "h100":
        # What JAX takes of a GPU's memory at its start.
        share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
        chip = chip._replace(memory=chip.memory * float(share))
    peak, slow = (peak_flops(devices[0], each) for each in ("bfloat16", "float32"))
    return Topology(name, devices, chip, peak, slow / peak)


def _devices(kind: str, shape: str, slices: int) -> Any:
    if kind == "h100":
        gpu: Any = {"topology": f"1x1x{shape}", "target_config": _H100}
        return topologies.get_topology_desc(kind, "cuda", **gpu).devices
    facts: Any = {"chip_config_name": "default", "num_slices": slices}
    sizes = [int(each) for each in shape.split("x")]
    # A host has a block of 2 × 2 chips, or fewer in a smaller topology.
    host = [min(size, 2) if i < 2 else 1 for i, size in enumerate([*sizes, 1][:3])]
    facts["chips_per_host_bounds"] = host
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # ask no metadata server
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return topologies.get_topology_desc(f"{kind}:{shape}", "tpu", **facts).devices


def _require(package: str) -> None:
    """Raise a UserError with pip's command if a compiler is not installed."""
    module = "libtpu" if package == "libtpu" else "jax_plugins.xla_cuda12"
    parent = module.partition(".")[0]
    if importlib.util.find_spec(parent) and importlib.util.find_spec(module):
        return
    asked = importlib.metadata.requires("jax") or ()
    wanted = next((each for each in asked if each.startswith(package)), package)
    wanted = wanted.partition(";")[0].strip()
    raise UserError(
        f"{package}, which compiles for that topology, is not installed: "
        f"pip install '{wanted}'"
    )
