"""Hidden states of all layers → one vector for each position: ELMo's scalar mix."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class ScalarMix(nn.Module):
    """Hidden states of all layers → a vector for each position: γ · Σ softmax(w)_n h_n.

    Initially the plain mean. Peters et al. 2018, as allenai/bilm-tf's `weight_layers`
    (bilm/elmo.py) and AllenNLP's `ScalarMix`. `normalise` first brings each layer to
    mean 0 and variance 1, over all channels and all positions of the batch that `mask`
    keeps, so the vector of a position then depends on the rest of its batch.
    """

    normalise: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "M B L D"],
        mask: Bool[Array, "B L"] | None = None,  # None: every position counts
    ) -> Float[Array, "B L D"]:
        """The mix, computed in float32, in the dtype of `hidden`."""
        weights = self.param("weights", nn.initializers.zeros, hidden.shape[:1])
        scale = self.param("scale", nn.initializers.ones, ())
        x = hidden.astype(jnp.float32)
        if self.normalise:
            shape = hidden.shape[1:3]
            counts = jnp.ones(shape) if mask is None else mask.astype(jnp.float32)
            counts, axes = counts[None, :, :, None], (1, 2, 3)
            # The mean of a wholly masked batch is 0 and not NaN.
            total = jnp.maximum(counts.sum() * x.shape[-1], 1)
            x = x - (x * counts).sum(axes, keepdims=True) / total
            variance = (x**2 * counts).sum(axes, keepdims=True) / total
            # bilm-tf's; AllenNLP's 1e-13 makes no difference to a float32 variance.
            x = x * jax.lax.rsqrt(variance + 1e-12)
        mixed = jnp.einsum("m,mbld->bld", jax.nn.softmax(weights), x)
        return (scale * mixed).astype(hidden.dtype)


def mix_penalty(params: dict[str, Array], strength: float) -> Float[Array, ""]:
    """λ‖w‖² of a ScalarMix, a term of the loss that pulls the mix to the plain mean.

    `strength` is λ: with 0.001 the weights are nearly free, with 1 nearly equal.
    """
    return strength * (params["weights"] ** 2).sum()
