"""All hidden states of an encoder → one vector a position, in learnt shares.

    γ · Σ_n softmax(w)_n · hidden_n

Peters et al. 2018, as allenai/bilm-tf's `weight_layers` (bilm/elmo.py) and AllenNLP's
`ScalarMix`: ELMo's three layers, BERT's thirteen, any `hidden` of `Encoded`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# bilm-tf's; AllenNLP came to 1e-13, which is as little to a variance in float32.
_EPS = 1e-12


class ScalarMix(nn.Module):
    """A weighted mean of layers times γ; at first, the plain mean.

    With `normalise` each layer is first shifted and scaled to mean 0 and variance 1,
    by one mean and one variance over all positions of the batch that `mask` leaves and
    all channels: what a position comes to then depends on the batch that it is in. It
    has no scale and bias of its own.
    """

    normalise: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "M B L D"],
        mask: Bool[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Mix in float32, in the dtype of `hidden`.

        Args:
            hidden: of M layers.
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
    """λ‖w‖², to add to a task's loss: pulls the weights to the plain mean.

    Args:
        params: of a ScalarMix.
        strength: λ; 0.001 lets the weights go, 1 keeps them nearly equal.
    """
    return strength * (params["weights"] ** 2).sum()


def _normalise(
    x_MBLD: Float[Array, "M B L D"], mask: Bool[Array, "B L"] | None
) -> Float[Array, "M B L D"]:
    counts = jnp.ones(x_MBLD.shape[1:3]) if mask is None else mask.astype(jnp.float32)
    counts = counts[None, :, :, None]
    axes = (1, 2, 3)
    # A batch that is masked whole is 0 and not NaN.
    total = jnp.maximum(counts.sum() * x_MBLD.shape[-1], 1)
    mean = (x_MBLD * counts).sum(axes, keepdims=True) / total
    apart = x_MBLD - mean
    variance = (apart**2 * counts).sum(axes, keepdims=True) / total
    return apart * jax.lax.rsqrt(variance + _EPS)
