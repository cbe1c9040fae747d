"""A transformer without heads: the input of the first block → hidden states of layers.

The parameters of all layers are stacked on axis 0 (`layers/mlp/wi/kernel [N, D, F]`),
so one compiled body serves any depth, and a layer is an index.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.mesh import by_rows, platform
from jaxlm.models.kernels.attention import attention, probabilities
from jaxlm.models.kernels.fused import SAVED, Road
from jaxlm.models.kernels.head import Head
from jaxlm.models.layers import (
    ACTIVATIONS,
    PRODUCT,
    Dense,
    Dropout,
    Dtype,
    Init,
    LayerNorm,
    Rope,
    rope,
    rotated,
    unrolled,
)

Remat = Literal["none", "dots", "full"]

# What the backward pass does not compute again: "dots" keeps products with weights and
# what a kernel made, "full" the input of each block only; see `_remat` for "products".
_KERNELS = jax.checkpoint_policies.save_only_these_names(SAVED, PRODUCT)
POLICIES = {
    "products": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_saveable, _KERNELS
    ),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _KERNELS
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Encoded(NamedTuple):
    """All outputs of a model; XLA does not compute those that a step does not use."""

    hidden: Float[Array, "N+1 B L D"]  # the embedding output, then every layer
    last: Float[Array, "B L D"] | None = None  # hidden[-1], without stacking the others
    table: Float[Array, "R D"] | None = None  # of the tokens, that heads are tied to
    head: Head | None = None  # the factors of the logits of tokens
    pooled: Float[Array, "B *L D"] | None = None
    heads: Mapping[str, Array] = {}  # logits by name: mlm, nsp, lm
    carry: Any = None  # what goes on: a decoder's caches, an ELMo's state
    attention: Any = None  # what `Spec.looks` makes of each layer, stacked [N, …]

    @property
    def logits(self) -> Any:
        """The logits of tokens, float32 [B, P, V]; None without a head."""
        return self.heads.get("mlm", self.heads.get("lm"))

    @property
    def nsp_logits(self) -> Any:
        """The logits of B following A or being random, float32 [B, 2]; or None."""
        return self.heads.get("nsp")

    def __repr__(self) -> str:
        """The shapes of what there is: numbers would fill pages."""
        found = {
            **self._asdict(),
            **{f"heads[{n!r}]": x for n, x in self.heads.items()},
        }
        shapes = {n: x for n, x in found.items() if hasattr(x, "shape")}
        parts = (f"{n}={x.dtype}{[*x.shape]}" for n, x in shapes.items())
        return f"Encoded({', '.join(parts)})"


Looks = Callable[[Float[Array, "B H L L"]], Any]


@dataclass(frozen=True)
class Spec:
    """How the transformer of a config is built."""

    config: BertConfig | GptConfig
    causal: bool
    dropout: float  # 0 but in training
    kernel_init: Init
    out_init: Init  # of the two products that end in the residual stream
    dtype: Dtype
    remat: Remat
    road: Road
    causal_rows: int = 0  # of an encoder
    looks: Looks | None = None  # what is kept of the attention probabilities of a layer

    def norm_layer(self, name: str) -> LayerNorm:
        """A norm with the config's epsilon."""
        eps, biases = self.config.norm_eps, self.config.biases
        return LayerNorm(eps, self.dtype, biases, name=name)

    def dense(self, *features: int, name: str, **options: Any) -> Dense:
        """A product with the config's initialiser."""
        options = {"kernel_init": self.kernel_init, **options}
        biases = self.config.biases
        return Dense(features, self.dtype, use_bias=biases, name=name, **options)


class Cache(NamedTuple):
    """Keys and values of one layer for the tokens so far, in T slots."""

    k: Float[Array, "B T H K"]
    v: Float[Array, "B T H K"]
    slot: Int[Array, ""]  # where the next token's go, for all rows

    def append(self, k_BLHK: Array, v_BLHK: Array) -> "Cache":
        """The cache with L more tokens."""
        put = jax.lax.dynamic_update_slice_in_dim
        k, v = (
            put(x, y, self.slot, axis=1)
            for x, y in ((self.k, k_BLHK), (self.v, v_BLHK))
        )
        return Cache(k, v, self.slot + k_BLHK.shape[1])


