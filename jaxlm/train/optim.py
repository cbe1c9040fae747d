"""OptimConfig and parameter paths → an optax transformation and its schedule.

    gradient ─ clip by global norm ─ bert_adam | adamw | … ─ × −rate(step) → update

The first update uses `schedule(0)`, which is 0 if there is a warm-up. Rules by path say
for every leaf whether it decays, so a leaf that no rule matches is an error.
Next: `train/step.py` applies the update.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxlm.config import OptimConfig
from jaxlm.sharding import stacked
from jaxlm.tree import match

# Google excludes "LayerNorm|layer_norm|bias": kernels and all three tables decay,
# biases and norms do not.
DECAY = (
    (r".*\b(kernel|table)|(.*/)?layers/projection", True),
    (r".*\b(bias|scale)|mix\w*/weights", False),
)


def make_optimizer(
    config: OptimConfig, steps: int, params: Any, lr_scales: Any = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """(the optimiser of a run, its learning-rate schedule).

    `params` may be shapes. `lr_scales` has a factor of the learning rate for each leaf.
    """
    rate = make_schedule(config, steps)
    b1, b2, eps = config.b1, config.b2, config.eps
    after = optax.identity()
    match config.name:
        case "bert_adam":
            scaled = scale_by_bert_adam(b1, b2, eps)
        case "gpt1_adam":
            scaled = scale_by_bert_adam(b1, b2, eps)
            after = optax.scale_by_schedule(bias_correction(b1, b2))
        case "adamw":
            scaled = optax.scale_by_adam(b1, b2, eps)
        case "lamb":
            scaled = optax.scale_by_adam(b1, b2, eps)
            after = scale_by_layer_trust(stacked(params))
        case "adagrad":
            scaled = optax.scale_by_rss(config.accumulator, eps=0.0)
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    if config.factor != 1:
        clip = optax.chain(optax.scale(config.factor), clip)
    decay = optax.add_decayed_weights(config.weight_decay, match(DECAY, params))
    whole = optax.chain(clip, scaled, decay, after, optax.scale_by_learning_rate(rate))
    if lr_scales is None:
        return whole, rate
    trained = jax.tree.map(lambda scale: bool(np.any(scale)), lr_scales)
    if not all(jax.tree.leaves(trained)):
        whole = optax.masked(whole, trained)  # no moments of what is frozen

    def slowed(update: Any, scale: Any) -> Any:
        # A frozen leaf's is not 0, which would make a 0 of a -0.
        return update * scale if np.any(scale) else jnp.full_like(update, -0.0)

    slow = optax.stateless(lambda updates, _: jax.tree.map(slowed, updates, lr_scales))
    return optax.chain(whole, slow), rate


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Step → learning rate, float32; the last update uses the rate at `steps` − 1.

    linear, cosine  ╱╲   up to peak at `warmup`, down to 0 at `steps`
    linear_kinked   ╱|╲  Google's: the line falls from step 0, warm-up overrides it
    constant        ╱‾   peak after warm-up
    """
    peak, warmup = config.peak, config.warmup_steps(steps)

    def rate(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        # Google's polynomial_decay runs over all steps, the others from the end of
        # warm-up on.
        start = 0 if config.decay == "linear_kinked" else warmup
        # The share left: 1 − the share done would lose float32's digits near the end.
        left = jnp.clip((steps - step) / max(1, steps - start), 0.0, 1.0)
        match config.decay:
            case "linear" | "linear_kinked":
                falling = peak * left
            case "cosine":
                falling = peak * 0.5 * (1.0 - jnp.cos(jnp.pi * left))
            case "constant":
                falling = jnp.full_like(step, peak)
        return jnp.where(step < warmup, peak * (step / max(1, warmup)), falling)

    return rate


def scale_by_bert_adam(
    b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """Adam without bias correction, m / (√v + eps): BERT's `optimization.py`.

    Early updates are up to (1 − b1) / √(1 − b2) = 3.2 times as long as Adam's. The
    learning rates and warm-up of the published recipes were tuned for this.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        # Two trees, not one twice: a train step donates both. There is no count.
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState((), mu, nu)  # type: ignore[arg-type]

    def update(updates: Any, state: Any, params: Any = None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState((), mu, nu)  # type: ignore[arg-type]

    return optax.GradientTransformation(init, update)


def bias_correction(b1: float, b2: float) -> optax.Schedule:
    """Adam's bias correction √(1 − b2ᵗ) / (1 − b1ᵗ) of update t = 1, 2, ….

    It multiplies the learning rate, as in openai/finetune-transformer-lm (opt.py:adam):
    eps is the paper's ε̂, and the correction applies to weight decay too.
    """

    def correction(count: ArrayLike) -> Float[Array, ""]:
        t = jnp.asarray(count, jnp.float32) + 1
        # 1 − bᵗ without the cancellation of the first updates.
        left1, left2 = (-jnp.expm1(t * math.log(b)) for b in (b1, b2))
        return jnp.sqrt(left2) / left1

    return correction


def scale_by_layer_trust(stacked: Any) -> optax.GradientTransformation:
    """Scale updates by LAMB's ratio ‖w‖ / ‖update‖, for each layer of a stacked leaf.

    `stacked` has True for leaves [N, …]. `optax.lamb` would take one ratio over all N
    layers, which differs from the paper. The ratio is 1 if either norm is 0, as in
    optax.
    """

    def trusted(update: Any, param: Any, stacked: bool) -> Any:
        axes = tuple(range(int(stacked), update.ndim))
        w_norm, u_norm = (
            jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
            for x in (param, update)
        )
        usable = (w_norm > 0) & (u_norm > 0)
        return update * jnp.where(usable, w_norm / jnp.where(usable, u_norm, 1.0), 1.0)

    return optax.stateless(
        lambda updates, params: jax.tree.map(trusted, updates, params, stacked)
    )
