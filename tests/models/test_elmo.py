"""ELMo reads on where it stopped, peeks nowhere, and has the paper's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.small_elmo import (
    LENGTHS,
    READ,
    TABLE,
    TINY,
    WORDS,
    B,
    L,
    assert_close,
    batch,
    random_params,
    random_state,
)
from tiny import stored

from jaxlm.config import RunConfig, elmo
from jaxlm.families import build, num_parameters
from jaxlm.models.elmo import Elmo, State, head_rows, largest_windows
from jaxlm.models.flops import elmo_forward_flops
from jaxlm.tree import leaves
from jaxlm.types import UserError

# --- reading --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    """(params, out of all arguments of `__call__` but the parameters)."""
    module, params = Elmo(TINY), random_params(TINY)
    call = jax.jit(
        lambda *args, **options: module.apply({"params": params}, *args, **options)
    )
    return params, call


def test_two_halves_read_forwards_as_the_whole(run):
    _, call = run
    words = batch()
    whole = call(TABLE[words])
    first = call(TABLE[words[:, :2]])
    second = call(TABLE[words[:, 2:]], first.carry)
    halves = np.concatenate([first.hidden, second.hidden], axis=2)
    d = TINY.d_model
    np.testing.assert_allclose(halves[..., :d], whole.hidden[..., :d], atol=1e-5)
    assert np.abs(halves[1:, ..., d:] - whole.hidden[1:, ..., d:]).max() > 0.01
    np.testing.assert_allclose(
        second.carry.cell[:, :, 0], whole.carry.cell[:, :, 0], atol=1e-6
    )


def test_rows_of_the_state_that_are_not_in_the_batch_stay(run):
    _, call = run
    state = random_state(TINY, B + 2)
    few = State(*(x[:B] for x in state))
    long, short = (call(TABLE[batch()], s).carry for s in (state, few))
    for before, after, want in zip(state, long, short, strict=True):
        np.testing.assert_array_equal(after[B:], before[B:])
        np.testing.assert_array_equal(after[:B], want)


def test_padding_does_not_touch_what_is_read(run):
    _, call = run
    words, state = batch(), random_state(TINY)
    out = call(TABLE[words], state, lengths=READ)
    for b, n in enumerate(LENGTHS):
        assert not np.asarray(out.hidden[:, b, n:]).any()
        if n:
            alone = call(
                TABLE[words[b : b + 1, :n]],
                jax.tree.map(lambda x, b=b: x[b : b + 1], state),
            )
            np.testing.assert_allclose(
                out.hidden[:, b, :n], alone.hidden[:, 0], atol=1e-5
            )
    for before, after in zip(state, out.carry, strict=True):
        np.testing.assert_array_equal(after[LENGTHS.index(0)], before[2])


def test_neither_direction_peeks(run):
    _, call = run
    words, d = batch(), TINY.d_model
    for at in range(L):
        other = words.at[:, at].set((words[:, at] + 1) % len(WORDS))
        moved = np.abs(call(TABLE[words]).hidden - call(TABLE[other]).hidden)
        moved = moved[1:].max(axis=(0, 1))
        forward, back = moved[:, :d].max(1) > 0, moved[:, d:].max(1) > 0
        assert forward.tolist() == [t >= at for t in range(L)]
        assert back.tolist() == [t <= at for t in range(L)]


def test_two_texts_in_their_own_order_are_one_text_in_both(run):
    params, call = run
    words, state = batch(), random_state(TINY)
    both = call(TABLE[words], state)
    read = jax.jit(
        lambda *args: Elmo(TINY).apply({"params": params}, *args, method="read")
    )(TABLE[jnp.stack([words, words[:, ::-1]])], state)
    hidden = np.concatenate([read.hidden[:, 0], read.hidden[:, 1, :, ::-1]], axis=-1)
    np.testing.assert_allclose(hidden, both.hidden, atol=1e-5)
    np.testing.assert_array_equal(read.last, read.hidden[-1])
    scores = read.last @ read.head.table.T + read.head.bias.reshape(1, 1, 1, -1)
    scores = np.stack([scores[0], scores[1, :, ::-1]])[..., : TINY.vocab_size]
    np.testing.assert_allclose(scores, both.logits, atol=1e-5)


# --- parameters -----------------------------------------------------------------------


def shapes_of(config):
    module = build(config)
    return jax.eval_shape(
        lambda: module.init(jax.random.key(0), *module.example())["params"]
    )


@pytest.mark.parametrize(
    "size, encoder", [("original", 93_600_848), ("small", 13_593_296)]
)
def test_published_sizes(size, encoder):
    config = elmo(size)
    shapes = shapes_of(config)
    head = shapes.pop("softmax")
    assert num_parameters(shapes) == encoder
    softmax = 793_471 * (config.d_model + 1)
    assert num_parameters({**shapes, "softmax": head}, config) == encoder + softmax


def test_names_and_shapes():
    names = {path: leaf.shape for path, leaf in leaves(shapes_of(TINY))}
    assert names == {
        "layers/bias": (2, 2, 4, 9),
        "layers/kernel": (2, 2, 12, 4, 9),
        "layers/projection": (2, 2, 9, 6),
        "softmax/bias": (128,),
        "softmax/table": (128, 6),
        "words/embed/table": (261, 4),
        "words/filters_1/bias": (3,),
        "words/filters_1/kernel": (1, 4, 3),
        "words/filters_3/bias": (5,),
        "words/filters_3/kernel": (3, 4, 5),
        "words/highways/carry/bias": (2, 8),
        "words/highways/carry/kernel": (2, 8, 8),
        "words/highways/transform/bias": (2, 8),
        "words/highways/transform/kernel": (2, 8, 8),
        "words/projection/bias": (6,),
        "words/projection/kernel": (8, 6),
    }
    without = shapes_of(elmo("tiny", **{**vars(TINY), "vocab_size": 0}))
    assert "softmax" not in without


def test_weights_start_as_the_originals():
    config = elmo("tiny", vocab_size=300)
    module = Elmo(config)
    params = jax.jit(module.init)(jax.random.key(1), *module.example())["params"]
    d, f, total = config.d_model, config.d_ff, sum(config.filters)
    root3 = 3**0.5
    wanted = {  # mean, deviation
        "layers/bias": (0, 0),
        "layers/kernel": (0, (6 / (2 * d + 4 * f)) ** 0.5 / root3),
        "layers/projection": (0, (6 / (d + f)) ** 0.5 / root3),
        "softmax/bias": (0, 0),
        "softmax/table": (0, (300 / head_rows(config) / d) ** 0.5),
        "words/embed/table": (0, 1 / root3),
        "words/highways/carry/bias": (-2, 0),
        "words/highways/carry/kernel": (0, total**-0.5),
        "words/highways/transform/bias": (0, 0),
        "words/highways/transform/kernel": (0, total**-0.5),
        "words/projection/bias": (0, 0),
        "words/projection/kernel": (0, total**-0.5),
    }
    for width in range(1, 6):
        wanted[f"words/filters_{width}/bias"] = (0, 0)
        wanted[f"words/filters_{width}/kernel"] = (0, 0.05 / root3)
    got = dict(leaves(params))
    assert set(got) == set(wanted)
    for path, (mean, deviation) in wanted.items():
        x = np.asarray(got[path])
        noise = 5 * deviation / x.size**0.5
        assert abs(x.mean() - mean) <= noise, path
        assert abs(x.std() - deviation) <= noise, path
    assert not np.asarray(params["softmax"]["table"][300:]).any()


def test_flops_of_the_original_with_its_sampled_softmax():
    # facts: 110.5M products a token, 663 MFLOP forward and backward.
    flops = 3 * elmo_forward_flops(elmo("original"), length=20, classes=8192) / 20
    assert round(flops / 1e6) == 663


def test_a_config_survives_json_and_refuses_what_is_no_elmo():
    config = RunConfig(model=elmo("tiny"))
    assert stored(config) == config
    for changes, message in (
        ({"filters": ()}, r"model.filters = \(\) are not numbers"),
        ({"filters": (0, 0)}, r"model.filters = \(0, 0\) are not numbers"),
        ({"filters": (1,) * 51}, "must be at least 3 and the widest filter 51"),
        ({"max_characters": 2}, "model.max_characters = 2 must be at least 3"),
        ({"d_ff": 0}, r"model.d_ff = 0 is not in \[1, "),
        ({"cell_clip": -1.0}, "model.cell_clip = -1.0 must be at least 0"),
        ({"dropout": 1.0}, "model.dropout = 1.0 is not in"),
    ):
        with pytest.raises(UserError, match=message):
            elmo("tiny", **changes)


# --- training -------------------------------------------------------------------------


def test_the_skip_carries_the_dropped_input_and_the_softmax_its_own():
    config = elmo("tiny", **{**vars(TINY), "dropout": 0.5})
    params = random_params(config)
    # The upper layer gives nothing: what leaves it is what its skip carries.
    layers = params["layers"]
    layers["projection"] = layers["projection"].at[1].set(0)
    read = Elmo(config).apply(
        {"params": params},
        TABLE[jnp.stack([batch(), batch(seed=2)])],
        method="read",
        deterministic=False,
        rngs={"dropout": jax.random.key(0)},
    )
    words, lower, upper, last = (np.asarray(x) for x in (*read.hidden, read.last))
    plain = Elmo(config).apply({"params": params}, TABLE[batch()], logits=False)
    np.testing.assert_allclose(
        words[0], plain.hidden[0, ..., : config.d_model], atol=1e-5
    )
    for before, after in ((lower, upper), (upper, last)):
        kept = after != 0
        np.testing.assert_allclose(after[kept], 2 * before[kept], rtol=1e-6)
        share = kept[before != 0].mean()
        assert 0.35 < share < 0.65, share


@pytest.mark.parametrize("choice", [{"remat": "full"}, {"dtype": jnp.bfloat16}])
def test_other_ways_to_compute_give_the_same_gradient(choice):
    params, words = random_params(TINY), batch()

    def gradient(**choices):
        module = build(TINY, **choices)

        def loss(params):
            out = module.apply({"params": params}, TABLE[words], lengths=READ)
            return (out.logits**2).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    (loss, grads), (want, wanted) = gradient(**choice), gradient()
    within = 1e-6 if "remat" in choice else 0.1
    assert_close(loss, want, within=within)
    norm = lambda tree: sum((x**2).sum() for x in jax.tree.leaves(tree)) ** 0.5  # noqa: E731
    assert norm(jax.tree.map(jnp.subtract, grads, wanted)) < within * norm(wanted)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_words_of_another_number_of_characters_are_refused(run):
    _, call = run
    with pytest.raises(ValueError, match="8 characters a word, model"):
        call(TABLE[batch()][..., :8])


def test_the_convolution_over_characters_is_a_plain_one_and_its_maximum():
    """In value and gradient, without keeping the outputs of all windows."""
    random = np.random.default_rng(0)
    x_CnE = jnp.asarray(random.standard_normal((9, 2, 5, 4)), jnp.float32)
    kernel_WEO = jnp.asarray(random.standard_normal((3, 4, 6)), jnp.float32)

    def plain(x, kernel):
        windows = jnp.stack([x[k : k + 7] for k in range(3)], axis=-2)
        return jnp.einsum("cabwe,weo->cabo", windows, kernel).max(0)

    def loss(largest, x, kernel):
        out = largest(x, kernel)
        return (out * jnp.cos(out)).sum()

    for mine, theirs in zip(
        jax.grad(loss, (1, 2))(largest_windows, x_CnE, kernel_WEO),
        jax.grad(loss, (1, 2))(plain, x_CnE, kernel_WEO),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
    _, pull = jax.eval_shape(
        lambda *given: jax.vjp(largest_windows, *given), x_CnE, kernel_WEO
    )
    kept = [each.size for each in jax.tree.leaves(pull)]
    assert kept and max(kept) == x_CnE.size < 7 * 2 * 5 * 6
