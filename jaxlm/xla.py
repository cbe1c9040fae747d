"""Options of XLA's compiler for a run's own programs: what is set where, and why.

They are passed to `jax.jit`, so that no other program of the process is changed, as it
would be by XLA_FLAGS; `jaxlm plan` compiles with the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.config import RunConfig
from jaxlm.mesh import platform
from jaxlm.types import UserError

# Platform → options of every run.
_ALWAYS: dict[str, dict[str, Any]] = {
    # Else a product whose sum over a few chips is scattered becomes a ring of small
    # products and sends: in a step of bert_base_modern on v5e:4x4, 2,413 sends and
    # a third more FLOP.
    "tpu": {"xla_tpu_enable_windowed_einsum_for_reduce_scatter": False},
}
# Platform → options of `deterministic`: kernels are not chosen by timing, cuDNN's
# backward pass is the deterministic one, and scatters sort what they add.
_DETERMINISTIC = {"gpu": {"xla_gpu_deterministic_ops": True}}


def xla_options(config: RunConfig, *, training: bool = False) -> dict[str, Any]:
    """The `compiler_options` of `jax.jit` on the platform of the mesh; `training`: with
    those of `config.xla`, which are for the train step."""
    found = dict(_ALWAYS.get(platform(), {}))
    if config.deterministic:
        found |= _DETERMINISTIC.get(platform(), {})
    return found | (_given(config) if training else {})


def _given(config: RunConfig) -> dict[str, Any]:
    pairs = (each.split("=", 1) for each in config.xla)
    return {k: {"true": True, "false": False}.get(v.lower(), v) for k, v in pairs}


def check_options(config: RunConfig, mesh: Mesh) -> None:
    """Raise a UserError if XLA for the devices of a mesh refuses `config.xla`."""
    if not config.xla:
        return
    x = jax.ShapeDtypeStruct(
        (), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec())
    )
    try:
        jax.jit(lambda x: x, compiler_options=_given(config)).lower(x).compile()
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--xla {' '.join(config.xla)}: {said}") from None


def notes(config: RunConfig) -> list[str]:
    """What a run says at its start; nothing if XLA compiles as it does by default."""
    options = xla_options(config, training=True)
    said = [" ".join(["XLA:", *(f"{k}={v}" for k, v in options.items())])]
    said *= bool(options)
    if config.deterministic and platform() not in _DETERMINISTIC:
        said.append(f"deterministic: every run on a {platform().upper()} is")
    return said
