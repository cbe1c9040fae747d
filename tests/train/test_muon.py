"""Muon against optax's and torch's, and the rules that say what it trains."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from known_gradients import SHAPES, draw, run

from jaxlm.config import OptimConfig, TaskConfig, load_config
from jaxlm.families import build
from jaxlm.tasks.model import OWN, TaskModel
from jaxlm.train.optim import MUON as RULES
from jaxlm.train.optim import make_optimizer
from jaxlm.train.state import abstract_params
from jaxlm.tree import leaves, match
from jaxlm.types import UserError

# Hidden matrices: the axes on their input side.
MATRICES = {
    **{f"layers/attention/{name}/kernel": 1 for name in ("query", "key", "value")},
    "layers/attention/out/kernel": 2,
    "layers/mlp/wi/kernel": 1,
    "layers/mlp/wo/kernel": 1,
    "pooler/kernel": 1,
    "mlm/dense/kernel": 1,
}
MUON = OptimConfig(name="muon", peak=1e-2, warmup=0, decay="constant", clip=0.0)


def each_matrix(path: str, leaf) -> list:
    """The matrices of a leaf, [inputs, outputs] each."""
    layers = leaf if path.startswith("layers/") else leaf[None]
    inputs = math.prod(layers.shape[1 : 1 + MATRICES[path]])
    return [layer.reshape(inputs, -1) for layer in layers]


def test_muon_is_optaxs_of_one_matrix_at_a_time_and_adamw_the_rest():
    theirs = optax.contrib.muon(1e-2, weight_decay=0.01, consistent_rms=0.2)
    start = draw(0, 0.5)
    alone = {
        (path, n): (jnp.asarray(matrix), theirs.init(jnp.asarray(matrix)))
        for path in MATRICES
        for n, matrix in enumerate(each_matrix(path, start[path]))
    }
    adamw = run(dataclasses.replace(MUON, name="adamw"), 4, 10)
    for step, (ours, others) in enumerate(zip(run(MUON, 4, 10), adamw, strict=True)):
        grads = draw(step + 1)
        for path in SHAPES.keys() - MATRICES.keys():
            np.testing.assert_array_equal(ours[path], others[path], err_msg=path)
        for (path, n), (matrix, state) in alone.items():
            grad = each_matrix(path, grads[path])[n]
            updates, state = theirs.update(grad, state, matrix)
            matrix = optax.apply_updates(matrix, updates)
            alone[path, n] = matrix, state
            mine = each_matrix(path, np.asarray(ours[path]))[n]
            np.testing.assert_allclose(mine, matrix, rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.oracle
def test_a_first_step_of_muon_is_torchs():
    """torch orthogonalises in bfloat16, and starts its momentum without correction."""
    import torch

    before, grads = draw(0, 0.5), draw(1)
    (ours,) = run(MUON, 1, 10)
    for path in MATRICES:
        for n, matrix in enumerate(each_matrix(path, before[path])):
            theirs = torch.nn.Parameter(torch.tensor(matrix))
            theirs.grad = torch.tensor(each_matrix(path, grads[path])[n])
            how = {"lr": 1e-2, "weight_decay": 0.01}
            torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **how).step()
            moved = each_matrix(path, np.asarray(ours[path]))[n] - matrix
            expected = theirs.detach().numpy() - matrix
            assert np.abs(moved - expected).max() < 0.1 * np.abs(expected).max()


def test_a_parameter_without_a_rule_of_muons_is_an_error_that_names_it():
    params = {"layers": {"mlp": {"other": {"kernel": jnp.ones((2, 4, 4))}}}}
    with pytest.raises(ValueError, match="layers/mlp/other/kernel matches no rule"):
        make_optimizer(MUON, 10, params)


ENCODERS = "bert_tiny", "bert_modern_tiny", "roformer_tiny", "ernie_dialogue_tiny"


@pytest.mark.parametrize("name", [*ENCODERS, "gpt2_tiny", "gpt1"])
def test_muon_trains_the_hidden_matrices_of_every_transformer(name):
    params = abstract_params(build(load_config(name).model))
    trained = {path for path, n in leaves(match(RULES, params, families=True)) if n}
    kernels = {path for path, _ in leaves(params) if path.endswith("/kernel")}
    assert trained == kernels - {"nsp/kernel"}


def test_muon_leaves_what_a_task_adds_to_adam():
    fields = TaskConfig(body="bilstm", mix="both", pooling="attention")
    module = TaskModel(load_config("bert_tiny").model, fields, 2, "attention")
    found = match(RULES, abstract_params(module), families=True)
    assert not any(n for path, n in leaves(found) if path.split("/")[0] in OWN)


def test_muon_is_refused_for_an_elmo():
    elmo = load_config("elmo_tiny")
    with pytest.raises(UserError, match="muon is for transformers"):
        dataclasses.replace(elmo, optim=MUON)
