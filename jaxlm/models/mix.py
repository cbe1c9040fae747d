"""Hidden states of all layers → one vector a position, by learnt weights.

    γ · Σ_n softmax(w)_n · hidden_n

Peters et al. 2018, as allenai/bilm-tf's `weight_layers` (bilm/elmo.py) and AllenNLP's
`ScalarMix`: ELMo's three layers, BERT's thirteen, any `hidden` of `Encoded`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# bilm-tf's; AllenNLP's 1e-13 makes no difference to a variance in float32.
_EPS = 1e-12


class ScalarMix(nn.Module):
    """A weighted mean of layers times γ; at first, the plain mean.

    `normalise` first brings each layer to mean 0 and variance 1, over all channels and
    all positions of the batch that `mask` keeps: a position's vector then depends on
    the batch that it is in.
    """

    normalise: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "M B L D"],
        mask: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Mixed in float32, given in the dtype of `hidden`.

        Args:
            mask: True at positions that count for `normalise`; None: all.
        """
        weights = self.param("weights", nn.initializers.zeros, hidden.shape[:1])
        scale = self.param("scale", nn.initializers.ones, ())
        x = hidden.astype(jnp.float32)
        if self.normalise:
            x = _normalise(x, mask)
        mixed = jnp.einsum("m,mbld->bld", jax.nn.softmax(weights), x)
        return (scale * mixed).astype(hidden.dtype)


def mix_penalty(params: dict[str, Array], strength: float) -> Float[Array, ""]:
    """λ‖w‖² of a ScalarMix, to add to a task's loss: pulls to the plain mean.

    `strength` is λ: 0.001 lets the weights go, 1 keeps them nearly equal.
    """
    return strength * (params["weights"] ** 2).sum()


def _normalise(
    x_MBLD: Float[Array, "M B L D"], mask: Bool[Array, "B L"] | None
) -> Float[Array, "M B L D"]:
    counts = jnp.ones(x_MBLD.shape[1:3]) if mask is None else mask.astype(jnp.float32)
    counts = counts[None, :, :, None]
    axes = (1, 2, 3)
    # The mean of a wholly masked batch is 0 and not NaN.
    total = jnp.maximum(counts.sum() * x_MBLD.shape[-1], 1)
    mean = (x_MBLD * counts).sum(axes, keepdims=True) / total
    centred = x_MBLD - mean
    variance = (centred**2 * counts).sum(axes, keepdims=True) / total
    return centred * jax.lax.rsqrt(variance + _EPS)