class Rows(NamedTuple):
    """What all layers know of the rows; see `kernels.attention`."""

    lengths: Int[Array, "B"] | None = None
    segments: Int[Array, "B T"] | None = None
    ropes: tuple[Rope, ...] = ()  # of global layers and, with a window, of local ones


class Layer(NamedTuple):
    """How a layer differs from others, or how all layers do, [N]; None: not at all."""

    normed: Bool[Array, "*N"] | None = None  # before attention
    local: Bool[Array, "*N"] | None = None  # attention through the window


class Attention(nn.Module):
    """Multi-head self-attention."""

    spec: Spec

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        layer: Layer,
        rows: Rows,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B L D"], Cache | None, Any]:
        """(output at each position, the cache with L more tokens, what `looks` made).

        With a cache, the L tokens are first written to it; then they attend to T slots.
        """
        spec, width = self.spec, x_BLD.shape[-1]
        heads = spec.config.num_heads, width // spec.config.num_heads
        q, k, v = (
            spec.dense(*heads, name=name)(x_BLD) for name in ("query", "key", "value")
        )
        if rows.ropes:
            by = rows.ropes[0]
            if layer.local is not None:
                choose = functools.partial(jnp.where, layer.local)
                by = jax.tree.map(choose, rows.ropes[1], by)
            q, k = rotated(q, by), rotated(k, by)
        offset = 0
        if cache is not None:
            offset, cache = cache.slot, cache.append(k, v)
            k, v = cache.k, cache.v
        facts: Any = {
            "causal": spec.causal,
            "window": spec.config.window // 2 + 1 if spec.config.window else None,
            "local": layer.local,
            "segments": rows.segments,
            "lengths": rows.lengths,
            "offset": offset,
        }
        y_BLHK = attention(
            q,
            k,
            v,
            **facts,
            causal_rows=spec.causal_rows,
            dropout=Dropout(spec.dropout) if spec.dropout else None,
            # Rows to initialise with are too short for a kernel.
            road="plain" if self.is_initializing() else spec.road,
        )
        out = spec.dense(width, kernel_init=spec.out_init, inputs=2, name="out")
        seen = spec.looks(probabilities(q, k, **facts)) if spec.looks else None
        return out(y_BLHK), cache, seen


