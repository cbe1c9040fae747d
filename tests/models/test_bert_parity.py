"""Bert equals transformers' BertForPreTraining: outputs, loss and every gradient."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.config import load_config
from jaxlm.losses import cross_entropy
from jaxlm.models.bert import Bert
from jaxlm.tree import is_padded, leaves
from tools import goldens

CASES = ("gelu_erf", "gelu_tanh", "relu")
OUTPUTS = ("hidden", "pooled", "logits", "nsp_logits")


def ours(config, params, batch, **module):
    """Outputs at all positions, and loss and gradients through the gathered head."""
    model = Bert(config, **module)
    inputs = (batch.tokens, batch.token_types)
    lengths = batch.mask.sum(1)

    def loss(params):
        out = model.apply(
            {"params": params}, *inputs, batch.predictions, lengths=lengths
        )
        mlm = cross_entropy(out.logits, batch.targets, batch.weights)
        nsp = cross_entropy(out.nsp_logits, batch.nsp_labels, batch.nsp_weights)
        return mlm.loss / mlm.weight + nsp.loss / nsp.weight

    out = jax.jit(model.apply)({"params": params}, *inputs, lengths=lengths)
    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    outputs = {name: getattr(out, name) for name in OUTPUTS}
    return {**outputs, "loss": value, "grads": dict(leaves(grads))}


def assert_equal(mine, theirs, real_BL):
    for name in ("hidden", "logits"):  # positions that pad are nobody's business
        mine[name] = np.asarray(mine[name])[..., real_BL, :]
        theirs[name] = theirs[name][..., real_BL, :]
    for name in (*OUTPUTS, "loss"):
        worst = np.abs(mine[name] - theirs[name]).max() / np.abs(theirs[name]).max()
        assert worst < 1e-5, f"{name}: {worst:.1e} relative"
    scale = max(np.abs(g).max() for g in theirs["grads"].values())
    assert set(mine["grads"]) == set(theirs["grads"])
    words = theirs["logits"].shape[-1]
    for path, grad in theirs["grads"].items():
        if is_padded(path):  # the rows that pad it are in no file
            rest = mine["grads"][path][words:]
            assert not rest.any()
            mine["grads"][path] = mine["grads"][path][:words]
            grad = grad[:words]
        size = np.abs(grad).max()
        if path == "layers/attention/key/bias":
            # Softmax ignores what all keys share: zero in exact arithmetic.
            assert np.abs(mine["grads"][path]).max() < 1e-6 * scale
            continue
        worst = np.abs(mine["grads"][path] - grad).max() / size
        assert worst < 1e-5, f"gradient of {path}: {worst:.1e} of {size:.1e}"


@pytest.mark.parametrize("activation", CASES)
def test_outputs_and_gradients_equal_the_stored_goldens(activation):
    config, params, batch = goldens.case(activation)
    with np.load(goldens.FOLDER / f"bert_{activation}.npz") as file:
        stored = dict(file)
    grads = {
        path.removeprefix("grads/"): stored.pop(path)
        for path in list(stored)
        if path.startswith("grads/")
    }
    theirs = {**stored, "grads": grads}
    assert_equal(ours(config, params, batch), theirs, np.asarray(batch.mask))


@pytest.mark.oracle
@pytest.mark.parametrize("activation", CASES)
def test_outputs_and_gradients_equal_transformers_live(activation):
    config, params, _ = goldens.case(activation)
    batch = goldens.random_batch(config, batch=4, length=13, predictions=3, seed=7)
    theirs = goldens.transformers_results(config, params, batch)
    theirs["grads"] = dict(leaves(theirs["grads"]))
    assert_equal(ours(config, params, batch), theirs, np.asarray(batch.mask))


@pytest.mark.oracle
def test_an_ernie_equals_transformers_ernie_live():
    """ReLU, eps 1e-5, 513 positions and rows that no word has: the release's."""
    published = load_config("ernie1").model
    small = {"vocab_size": 61, "num_layers": 2, "num_heads": 2, "d_model": 16}
    config = dataclasses.replace(published, **small, d_ff=24, dropout=0.0)
    assert (config.activation, config.norm_eps, config.max_length) == (
        "relu",
        1e-5,
        513,
    )
    params = goldens.random_params(config)
    batch = goldens.random_batch(config, batch=4, length=13, predictions=3, seed=7)
    theirs = goldens.transformers_results(config, params, batch, family="Ernie")
    theirs["grads"] = dict(leaves(theirs["grads"]))
    assert_equal(ours(config, params, batch), theirs, np.asarray(batch.mask))


@pytest.mark.oracle
def test_the_weight_table_goes_both_ways():
    config, params, _ = goldens.case("gelu_erf")
    state = goldens.to_transformers(config, params).state_dict()
    back = goldens.from_transformers(config, {k: v.numpy() for k, v in state.items()})
    for (path, a), (_, b) in zip(leaves(params), leaves(back), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
