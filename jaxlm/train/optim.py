"""OptimConfig and parameter paths → an optax transformation and its schedule.

    gradient ─ clip by global norm ─ bert_adam | adamw | … ─ × −rate(step) → update

The first update uses `schedule(0)`, which is 0 if there is a warm-up. Rules by path say
for every leaf whether it decays, and whether Muon or Adam trains it, so a leaf that no
rule matches is an error.
Next: `train/step.py` applies the update.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxlm.config import OptimConfig
from jaxlm.mesh import by_matrix
from jaxlm.sharding import scattered, stacked
from jaxlm.tree import leaves, map_with_path, match

# Google excludes "LayerNorm|layer_norm|bias": kernels and all three tables decay,
# biases and norms do not.
DECAY = (
    (r".*\b(kernel|table)|(.*/)?layers/projection", True),
    (r".*\b(bias|scale)|mix\w*/weights", False),
)

# The axes on the input side of a hidden matrix, which Muon trains, beside the axis of
# layers; 0: Adam. As in Jordan et al. 2024, Adam trains what reads tokens or makes
# logits; the dense layers before the heads are hidden matrices.
MUON = (
    (r"(.*/)?layers/attention/(query|key|value)/kernel", 1),  # [N, D, H, K]
    (r"(.*/)?layers/attention/out/kernel", 2),  # [N, H, K, D]
    (r"(.*/)?layers/mlp/(wi|gate|wo)/kernel", 1),  # [N, D, F], [N, F, D]
    (r"(.*/)?(mlm/dense|pooler)/kernel", 1),  # [D, D]
    (r".*\b(table|bias|scale)|(.*/)?(nsp|\w+_head)/kernel", 0),
    (r"(task|attention|body/layer_\d+)/kernel|mix\w*/weights", 0),
)
MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


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
        case "muon":
            inputs = match(MUON, params, families=True)
            muon, adam = (jax.tree.map(f, inputs) for f in (bool, operator.not_))
            scaled = optax.chain(
                optax.masked(scale_by_muon(inputs, stacked(params)), muon),
                optax.masked(optax.scale_by_adam(b1, b2, eps), adam),
            )
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
    wsd, wsd_linear ╱‾╲  peak until `cooldown` before `steps`, then down to 0
    """
    peak, warmup = config.peak, config.warmup_steps(steps)
    cooldown = config.cooldown_steps(steps)

    def rate(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        # Google's polynomial_decay runs over all steps, the others from the end of
        # warm-up on.
        start = 0 if config.decay == "linear_kinked" else warmup
        if config.decay.startswith("wsd"):
            start = max(warmup, steps - cooldown)
        # The share left: 1 − the share done would lose float32's digits near the end.
        left = jnp.clip((steps - step) / max(1, steps - start), 0.0, 1.0)
        match config.decay:
            case "linear" | "linear_kinked" | "wsd_linear":
                falling = peak * left
            case "wsd":
                # 1 − √(1 − left), without its cancellation near the end.
                falling = peak * (left / (1.0 + jnp.sqrt(1.0 - left)))
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

    def frozen(update: Any) -> bool:
        return isinstance(update, optax.MaskedNode)  # it has none

    def trusted(update: Any, param: Any, stacked: bool) -> Any:
        if frozen(update):
            return update
        axes = tuple(range(int(stacked), update.ndim))
        w_norm, u_norm = (
            jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))
            for x in (param, update)
        )
        usable = (w_norm > 0) & (u_norm > 0)
        return update * jnp.where(usable, w_norm / jnp.where(usable, u_norm, 1.0), 1.0)

    return optax.stateless(
        lambda updates, params: jax.tree.map(
            trusted, updates, params, stacked, is_leaf=frozen
        )
    )


def scale_by_muon(inputs: Any, stacked: Any) -> optax.GradientTransformation:
    """Muon: momentum, orthogonalised matrix by matrix by Newton–Schulz iterations.

    Times 0.2 √max(rows, columns), an orthogonal matrix has numbers as large as Adam's
    updates, so that one learning rate and one weight decay serve both (Liu et al. 2025,
    arXiv 2502.16982, who take AdamW's rates; Semenov et al. 2025, 124M: 1e-3).

    Args:
        inputs: the number of axes on the input side of each leaf, see `MUON`.
        stacked: True for leaves [N, …], of N matrices.
    """
    axes, many = dict(leaves(inputs)), dict(leaves(stacked))

    def init(params: Any) -> optax.EmaState:
        return optax.EmaState(
            jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)
        )

    def update(updates: Any, state: Any, params: Any = None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.ema, MOMENTUM, 1)
        # As in optax: Nesterov's step ahead, of means without bias.
        ahead = jax.tree.map(
            lambda m, g: MOMENTUM * m + (1 - MOMENTUM) * g,
            optax.tree.bias_correction(mu, MOMENTUM, count + 1),
            optax.tree.bias_correction(updates, MOMENTUM, count),
        )
        return orthogonal(ahead), optax.EmaState(count, mu)

    def orthogonal(tree: Any) -> Any:
        """Matrices of one shape, and their transposes, are one stack."""
        shapes: dict[tuple[int, int], list[str]] = {}
        wide = {}
        for path, leaf in leaves(tree):
            first = int(many[path])
            rows = math.prod(leaf.shape[first : first + axes[path]])
            x = leaf.reshape(leaf.shape[0] if first else 1, rows, -1)
            wide[path] = x.swapaxes(1, 2) if x.shape[1] > x.shape[2] else x
            shapes.setdefault(wide[path].shape[1:], []).append(path)
        for shape, paths in shapes.items():
            x = jnp.concatenate([wide[path] for path in paths])
            x = by_matrix(newton_schulz, x) * (0.2 * math.sqrt(max(shape)))
            ends = np.cumsum([len(wide[path]) for path in paths])[:-1]
            wide |= zip(paths, jnp.split(x, ends), strict=True)

        def back(path: str, leaf: Any) -> Any:
            first, x = int(many[path]), wide[path]
            rows = math.prod(leaf.shape[first : first + axes[path]])
            x = x if x.shape[1] == rows else x.swapaxes(1, 2)
            return x.reshape(leaf.shape)

        return scattered(map_with_path(back, tree))

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


@jax.named_scope("newton_schulz")
def newton_schulz(x_NRC: Any) -> Any:
    """Nearly orthogonal matrices: U Vᵀ of each matrix U S Vᵀ, with other S near 1."""
    muon = optax.contrib.scale_by_muon(
        (_QUINTIC,) * 5,  # in a loop, which is much less code than five iterations
        beta=0.0,
        nesterov=False,
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(1, 2),
    )
    return muon.update(x_NRC, muon.init(x_NRC))[0]
