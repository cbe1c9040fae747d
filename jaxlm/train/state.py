"""What a run carries from step to step, initialised with its shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Int

from jaxlm.keys import key_for
from jaxlm.sharding import (
    batch_sharding,
    opt_state_shardings,
    param_shardings,
    replicated,
)


class TrainState(NamedTuple):
    """The whole state: random keys and the data position follow from `step`."""

    step: Int[Array, ""]  # updates, skipped ones included
    params: Any
    opt_state: Any
    skipped: Int[Array, ""]  # steps whose gradient was not finite
    skipped_in_row: Int[Array, ""]
    carry: Any = ()  # ELMo: the LSTMs' state after the last batch, for each of its rows


def init_params(module: Any, seed: int) -> Any:
    """Random weights."""
    return module.init(key_for(seed, "init"), *module.example())["params"]


def abstract_params(module: Any) -> Any:
    """Shapes of the parameters."""
    return jax.eval_shape(lambda: init_params(module, 0))


def abstract_state(
    module: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    *,
    seed: int,
    zero_carry: Callable[[], Any] = tuple,
) -> tuple[Callable[[], TrainState], TrainState]:
    """(a function that initialises the state, its shapes with shardings)."""

    def make() -> TrainState:
        params = init_params(module, seed)
        zero = jnp.zeros((), jnp.int32)
        opt_state = optimizer.init(params)
        return TrainState(zero, params, opt_state, zero, zero, zero_carry())

    shapes = jax.eval_shape(make)
    params = param_shardings(mesh, shapes.params)
    whole: TrainState = jax.tree.map(lambda _: replicated(mesh), shapes)
    shardings = whole._replace(
        params=params,
        opt_state=opt_state_shardings(mesh, optimizer, shapes.opt_state, params),
        carry=jax.tree.map(lambda _: batch_sharding(mesh), shapes.carry),
    )
    abstract = jax.tree.map(
        lambda leaf, sharding: leaf.update(sharding=sharding), shapes, shardings
    )
    return jax.jit(make, out_shardings=shardings), abstract
