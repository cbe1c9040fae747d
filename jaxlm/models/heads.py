"""Hidden states → predictions: modules that sit on any encoder."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.models.activations import ACTIVATIONS
from jaxlm.models.kernels.head import tied_logits
from jaxlm.models.layers import Dtype, Init, layer_norm


class MlmHead(nn.Module):
    """Dense, activation, norm, then the token table transposed, plus a bias a token."""

    activation: str
    norm_eps: float
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BPD: Float[Array, "B P D"], table_VD: Float[Array, "V D"]
    ) -> Float[Array, "B P V"]:
        """Float32 logits over the vocabulary, tied to `table_VD`."""
        vocab_size, width = table_VD.shape
        dense = nn.Dense(
            width, dtype=self.dtype, kernel_init=self.kernel_init, name="dense"
        )
        x_BPD = ACTIVATIONS[self.activation](dense(x_BPD))
        x_BPD = layer_norm(self.norm_eps, self.dtype, "norm")(x_BPD)
        bias_V = self.param("bias", nn.initializers.zeros, (vocab_size,))
        return tied_logits(x_BPD, table_VD) + bias_V[None, None]


class Pooler(nn.Module):
    """tanh(dense) of a text's first position."""

    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """One vector a text."""
        dense = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init)
        nn.share_scope(self, dense)  # pooler/kernel, pooler/bias
        return jnp.tanh(dense(x))


class NspHead(nn.Module):
    """Whether B follows A, or is random: float32 logits of the two."""

    kernel_init: Init

    @nn.compact
    def __call__(self, pooled: Float[Array, "*n D"]) -> Float[Array, "*n 2"]:
        """From the pooler's output."""
        dense = nn.Dense(2, dtype=jnp.float32, kernel_init=self.kernel_init)
        nn.share_scope(self, dense)  # nsp/kernel, nsp/bias
        return dense(pooled)


def gather(
    x_BLD: Float[Array, "B L D"], positions_BP: Int[Array, "B P"]
) -> Float[Array, "B P D"]:
    """The rows of `x_BLD` at `positions_BP`."""
    return jnp.take_along_axis(x_BLD, positions_BP[..., None], axis=1)
