"""Edge probes: what can be read off the frozen states of layers 0 … k.

Tenney et al. (ICLR 2019, ACL 2019), as in jiant 1.3:

    states  →  scalar mix of layers 0 … k  →  linear, 256  →  attention over a span
    span 1, span 2  →  linear, tanh, layer norm, dropout, linear  →  a sigmoid a label

The probes of all k and seeds, of the task and of its control task, are one program over
the same batches: each probe has its own parameters and dropout, and `vmap` does the
rest. Next: `summary.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxlm.keys import hashes, key_for
from jaxlm.probe.edges import Cells
from jaxlm.probe.features import States

WIDTH, DROPOUT, CLIP = 256, 0.3, 5.0
_BUCKET = 256  # rows of a batch are padded to a multiple, so that few programs compile


class Schedule(NamedTuple):
    """How probes are trained, by Adam on batches of sentences.

    The rate falls linearly to 0; that of the mix is `mix` times as high, for it to move
    in so few steps. As published, with `validate` steps between two
    validations on the dev file, it is halved after 5 of them without progress, a probe
    stops after 20, and its best parameters count.
    """

    steps: int = 600
    rate: float = 1e-3
    batch: int = 32
    validate: int = 0
    mix: float = 30.0


PUBLISHED = Schedule(250_000, 1e-4, 32, 1000, 1.0)
_PATIENCE, _STOP, _LEAST, _PROGRESS = 5, 20, 1e-6, 1e-4


class Probes(NamedTuple):
    """P probes: the last layer of its mix, seed and task (1: control) of each."""

    last: np.ndarray
    seed: np.ndarray
    control: np.ndarray

    @classmethod
    def grid(cls, layers: int, seeds: int, control: bool) -> "Probes":
        """All layers, seeds and tasks, in this order."""
        axes = np.arange(layers), np.arange(seeds), np.arange(1 + control)
        return cls(*(each.ravel() for each in np.meshgrid(*axes, indexing="ij")))


class Batch(NamedTuple):
    """Targets of some sentences, and the states of their spans' tokens."""

    states: Shaped[Array, "S Q M D"]  # of S spans; one row a token of a span
    target: Int[Array, "S Q"]  # that a row belongs to; K: padding
    labels: Bool[Array, "2 K Y"]
    valid: Bool[Array, "K"]


class Scored(NamedTuple):
    """What P probes say of T targets."""

    f1: np.ndarray  # [P], binary, over all cells of targets and labels
    right: np.ndarray  # bool [P, T]: all labels of a target


def init(key: Any, sides: int, shape: tuple[int, int], classes: int) -> Any:
    """Parameters of a probe of states [M, D], with PyTorch's initial values."""
    layers, width = shape
    keys = iter(jax.random.split(key, 8))

    def linear(fan_in: int, fan_out: int, *copies: int) -> dict[str, Array]:
        bound = fan_in**-0.5
        shapes = {"kernel": (*copies, fan_in, fan_out), "bias": (*copies, fan_out)}
        return {
            name: jax.random.uniform(next(keys), each, minval=-bound, maxval=bound)
            for name, each in shapes.items()
        }

    return {
        "mix": {"weights": jnp.zeros(layers), "gamma": jnp.ones(())},
        "project": linear(width, WIDTH, sides),
        "attend": linear(WIDTH, 1, sides),
        "hidden": linear(sides * WIDTH, WIDTH),
        "norm": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
        "out": linear(WIDTH, classes),
    }


def mix_of(params: Any, last: Any) -> Float[Array, "M"]:
    """The weights of layers 0 … `last`, which sum to 1; 0 above."""
    weights = params["mix"]["weights"]
    seen = jnp.arange(len(weights)) <= last
    return jax.nn.softmax(jnp.where(seen, weights, -jnp.inf))


