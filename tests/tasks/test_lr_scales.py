"""Layer-wise rates and freezing: what a step does to each parameter."""

import jax
import numpy as np
import optax
import pytest

from jaxlm.config import OptimConfig, TaskConfig, bert
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.objective import lr_scales_of, stop_frozen
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import init_params
from jaxlm.tree import leaves
from jaxlm.types import UserError

CONFIG = bert("tiny", vocab_size=20, d_model=8, num_heads=2, d_ff=8, max_length=8)


@pytest.fixture(scope="module")
def params():
    return init_params(TaskModel(CONFIG, TaskConfig(), 2, "pooler"), 0)


def test_a_layer_s_rate_falls_with_its_depth(params):
    task = TaskConfig(layer_decay=0.5)
    scales = dict(leaves(lr_scales_of(task, CONFIG.num_layers, params)))
    assert scales["task/kernel"] == scales["pooler/bias"] == 1
    assert scales["layers/mlp/wi/kernel"].ravel().tolist() == [0.25, 0.5]
    assert scales["embed/token/table"] == 0.125
    assert lr_scales_of(TaskConfig(), CONFIG.num_layers, params) is None


def test_a_second_stack_of_layers_is_scaled_as_the_first(params):
    two = {**params, "second": {"layers": params["layers"], "embed": params["embed"]}}
    task = TaskConfig(layer_decay=0.5)
    scales = dict(leaves(lr_scales_of(task, CONFIG.num_layers, two)))
    for path in ("layers/mlp/wi/kernel", "layers/mlp_norm/bias", "embed/norm/scale"):
        assert np.array_equal(scales[f"second/{path}"], scales[path])
    assert scales["second/layers/mlp/wi/kernel"].shape == (2, 1, 1)


def test_what_is_frozen_keeps_its_bits_under_decay_and_the_rest_learns(params):
    task = TaskConfig(freeze=("embed/.*", "layers/attention/.*"), layer_decay=0.5)
    scales = lr_scales_of(task, CONFIG.num_layers, params)
    config = OptimConfig(name="bert_adam", peak=0.1, warmup=0, decay="constant")
    optimizer, _ = make_optimizer(config, 10, params, scales)

    def loss(params):
        return sum(
            (leaf**2).sum() for leaf in jax.tree.leaves(stop_frozen(params, scales))
        )

    grads = jax.grad(loss)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    after = dict(leaves(optax.apply_updates(params, updates)))
    for path, before in leaves(params):
        frozen = path.startswith(("embed/", "layers/attention/"))
        assert np.array_equal(after[path], before) == (frozen or not np.any(before)), (
            path
        )
    deltas = np.abs(
        after["layers/mlp/wi/kernel"] - dict(leaves(params))["layers/mlp/wi/kernel"]
    )
    assert np.median(deltas[1]) == pytest.approx(2 * np.median(deltas[0]), rel=0.05)


def test_a_selector_that_selects_nothing_is_named(params):
    with pytest.raises(
        UserError, match=r"'embd/.*' matches no parameter; one is embed"
    ):
        lr_scales_of(TaskConfig(freeze=("embd/.*",)), CONFIG.num_layers, params)
