"""Gpt equals transformers' GPT-1 and GPT-2: outputs, loss and every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.gpt import Gpt, head_rows
from jaxlm.models.kernels.head import head_cross_entropy
from tools import goldens_gpt as goldens


def ours(config, params, tokens):
    """Outputs, and loss and gradients through the chunked head."""
    module = Gpt(config)
    tokens = jnp.asarray(tokens, jnp.int32)

    def loss(params):
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        out = module.apply({"params": params}, inputs, logits=False)
        total, weight, _ = head_cross_entropy(
            out.last,
            out.table,
            targets,
            jnp.ones(targets.shape),
            classes=head_rows(config),
            at_once=700,
        )
        return total / weight

    out = jax.jit(module.apply)({"params": params}, tokens)
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    padding = np.asarray(grads["embed"]["token"]["table"])[config.vocab_size :]
    assert not padding.any()
    return {
        "hidden": out.hidden,
        "logits": out.logits,
        "loss": value,
        **{f"grads/{k}": v for k, v in goldens.tensors(config, grads).items()},
    }


def assert_equal(mine, theirs, width):
    assert set(mine) == set(theirs)
    for name, want in theirs.items():
        got, want = np.asarray(mine[name]), np.asarray(want)
        if name.endswith("c_attn.bias"):
            # Softmax ignores what all keys share: zero in exact arithmetic.
            got, want = (np.delete(x, np.s_[width : 2 * width]) for x in (got, want))
        worst = np.abs(got - want).max() / np.abs(want).max()
        assert worst < 1e-5, f"{name}: {worst:.1e} relative"


@pytest.mark.parametrize("name", goldens.CASES)
def test_outputs_and_gradients_equal_the_stored_goldens(name):
    config = goldens.CASES[name]
    mine = ours(
        config, goldens.random_params(config), goldens.random_tokens(config, 3, 11)
    )
    with np.load(goldens.FOLDER / f"{name}.npz") as file:
        assert_equal(mine, dict(file), config.d_model)


@pytest.mark.oracle
@pytest.mark.parametrize("name", goldens.CASES)
def test_outputs_and_gradients_equal_transformers_live(name):
    config = goldens.CASES[name]
    params = goldens.random_params(config, seed=5)
    tokens = goldens.random_tokens(config, 2, 13, seed=7)
    theirs = goldens.transformers_results(config, params, tokens)
    assert_equal(ours(config, params, tokens), theirs, config.d_model)