def logits_of(params: Any, last: Any, batch: Batch, key: Any = None) -> Array:
    """The logits [K, Y] of one probe; with a key, with dropout."""
    count = len(batch.valid)
    mixed = jnp.einsum("m,sqmd->sqd", mix_of(params, last), batch.states)
    project, attend = params["project"], params["attend"]
    x = params["mix"]["gamma"] * mixed @ project["kernel"] + project["bias"][:, None]
    score = (x @ attend["kernel"] + attend["bias"][:, None])[..., 0]

    def pool(x: Array, score: Array, target: Array) -> Array:
        how = {"num_segments": count + 1, "indices_are_sorted": True}
        most = jax.ops.segment_max(score, target, **how)
        weight = jnp.exp(score - jax.lax.stop_gradient(most)[target])
        total = jax.ops.segment_sum(weight, target, **how)
        share = weight / total[target]
        return jax.ops.segment_sum(x * share[:, None], target, **how)[:-1]

    pooled = jax.vmap(pool)(x, score, batch.target)  # [S, K, 256]
    hidden, norm, out = params["hidden"], params["norm"], params["out"]
    both = jnp.moveaxis(pooled, 0, 1).reshape(count, -1)
    x = jnp.tanh(both @ hidden["kernel"] + hidden["bias"][None])
    x = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    x = x * norm["scale"][None] + norm["bias"][None]
    if key is not None:
        kept = jax.random.bernoulli(key, 1 - DROPOUT, x.shape)
        x = jnp.where(kept, x / (1 - DROPOUT), 0)
    return x @ out["kernel"] + out["bias"][None]


def loss_of(
    params: Any, last: Any, control: Any, batch: Batch, key: Any = None
) -> Array:
    """Binary cross-entropy, the mean over the cells of targets and labels."""
    logits = logits_of(params, last, batch, key)
    labels = batch.labels[control].astype(jnp.float32)
    cells = optax.sigmoid_binary_cross_entropy(logits, labels)
    return (cells.mean(-1) * batch.valid).sum() / batch.valid.sum()


def batch_of(states: States, cells: Cells, sentences: Sequence[int]) -> Batch:
    """The targets of sentences, padded."""
    ranges = [np.arange(cells.sentence[i], cells.sentence[i + 1]) for i in sentences]
    targets = np.concatenate(ranges)
    spans = cells.spans[:, targets]
    sizes = spans[..., 1] - spans[..., 0]
    count = _padded(len(targets))
    rows = _padded(int(sizes.sum(1).max(initial=0)))
    found = np.zeros((len(spans), rows, *states.hidden.shape[1:]), np.float32)
    target = np.full((len(spans), rows), count, np.int32)
    for side, (span, size) in enumerate(zip(spans, sizes, strict=True)):
        first = np.repeat(span[:, 0] - np.cumsum(size) + size, size)
        found[side, : len(first)] = states.hidden[first + np.arange(len(first))]
        target[side, : len(first)] = np.repeat(np.arange(len(size)), size)
    labels = np.zeros((2, count, cells.labels.shape[-1]), bool)
    labels[:, : len(targets)] = cells.labels[:, targets]
    valid = np.arange(count) < len(targets)
    return Batch(*map(jnp.asarray, (found, target, labels, valid)))


