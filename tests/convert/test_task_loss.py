"""The loss of a task and all its gradients, beside those of transformers and torch.

Their model is read from our own export, so that goes the same way.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, random_params, tokenizer_of

from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.convert.model_types import BERT, model_type_of
from jaxlm.convert.rules import ModelFile, TensorTable, module_rules
from jaxlm.convert.task_head import export_task
from jaxlm.metrics import scales
from jaxlm.tasks.batches import TaskBatch
from jaxlm.tasks.classes import Choice
from jaxlm.tasks.model import TaskModel
from jaxlm.tasks.objective import task_objective
from jaxlm.train.state import init_params

LABELS = np.array([1, 0, 0], np.int32)


def alternatives(config, lengths):
    """A batch of that many tokens in each row; the last example only fills it."""
    random = np.random.RandomState(3)
    length = int(np.max(lengths))
    mask = np.arange(length) < np.asarray(lengths)[..., None]
    tokens = random.randint(5, config.vocab_size, mask.shape) * mask
    types = (np.arange(length) >= 3) & mask
    weights = np.array([1, 1, 0], np.float32)
    tokens, types = tokens.astype(np.int32), types.astype(np.int32)
    return TaskBatch(*map(jnp.asarray, (tokens, types, mask, LABELS, weights)))


def ours(config, batch, pooling, lm_weight):
    """Parameters, what a step minimises, and its gradient."""
    fields = TaskConfig(lm_weight=lm_weight)
    module = TaskModel(config, fields, 1, pooling, "choose")
    shape = init_params(module, 0)
    params = {
        **random_params(config),
        "task": jax.tree.map(lambda x: x * 9, shape["task"]),
    }
    params = {name: params[name] for name in shape}
    task = Choice(FinetuneConfig(task=fields), tokenizer_of(CONFIGS["gpt2"]))
    objective = task_objective(module, task, None)

    def loss(params):
        sums, _ = objective.loss(params, batch)
        weights, scale = objective.weights(batch), scales(objective.figures)
        parts = [scale[k] * sums[k].total / weights[k] for k in weights]
        return sum(parts), sums

    (value, sums), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return params, value, sums, grads


def tensors(rules, params):
    """As their file has them."""
    table = TensorTable(rules, params)
    source = ModelFile.of(CONFIGS["gpt2"], table, params)
    return {name: source.read(name) for name in table.shapes}


def assert_gradients(mine, model, heads):
    theirs = {
        name.removeprefix("transformer.").removeprefix("bert."): each.grad.numpy()
        for name, each in model.named_parameters()
        if each.grad is not None
    }
    assert mine.keys() == theirs.keys()
    scale = max(np.abs(each).max() for each in theirs.values())
    for name, want in theirs.items():
        worst = np.abs(mine[name] - want).max() / scale
        assert worst < 2e-5, f"{name}: {worst:.1e}"
    assert all(np.abs(theirs[f"{each}.weight"]).max() > 0 for each in heads)


@pytest.mark.oracle
def test_a_bert_s_choice_is_that_of_transformers(tmp_path):
    import torch
    import transformers

    config = CONFIGS["bert"]
    batch = alternatives(config, [[9, 5, 7], [4, 8, 6], [5, 5, 5]])
    params, value, _, grads = ours(config, batch, "pooler", 0.0)
    task = TaskConfig(kind="choice", choices=("a",), labels=("0", "1", "2"))
    export_task(tmp_path / "m", config, task, params, tokenizer_of(config), origin={})
    model, report = transformers.AutoModelForMultipleChoice.from_pretrained(
        tmp_path / "m", output_loading_info=True
    )
    assert type(model).__name__ == "BertForMultipleChoice"
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens, types, mask = (torch.tensor(np.asarray(x)[:2]) for x in batch[:3])
    out = model.eval()(
        input_ids=tokens.long(),
        token_type_ids=types.long(),
        attention_mask=mask,
        labels=torch.tensor(LABELS[:2]).long(),
    )
    out.loss.backward()
    assert abs(float(value) - out.loss.item()) < 1e-5
    rules = BERT.rules(config, params)
    rules += module_rules({"task": "classifier"}, transpose=True)
    assert_gradients(tensors(rules, grads), model, ["classifier", "pooler.dense"])


@pytest.mark.oracle
@pytest.mark.parametrize("one_matrix", [False, True])
@pytest.mark.parametrize("name", ["gpt1", "gpt2"])
def test_a_gpt_s_choice_and_language_are_those_of_its_release(
    name, one_matrix, tmp_path
):
    """openai/finetune-transformer-lm train.py `model` and `mgpu_train`, in torch.

    Two alternatives a row; its softmax over words is over tokens, specials and
    positions where these are one matrix.
    """
    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    config = CONFIGS[name]
    size = config.vocab_size + 3
    config = dataclasses.replace(config, vocab_size=size, one_matrix=one_matrix)
    batch = alternatives(config, [[9, 5], [4, 8], [5, 5]])
    params, value, sums, grads = ours(config, batch, "last", 0.5)
    task = TaskConfig(kind="choice", choices=("a",), labels=("0", "1"), pooling="last")
    export_task(
        tmp_path / "m", config, task, params, tokenizer_of(CONFIGS[name]), origin={}
    )
    stem = {"gpt1": "OpenAIGPT", "gpt2": "GPT2"}[name]
    kind = getattr(transformers, f"{stem}DoubleHeadsModel")
    model, report = kind.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    x, mask = (torch.tensor(np.asarray(each)[:2]) for each in (batch[0], batch[2]))
    last = mask.sum(-1) - 1
    out = model.eval()(x.long(), mc_token_ids=last, output_hidden_states=True)
    clf_loss = cross_entropy(out.mc_logits, torch.tensor(LABELS[:2]).long())
    table = model.get_input_embeddings().weight
    if one_matrix:
        inner = model.transformer
        positions = inner.wpe if name == "gpt2" else inner.positions_embed
        table = torch.cat([table, positions.weight])
    x, m = x.reshape(-1, x.shape[-1]).long(), mask.reshape(-1, mask.shape[-1]).float()
    h = out.hidden_states[-1].reshape(*x.shape, -1)
    logits = h[:, :-1] @ table.T
    each = cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none")
    lm_losses = (each * m[:, 1:]).sum(1) / m[:, 1:].sum(1)
    loss = clf_loss + 0.5 * lm_losses.mean()
    loss.backward()
    assert abs(float(value) - loss.item()) < 1e-5
    total, weight = sums["lm_loss"]
    assert abs(float(weight) - 4) < 1e-5
    assert abs(float(total / weight) - lm_losses.mean().item()) < 1e-5
    hit = (logits.argmax(-1) == x[:, 1:]).float() * m[:, 1:]
    share = (hit.sum(1) / m[:, 1:].sum(1)).mean()
    assert abs(float(sums["lm_accuracy"].total) / 4 - share.item()) < 1e-5
    rules = model_type_of(config).rules(config, params)
    head = "multiple_choice_head.summary"
    rules += module_rules({"task": head}, transpose=True)
    assert_gradients(tensors(rules, grads), model, [head])
