"""A model with its weights → one StableHLO program, for any batch and length.

    exported = jax.export.deserialize(open("gpt.stablehlo", "rb").read())
    exported.call(tokens)                        a GPT: {"logits": …, "hidden": …}
    exported.call(tokens, token_types, mask)     a BERT, and "pooled", "nsp_logits"

Made by `jax.export` for CPU, CUDA and TPU; running it needs no code of jaxlm. JAX
promises that later versions read it for six months, and versions up to three weeks
older.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxlm.config.model import BertConfig, ModelConfig
from jaxlm.convert.atomic import atomic_file, sha256_of
from jaxlm.convert.optional import optional
from jaxlm.families import build
from jaxlm.types import UserError

_PLATFORMS = ("cpu", "cuda", "tpu")
_LIMIT = 3 * 2**29  # bytes of weights; the container ends at 2 GiB


def export_stablehlo(out: Path, config: ModelConfig, params: Any) -> dict[str, str]:
    """Write the program, whole or not at all: name → SHA-256.

    `params` become constants of the program.

    Raises:
        UserError: flatbuffers is not installed, or the weights do not fit.
    """
    optional("flatbuffers", "export --to stablehlo")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > _LIMIT:
        raise UserError(
            f"{size / 2**30:.1f} GiB of weights do not fit a StableHLO file of 2 GiB"
        )
    module: Any = build(config)
    bert = isinstance(config, BertConfig)
    heads = not bert or "mlm" in params

    def forward(tokens, *more):
        facts = {}
        if bert:
            *more, mask = more
            facts["segments"] = mask.astype(jnp.int32)
        with jax.default_matmul_precision("float32"):
            found = module.apply(
                {"params": params}, tokens, *more, **facts, logits=heads
            )
        out = {"hidden": found.hidden[-1], "logits": found.logits}
        out |= {"pooled": found.pooled, "nsp_logits": found.nsp_logits}
        return {name: each for name, each in out.items() if each is not None}

    limit = [f"l <= {config.max_length}", "l >= 1", "b >= 1"]
    shape = export.symbolic_shape("b, l", constraints=limit)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    inputs = (ids, ids, jax.ShapeDtypeStruct(shape, jnp.bool_)) if bert else (ids,)
    program = export.export(jax.jit(forward), platforms=_PLATFORMS)(*inputs)
    with atomic_file(out) as beside:
        beside.write_bytes(program.serialize())
    return {out.name: sha256_of(out)}
