"""A model with its weights → one StableHLO program, for any batch and length.

    exported = jax.export.deserialize(open("gpt.stablehlo", "rb").read())
    exported.call(tokens)                        a GPT: {"logits": …, "hidden": …}
    exported.call(tokens, token_types, mask)     a BERT, and "pooled", "nsp_logits"

`jax.export` makes the program for CPU, CUDA and TPU; running it needs no code of jaxlm.
JAX guarantees that versions up to six months newer and up to three weeks older can read
the program.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxlm.config.checks import optional
from jaxlm.config.model import BertConfig, ModelConfig
from jaxlm.families import build
from jaxlm.types import UserError

_LIMIT = 3 * 2**29  # bytes of weights; the container ends at 2 GiB


def write_stablehlo(path: Path, config: ModelConfig, params: Any) -> None:
    """Write the program; `params` become its constants."""
    optional("flatbuffers", "export --to stablehlo")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > _LIMIT:
        weights = f"{size / 2**30:.1f} GiB of weights"
        raise UserError(f"{weights} do not fit a StableHLO file of 2 GiB")
    module: Any = build(config, road="plain")
    bert = isinstance(config, BertConfig)

    def forward(tokens, *more):
        facts: dict[str, Any] = {"logits": not bert or "mlm" in params}
        if bert:
            *more, mask = more
            facts["segments"] = mask.astype(jnp.int32)
        with jax.default_matmul_precision("float32"):
            found = module.apply({"params": params}, tokens, *more, **facts)
        out = {"hidden": found.hidden[-1], "logits": found.logits}
        out |= {"pooled": found.pooled, "nsp_logits": found.nsp_logits}
        return {name: each for name, each in out.items() if each is not None}

    limit = [f"l <= {config.max_length}", "l >= 1", "b >= 1"]
    shape = export.symbolic_shape("b, l", constraints=limit)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    inputs = (ids, ids, jax.ShapeDtypeStruct(shape, jnp.bool_)) if bert else (ids,)
    platforms = ("cpu", "cuda", "tpu")
    program = export.export(jax.jit(forward), platforms=platforms)(*inputs)
    path.write_bytes(program.serialize())
