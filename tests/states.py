"""Made-up train states and their checkpoints, for `tests/checkpoints`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from xla_flags import FAST

from jaxlm.checkpoints import Checkpoints
from jaxlm.checkpoints.digests import digest

ROOT = Path(__file__).resolve().parent.parent


class Moments(NamedTuple):
    count: object
    mu: object


class State(NamedTuple):
    step: object
    params: object
    opt_state: object
    carry: object


def state_of(step: int) -> State:
    """A random state, different for each step, with every kind of leaf of a run."""
    draw = np.random.default_rng(step)

    def normal(*shape):
        return jnp.asarray(draw.standard_normal(shape), jnp.float32)

    params = {
        "embed": {"token": {"table": normal(96, 16)}},
        "layers": {"mlp": {"wi": {"kernel": normal(2, 16, 32), "bias": normal(2, 32)}}},
        "half": normal(24).astype(jnp.bfloat16),
    }
    mu = jax.tree.map(jnp.square, params)
    other = {
        "mask": jnp.asarray(draw.integers(0, 2, 8), bool),
        "bytes": jnp.asarray(draw.integers(0, 256, 8), jnp.uint8),
        "words": jnp.asarray(draw.integers(0, 2**32, 8), jnp.uint32),
    }
    moments = (Moments(jnp.int32(step), mu), (), None)
    return State(jnp.int32(step), params, moments, other)


ABSTRACT = jax.eval_shape(lambda: state_of(0))


def same(a, b) -> bool:
    return digest(a) == digest(b)


def write(directory: Path, *steps: int, keep: int = 5) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=keep)
    checkpoints.open()
    for step in steps:
        checkpoints.save(step, state_of(step), {"at": step})
    checkpoints.wait()
    return checkpoints


def leaf_file(run: Path, path: str, step: int = 20) -> Path:
    """The file that holds a leaf's data."""
    chunks = (run / "checkpoints" / str(step) / "state" / path).rglob("*")
    return next(f for f in chunks if f.is_file() and f.name != "zarr.json")


def script(code: str, *args, **kwargs) -> subprocess.CompletedProcess:
    """Run code in a new process on one CPU device; warnings are errors."""
    environment = {**os.environ, "XLA_FLAGS": FAST, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, args)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, **kwargs
    )
