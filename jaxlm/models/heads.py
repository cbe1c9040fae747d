"""Hidden states → predictions: small modules that sit on any encoder."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.models.activations import ACTIVATIONS
from jaxlm.models.layers import Dense, Dtype, Init, LayerNorm, affine


class MlmHead(nn.Module):
    """Dense, activation, norm, then the token table transposed, plus a bias a token."""

    vocab_size: int
    activation: str
    norm_eps: float
    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x_BPD: Float[Array, "B P D"], table_VD: Float[Array, "V D"]
    ) -> Float[Array, "B P V"]:
        """Float32 logits over the vocabulary, tied to `table_VD`."""
        width = x_BPD.shape[-1]
        x_BPD = Dense((width,), (width,), self.kernel_init, self.dtype, name="dense")(
            x_BPD
        )
        x_BPD = ACTIVATIONS[self.activation](x_BPD)
        x_BPD = LayerNorm(self.norm_eps, self.dtype, name="norm")(x_BPD)
        bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
        return affine(x_BPD, table_VD.T, bias, jnp.float32)


class Pooler(nn.Module):
    """tanh(dense) of a text's first position."""

    kernel_init: Init
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """One vector a text."""
        width = x.shape[-1]
        # Named by its parameters alone: pooler/kernel, pooler/bias.
        dense = Dense((width,), (width,), self.kernel_init, self.dtype)
        nn.share_scope(self, dense)
        return jnp.tanh(dense(x))


def gather(
    x_BLD: Float[Array, "B L D"], positions_BP: Int[Array, "B P"]
) -> Float[Array, "B P D"]:
    """The rows of `x_BLD` at `positions_BP`."""
    return jnp.take_along_axis(x_BLD, positions_BP[..., None], axis=1)
