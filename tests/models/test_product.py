"""The gradient of a kernel on 8 devices: summed in float32, exchanged by its parts."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import MeshConfig
from jaxlm.models.layers import Dense
from jaxlm.sharding import make_mesh, param_shardings

pytestmark = pytest.mark.devices
X, DY = jax.random.normal(jax.random.key(0), (2, 16, 5, 256))


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        init = nn.initializers.normal(0.1)
        return x, Dense((8, 32), jnp.bfloat16, init, name="query")(x)


class Layers(nn.Module):
    """The same rows times the kernels of two layers, in a loop as a model's."""

    @nn.compact
    def __call__(self, x):
        loop = nn.scan(
            Attention,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        return loop(name="layers/attention")(x, None)[1]


def gradient(mesh: MeshConfig, params):
    """(the gradient of the kernels by Σ y · DY, the program)"""

    def loss(params, x):
        y = Layers().apply({"params": params}, x)
        return (y.astype(jnp.float32) * DY.reshape(1, *y.shape[1:])).sum()

    cut = make_mesh(mesh)
    with jax.set_mesh(cut):
        kept = param_shardings(cut, params)
        step = jax.jit(jax.grad(loss), out_shardings=kept).lower(params, X).compile()
        return step(params, X)["layers/attention"]["query"]["kernel"], step.as_text()


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8),
        MeshConfig(replica=2, data=4),
        MeshConfig(data=2, fsdp=4),
        MeshConfig(data=2, fsdp=2, tensor=2),
    ],
)
def test_devices_exchange_only_their_parts_of_a_gradient(mesh):
    params = Layers().init(jax.random.key(1), X)["params"]
    expected, _ = gradient(MeshConfig(data=1), params)
    found, program = gradient(mesh, params)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())
    if mesh.tensor == 1:  # else by XLA, which exchanges sums of whole kernels on a CPU
        assert re.search(r"= f32\S+ reduce-scatter\(", program)
        whole = r"f32\[(?:2,)?256,(?:256|8,32)\]\S* all-(?:reduce|gather)\("
        assert not re.search(whole, program)