class Mlp(nn.Module):
    """The MLP of a block: D → F → D at each position."""

    spec: Spec

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The output, wo(activation(wi(x))); gated, wo(activation(wi(x)) · gate(x))."""
        spec, width, wide = self.spec, x_BLD.shape[-1], self.spec.config.d_ff
        curve, gated = spec.config.activation, spec.config.gated
        wi = spec.dense(wide, activation="" if gated else curve, name="wi")
        y_BLF = wi(x_BLD)
        if gated:

            @functools.partial(jax.checkpoint, prevent_cse=unrolled())
            def pass_gate(y: Array, gate: Array) -> Array:
                return ACTIVATIONS[curve](y) * gate

            y_BLF = pass_gate(y_BLF, spec.dense(wide, name="gate")(x_BLD))
        return spec.dense(width, kernel_init=spec.out_init, name="wo")(y_BLF)


class Block(nn.Module):
    """Attention and MLP, each with dropout, a residual and a norm.

    norm = "post" (BERT, GPT-1):         x = norm(x + f(x))
    norm = "pre" (GPT-2, ModernBERT):    x = x + f(norm(x))

    ModernBERT's first attention has no norm: its input is the normed embedding.
    """

    spec: Spec

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        layer: Layer,
        rows: Rows,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B L D"], tuple[Float[Array, "B L D"], Cache | None, Any]]:
        """(output, (output, cache, what `looks` made of the probabilities)): what
        `nn.scan` carries and what it stacks."""
        spec, drop = self.spec, Dropout(self.spec.dropout)
        attend, mlp = Attention(spec, name="attention"), Mlp(spec, name="mlp")
        attention_norm = spec.norm_layer("attention_norm")
        mlp_norm = spec.norm_layer("mlp_norm")
        if spec.config.norm == "pre":
            y_BLD = attention_norm(x_BLD)
            if layer.normed is not None:
                y_BLD = jnp.where(layer.normed, y_BLD, x_BLD)
            y_BLD, cache, seen = attend(y_BLD, layer, rows, cache)
            x_BLD = x_BLD + drop(y_BLD)
            x_BLD = x_BLD + drop(mlp(mlp_norm(x_BLD)))
        else:
            y_BLD, cache, seen = attend(x_BLD, layer, rows, cache)
            x_BLD = attention_norm(x_BLD + drop(y_BLD))
            x_BLD = mlp_norm(x_BLD + drop(mlp(x_BLD)))
        x_BLD = by_rows(x_BLD)  # not cut as the parameters are
        return x_BLD, (x_BLD, cache, seen)


def encode(
    spec: Spec,
    x_BLD: Float[Array, "B L D"],
    table_RD: Float[Array, "R D"],
    *,
    lengths: Int[Array, "B"] | None = None,
    segments: Int[Array, "B T"] | None = None,
    position_ids: Int[Array, "B L"] | None = None,
    caches: tuple[Cache, ...] | None = None,
) -> Encoded:
    """Run all blocks, then a final norm if the blocks are pre-norm.

    A compact module calls this: the parameters are its `layers` and `final_norm`. For
    `lengths` and `segments` see `kernels.attention`; `position_ids` are those of rope,
    None: 0 … L - 1. With `caches`, one for each layer, the parameters are `unstacked`,
    and `segments` are those of the T slots.
    """
    x_BLD, seen = by_rows(x_BLD), None
    rows = Rows(lengths, segments, _ropes(spec, x_BLD.shape[1], position_ids))
    if caches is None:
        body: Any = Block
        if (remat := _remat(spec)) != "none":
            body = nn.remat(Block, policy=POLICIES[remat], prevent_cse=unrolled())
        layers: Any = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=spec.config.num_layers,
            unroll=spec.config.num_layers if unrolled() else 1,
        )(spec, name="layers")
        last_BLD, (layers_NBLD, _, seen) = layers(x_BLD, _each_layer(spec), rows)
    else:
        last_BLD, each = x_BLD, []
        for n, cache in enumerate(caches):
            block = Block(spec, name=f"layers_{n}")
            last_BLD, result = block(last_BLD, Layer(), rows, cache)
            each.append(result[:2])
        outputs, caches = zip(*each, strict=True)
        layers_NBLD = jnp.stack(outputs)
    if spec.config.norm == "pre":
        last_BLD = spec.norm_layer("final_norm")(last_BLD)
        layers_NBLD = jnp.concatenate([layers_NBLD[:-1], last_BLD[None]])
    hidden = jnp.concatenate([x_BLD[None], layers_NBLD])
    return Encoded(hidden, last_BLD, table_RD, carry=caches, attention=seen)


def _ropes(spec: Spec, length: Any, ids: Array | None) -> tuple[Rope, ...]:
    config: Any = spec.config
    if config.positions != "rope":
        return ()
    ids = jnp.arange(length)[None] if ids is None else ids
    bases = (config.rope_base, config.local_rope_base)[: 2 if config.window else 1]
    return tuple(rope(ids, config.d_model // config.num_heads, b) for b in bases)


def _each_layer(spec: Spec) -> Layer:
    config = spec.config
    bare = config.norm == "pre" and not config.first_norm
    # Made by numpy: XLA folds constants, and then drops a branch that is never taken.
    return Layer(
        normed=jnp.asarray(np.arange(config.num_layers) > 0) if bare else None,
        local=jnp.asarray(np.array(config.local)) if config.local else None,
    )


def _remat(spec: Spec) -> str:
    """The key of a policy, or "none".

    A TPU reads and writes memory slower than it computes norms and activations again,
    so it keeps products only; but it keeps dropout masks, whose bits are costly.
    """
    if spec.remat == "none" and platform() == "tpu" and not spec.dropout:
        return "products"
    return spec.remat


def unstacked(params: Any) -> Any:
    """The parameters with a separate subtree for each layer, `layers_0/mlp/…`, ….

    Decoding reads every weight once a token, and would copy each layer out of the
    stack. (For the same reason it does not scan over layers: that copies the caches.)
    """
    params = dict(params)
    stacked = params.pop("layers")
    for n in range(len(jax.tree.leaves(stacked)[0])):
        params[f"layers_{n}"] = jax.tree.map(lambda leaf, n=n: leaf[n], stacked)
    return params
