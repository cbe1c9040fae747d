"""Tokens → hidden states of every layer: an embedding, blocks, a final norm; no head.

Parameters of all layers lie stacked on axis 0 (`layers/mlp/wi/kernel [N, D, F]`), so
one compiled body serves any depth and a layer is an index.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlm.models.dropout import Dropout
from jaxlm.models.layers import Attention, BlockSpec, Cache, Mlp, layer_norm

Remat = Literal["none", "dots", "full"]

# What the backward pass does not compute again: "dots" keeps products with weights,
# "full" the input of each block only.
POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Encoded(NamedTuple):
    """All that a model computed; what a step does not read is never materialised."""

    hidden: Float[Array, "N+1 B L D"]  # the embedding output, then every layer
    last: Float[Array, "B L D"] | None = None  # hidden[-1], without stacking the others
    table: Float[Array, "R D"] | None = None  # of the tokens, that heads are tied to
    pooled: Float[Array, "B *L D"] | None = None
    heads: Mapping[str, Array] = {}  # logits by name: mlm, nsp, lm
    carry: Any = None  # what goes on: a decoder's caches, an ELMo's state

    @property
    def logits(self) -> Any:
        """Of tokens, float32 [B, P, V]; None without a head."""
        return self.heads.get("mlm", self.heads.get("lm"))

    @property
    def nsp_logits(self) -> Any:
        """Of B following A, or being random, float32 [B, 2]; None without a head."""
        return self.heads.get("nsp")


class Block(nn.Module):
    """Attention and MLP, each with dropout, a residual and a norm.

    norm = "post" (BERT, GPT-1):  x = norm(x + f(x))
    norm = "pre" (GPT-2):         x = x + f(norm(x))
    """

    spec: BlockSpec

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        lengths: Int[Array, "B"] | None,
        segments: Int[Array, "B T"] | None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[Float[Array, "B L D"], Cache | None]]:
        """What a scan carries on, and what it stacks: the output and the cache."""
        spec = self.spec
        attention, mlp = Attention(spec, name="attention"), Mlp(spec, name="mlp")
        attention_norm, mlp_norm = (
            layer_norm(spec.norm_eps, spec.dtype, name)
            for name in ("attention_norm", "mlp_norm")
        )
        drop = Dropout(spec.dropout)
        if spec.norm == "pre":
            y_BLD, cache = attention(attention_norm(x_BLD), lengths, segments, cache)
            x_BLD = x_BLD + drop(y_BLD)
            x_BLD = x_BLD + drop(mlp(mlp_norm(x_BLD)))
        else:
            y_BLD, cache = attention(x_BLD, lengths, segments, cache)
            x_BLD = attention_norm(x_BLD + drop(y_BLD))
            x_BLD = mlp_norm(x_BLD + drop(mlp(x_BLD)))
        return x_BLD, (x_BLD, cache)


class CachedBlocks(nn.Module):
    """Blocks one after another, on parameters that `gpt.unstacked` gives.

    A scan would copy every cache at each token.
    """

    spec: BlockSpec

    @nn.compact
    def __call__(self, x_BLD, lengths, segments, caches):
        """As a scan of `Block`, with a cache a layer."""
        hidden, grown = [], []
        for n, cache in enumerate(caches):
            block = Block(self.spec, name=str(n))
            x_BLD, (_, cache) = block(x_BLD, lengths, segments, cache)
            hidden.append(x_BLD)
            grown.append(cache)
        return x_BLD, (jnp.stack(hidden), tuple(grown))


class Encoder(nn.Module):
    """A transformer without heads; `bert.encoder` and `gpt.encoder` build theirs.

    Parameters lie under embed, layers and, where blocks norm first, final_norm.
    """

    # (name=) → the embedding: inputs → (the input of the first block, token table).
    embed: Callable[..., nn.Module]
    num_layers: int
    spec: BlockSpec
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self,
        *inputs: Any,
        lengths: Int[Array, "B"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        caches: tuple[Cache, ...] | None = None,
    ) -> Encoded:
        """Hidden states of every layer; the facts are those of `kernels.attention`.

        Args:
            inputs: of the embedding.
            caches: of each layer, what came before; the parameters are `unstacked`
                then, and `segments` are those of the T slots.
        """
        spec = self.spec
        embed: Any = self.embed(name="embed")
        x_BLD, table_RD = embed(*inputs)
        if caches is None:
            body: Any = Block
            if self.remat != "none":
                policy = POLICIES[self.remat]
                body = nn.remat(Block, policy=policy, prevent_cse=False)
            layers: Any = nn.scan(
                body,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=self.num_layers,
            )(spec, name="layers")
        else:
            layers = CachedBlocks(spec, name="layers")
        last_BLD, (layers_NBLD, caches) = layers(x_BLD, lengths, segments, caches)
        if spec.norm == "pre":
            last_BLD = layer_norm(spec.norm_eps, spec.dtype, "final_norm")(last_BLD)
            layers_NBLD = jnp.concatenate([layers_NBLD[:-1], last_BLD[None]])
        hidden = jnp.concatenate([x_BLD[None], layers_NBLD])
        return Encoded(hidden, last_BLD, table_RD, carry=caches)
