"""An ELMo of a few cells, with words, states and parameters to try it on."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.config import elmo
from jaxlm.models.elmo import Elmo, State, zero_state
from jaxlm.text.characters import word_characters

B, L = 3, 5
LENGTHS = (5, 2, 0)
READ = jnp.asarray(LENGTHS)
TINY = elmo(
    "tiny",
    vocab_size=7,
    d_model=6,
    d_ff=9,
    d_character=4,
    max_characters=9,
    filters=(3, 0, 5),
    num_highways=2,
    cell_clip=0.4,
    proj_clip=0.3,
)
WORDS = [
    *("a", "bc", "Die", "Katze", "好", "好猫", "<S>", "</S>", "overlong-word", "!")
]
TABLE = jnp.asarray(word_characters(WORDS, slots=TINY.max_characters), jnp.int32)


def random_params(config, seed=0):
    """Like a trained model's: nothing zero, clips at work."""
    module = Elmo(config)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), *module.example())["params"]
    )
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.7, leaf.shape), jnp.float32), shapes
    )


def random_state(config, rows=B):
    random = np.random.default_rng(3)
    return State(
        *(jnp.asarray(random.normal(0, 0.2, x.shape)) for x in zero_state(config, rows))
    )


def batch(rows=B, length=L, seed=1):
    ids = np.random.default_rng(seed).integers(0, len(WORDS), (rows, length))
    return jnp.asarray(ids, jnp.int32)


def mask_of(lengths, length=L):
    return jnp.arange(length)[None] < jnp.asarray(lengths)[:, None]


def assert_close(a, b, path="", within=1e-5):
    worst = np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()
    assert worst < within, f"{path}: {worst:.1e}"