def _padded(count: int) -> int:
    return max(1, -(-count // _BUCKET)) * _BUCKET


def _batches(states: States, cells: Cells, size: int) -> Iterator[Batch]:
    """Batches of sentences, in another order in each pass."""
    number, waiting = 0, np.zeros(0, int)
    while True:
        while len(waiting) < size:
            sentences = np.arange(len(cells.sentence) - 1)
            chance = hashes(0, "probe", sentences, np.full_like(sentences, number))
            waiting = np.concatenate([waiting, np.argsort(chance)])
            number += 1
        yield batch_of(states, cells, waiting[:size].tolist())
        waiting = waiting[size:]


def train(
    probes: Probes,
    states: States,
    cells: Cells,
    dev: Callable[[Any], Scored],
    schedule: Schedule,
    tell: Callable[[str], None] = lambda _: None,
) -> Any:
    """The parameters of all probes, stacked; `dev` scores them for a validation."""
    seeds, count = jnp.asarray(probes.seed), len(probes.seed)
    last, control = jnp.asarray(probes.last), jnp.asarray(probes.control)
    sides, classes = len(cells.spans), cells.labels.shape[-1]
    shape = states.hidden.shape[1:]
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.scale_by_adam())

    def start(seed: Array) -> Any:
        params = init(key_for(0, "probe", seed), sides, shape, classes)
        return params, optimizer.init(params)

    def update(params, state, last, control, key, rate, batch):
        gradient = jax.grad(loss_of)(params, last, control, batch, key)
        found: Any = optimizer.update(gradient, state, params)
        change, state = found
        change["mix"] = jax.tree.map(lambda c: schedule.mix * c, change["mix"])
        return jax.tree.map(lambda p, c: p - rate * c, params, change), state

    @jax.jit
    def step(params: Any, state: Any, batch: Batch, number: Array, rates: Array):
        keys = key_for(1, "probe", seeds, jnp.full_like(seeds, number))
        each = params, state, last, control, keys, rates
        return jax.vmap(update, in_axes=(*[0] * 6, None))(*each, batch)

    params, state = jax.vmap(start)(seeds)
    best, best_f1, since = params, np.full(count, -1.0), np.zeros(count, int)
    rates = np.full(count, schedule.rate, np.float32)
    batches = _batches(states, cells, schedule.batch)
    for number in range(schedule.steps):
        if not schedule.validate:
            rates[:] = schedule.rate * (1 - number / schedule.steps)
        now = next(batches), jnp.asarray(number), jnp.asarray(rates)
        params, state = step(params, state, *now)
        if not (number + 1) % 100:
            tell(f"probes: step {number + 1:,} of {schedule.steps:,}")
        if schedule.validate and not (number + 1) % schedule.validate:
            f1 = dev(params).f1
            better = f1 > best_f1 + _PROGRESS
            best = jax.tree.map(partial(_chosen, better), params, best)
            best_f1 = np.where(better, f1, best_f1)
            since = np.where(better, 0, since + 1)
            tired = (since > 0) & (since % _PATIENCE == 0)
            rates = np.where(tired, np.maximum(rates / 2, _LEAST), rates)
            rates = np.where(since >= _STOP, 0, rates).astype(np.float32)
            if not rates.any():
                break
    return best if schedule.validate else params


def _chosen(which: np.ndarray, one: Array, other: Array) -> Array:
    return jnp.where(which.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def scorer(
    probes: Probes, states: States, cells: Cells, scored: np.ndarray, size: int = 32
) -> Callable[[Any], Scored]:
    """A function of stacked parameters that scores them on a file; `scored` [Y] says
    which labels count."""
    last, control = jnp.asarray(probes.last), jnp.asarray(probes.control)
    counted = jnp.asarray(scored)

    def one(params: Any, last: Any, control: Any, batch: Batch):
        said = logits_of(params, last, batch) >= 0
        labels = batch.labels[control]
        counts = batch.valid[:, None] & counted[None]
        hit = (said & labels & counts).sum()
        total = (said & counts).sum() + (labels & counts).sum()
        return hit, total, ((said == labels) | ~counts).all(-1)

    every = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))
    sentences = np.arange(len(cells.sentence) - 1)

    def score(params: Any) -> Scored:
        hits, totals, right = 0, 0, []
        for chosen in np.array_split(sentences, range(size, len(sentences), size)):
            batch = batch_of(states, cells, chosen.tolist())
            hit, total, each = map(np.asarray, every(params, last, control, batch))
            hits, totals = hits + hit, totals + total
            right.append(each[:, np.asarray(batch.valid)])
        return Scored(2 * hits / np.maximum(totals, 1), np.concatenate(right, axis=1))

    return score
