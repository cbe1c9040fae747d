"""A jax device → its peak FLOP/s for dense matrix products.

    peak_flops(jax.devices()[0], "bfloat16")      989e12 on an H100

Peaks are the makers' figures, without sparsity. CPUs have no reliable figure, so a
large matrix product is timed once instead. MFU divides the FLOPs of the model by these
peaks, never the FLOPs that XLA reports.
"""

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

# (part of `device_kind`, TFLOP/s in bfloat16, in float32), the first match is taken.
# The float32 figure is that of the unit that jax multiplies float32 on by default:
# bfloat16 passes on TPU, TF32 on Ampere and later. T4 has no bfloat16 unit: float16.
# TPU: cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}, figures of a chip; a jax
# device is half a chip on v2, v3 (a core) and 7x (a chiplet), else a whole one.
# GPU: NVIDIA's data sheets of each card, the dense column.
_PEAKS = (
    ("TPU v2", 45 / 2, 45 / 2),
    ("TPU v3", 123 / 2, 123 / 2),
    ("TPU v4 lite", 138, 138),
    ("TPU v4", 275, 275),
    ("TPU v5 lite", 197, 197),
    ("TPU v5e", 197, 197),
    ("TPU v5", 459, 459),  # v5p, under either of its names
    ("TPU v6", 918, 918),  # "lite" or "e"
    ("TPU7", 2307 / 2, 2307 / 2),
    ("B200", 2250, 1100),
    ("H100 PCIe", 756, 378),
    ("H100 NVL", 835, 417),
    ("H100", 989, 494),
    ("H200", 989, 494),
    ("GH200", 989, 494),
    ("A100", 312, 156),
    ("A10", 125, 62.5),
    ("A30", 165, 82),
    ("L40S", 362, 183),
    ("L40", 181, 90),
    ("L4", 121, 60),
    ("RTX 4090", 165, 82.6),
    ("RTX 3090", 71, 35.6),
    ("V100", 125, 15.7),
    ("T4", 65, 8.1),
    ("P100", 21.2, 10.6),
)


def peak_flops(device: Any, precision: str = "bfloat16") -> float:
    """The peak FLOP/s of one device; NaN if its kind is not in the table.

    CPU devices share one machine, so each gets an equal part of the measured rate.
    """
    if device.platform == "cpu":
        return measured_flops() / jax.local_device_count(backend="cpu")
    for kind, bfloat16, float32 in _PEAKS:
        if kind in device.device_kind:
            return (bfloat16 if precision == "bfloat16" else float32) * 1e12
    return math.nan


@functools.cache
def measured_flops() -> float:
    """The FLOP/s of a float32 product of two [1024, 1024] on this CPU, best of five."""
    size, cpu = 1024, jax.local_devices(backend="cpu")[:1]
    product = jax.jit(jnp.matmul)

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        return time.perf_counter() - start

    # The mesh of a run may hold devices of other hosts, which take no part in this.
    with jax.set_mesh(Mesh(cpu, "own", axis_types=(AxisType.Auto,))):
        a = jnp.ones((size, size), jnp.float32)
        seconds()  # compiles
        return 2 * size**3 / min(seconds() for _ in range(5))
