"""A tree of parameters, trained by gradients of a known draw."""

import jax
import numpy as np
import optax

from jaxlm.config import OptimConfig
from jaxlm.train.optim import make_optimizer
from jaxlm.tree import leaves

# The parameter paths of a BERT with both heads, two layers stacked, in miniature.
SHAPES = {
    "embed/token/table": (11, 4),
    "embed/position/table": (6, 4),
    "embed/token_type/table": (2, 4),
    "embed/norm/scale": (4,),
    "embed/norm/bias": (4,),
    **{
        f"layers/attention/{name}/{leaf}": shape
        for name in ("query", "key", "value")
        for leaf, shape in (("kernel", (2, 4, 2, 2)), ("bias", (2, 2, 2)))
    },
    "layers/attention/out/kernel": (2, 2, 2, 4),
    "layers/attention/out/bias": (2, 4),
    "layers/attention_norm/scale": (2, 4),
    "layers/attention_norm/bias": (2, 4),
    "layers/mlp/wi/kernel": (2, 4, 8),
    "layers/mlp/wi/bias": (2, 8),
    "layers/mlp/wo/kernel": (2, 8, 4),
    "layers/mlp/wo/bias": (2, 4),
    "layers/mlp_norm/scale": (2, 4),
    "layers/mlp_norm/bias": (2, 4),
    "pooler/kernel": (4, 4),
    "pooler/bias": (4,),
    "mlm/dense/kernel": (4, 4),
    "mlm/dense/bias": (4,),
    "mlm/norm/scale": (4,),
    "mlm/norm/bias": (4,),
    "mlm/bias": (11,),
    "nsp/kernel": (4, 2),
    "nsp/bias": (2,),
}


def nested(flat):
    tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[name] = leaf
    return tree


def draw(seed: int, scale: float = 1.0):
    random = np.random.default_rng(seed)
    return {
        path: (scale * random.standard_normal(shape)).astype(np.float32)
        for path, shape in SHAPES.items()
    }


def run(config: OptimConfig, steps: int, total: int, scale: float = 1.0):
    """Parameters after each of `steps` updates with gradients of a known draw."""
    params = nested(draw(0, 0.5))
    optimizer, _ = make_optimizer(config, total, params)
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def update(grads, state, params):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for step in range(steps):
        params, state = update(nested(draw(step + 1, scale)), state, params)
        yield dict(leaves(params))
