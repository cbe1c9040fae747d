"""Embedded tokens → hidden states of every layer: one block, scanned over layers.

Parameters of all layers lie stacked on axis 0 (`layers/mlp/wi/kernel [N, D, F]`), so
one compiled body serves any depth and a layer is an index.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxlm.models.dropout import Dropout
from jaxlm.models.layers import (
    PRODUCT,
    Attention,
    Cache,
    Dtype,
    Init,
    LayerNorm,
    Mlp,
)

Remat = Literal["none", "dots", "full"]

POLICIES = {
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Encoded(NamedTuple):
    """All that a model computed; what a step does not read is never materialised."""

    hidden: Float[Array, "N+1 B L D"]  # the embedding output, then every layer
    pooled: Float[Array, "B *L D"] | None = None
    logits: Float[Array, "B P V"] | None = None
    nsp_logits: Float[Array, "B 2"] | None = None
    # Of a decoder: what its logits are the product of, for a loss that never holds all
    # of them, and the caches that it was given, one token or more longer.
    last: Float[Array, "B L D"] | None = None
    head: Float[Array, "R D"] | None = None
    caches: tuple[Cache, ...] | None = None


class Block(nn.Module):
    """Attention and MLP, each with dropout, a residual and a norm.

    norm = "post" (BERT, GPT-1):  x = norm(x + f(x))
    norm = "pre" (GPT-2):         x = x + f(norm(x))
    """

    num_heads: int
    d_ff: int
    norm: Literal["post", "pre"]
    norm_eps: float
    activation: str
    dropout: float
    kernel_init: Init
    out_init: Init  # of the two products that end in the residual stream
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask: Bool[Array, "#B #L T"],
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[Float[Array, "B L D"], Cache | None]]:
        """What a scan carries on, and what it stacks: the output and the cache."""
        attention = Attention(
            self.num_heads,
            self.dropout,
            self.kernel_init,
            self.out_init,
            self.dtype,
            name="attention",
        )
        mlp = Mlp(
            self.d_ff,
            self.activation,
            self.kernel_init,
            self.out_init,
            self.dtype,
            name="mlp",
        )
        attention_norm, mlp_norm = (
            LayerNorm(self.norm_eps, self.dtype, name=name)
            for name in ("attention_norm", "mlp_norm")
        )
        drop = Dropout(self.dropout)
        pre = self.norm == "pre"
        y_BLD, cache = attention(attention_norm(x_BLD) if pre else x_BLD, mask, cache)
        x_BLD = x_BLD + drop(y_BLD)
        x_BLD = x_BLD if pre else attention_norm(x_BLD)
        x_BLD = x_BLD + drop(mlp(mlp_norm(x_BLD) if pre else x_BLD))
        x_BLD = x_BLD if pre else mlp_norm(x_BLD)
        return x_BLD, (x_BLD, cache)


def stack(num_layers: int, *, remat: Remat, name: str | None = None, **block) -> Block:
    """A `Block` scanned `num_layers` times: (x, mask) → (last, (all hidden, None)).

    Args:
        num_layers: blocks.
        remat: what the backward pass computes again: "none"; "dots", all but matrix
            products with weights; "full", all but the input of each block.
        name: of the module.
        **block: the fields of `Block`.
    """
    body = Block
    if remat != "none":
        body = nn.remat(Block, policy=POLICIES[remat], prevent_cse=False)
    # A loop on a CPU copies what the backward pass needs of each layer in and out of
    # stacked buffers, 8 to 18 % of a step; elsewhere, and where it would be long to
    # compile, it stays a loop, and where something is computed again: without the loop
    # XLA could merge the two. A model that drops something is being trained.
    most = 12 if block["dropout"] else 4
    on_cpu = jax.default_backend() == "cpu"
    unrolled = on_cpu and remat == "none" and num_layers <= most
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=num_layers,
        unroll=num_layers if unrolled else 1,
    )
    return scanned(name=name, **block)


def with_embedding(
    embedded_BLD: Float[Array, "B L D"], layers_NBLD: Float[Array, "N B L D"]
) -> Float[Array, "N+1 B L D"]:
    """All hidden states: layer 0 is the embedding output."""
    return jnp.concatenate([embedded_BLD[None], layers_NBLD])
