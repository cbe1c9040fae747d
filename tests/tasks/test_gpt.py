"""GPT-1's rows, the two orders, the language of the rows, alternatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, random_params, tokenizer_of

from jaxlm.config import FinetuneConfig, TaskConfig
from jaxlm.metrics import scales
from jaxlm.tasks.batches import TaskBatch, padded_batch
from jaxlm.tasks.finetune import FinetuneRun, module_of, task_of
from jaxlm.tasks.objective import next_token_weights, task_objective
from jaxlm.tasks.tables import Example
from jaxlm.tasks.task import NONE, File, TaskRows
from jaxlm.train.state import Pretrained, init_params, merge

VOCABULARY = CONFIGS["gpt2"].vocab_size
START, DELIMITER, EXTRACT = range(VOCABULARY, VOCABULARY + 3)
TEXTS = ("She was out.", "of the house")


def config_of(name="gpt2", length=40, **task):
    model = dataclasses.replace(CONFIGS[name], vocab_size=CONFIGS[name].vocab_size + 3)
    task = TaskConfig(**{"pooling": "last", "labels": ("0", "1"), **task})
    return FinetuneConfig(model=model, task=task, length=length)


def example(text, pair=None, label="0", choices=()):
    return Example(text, pair, label, "", choices)


def rows_of(config, *examples):
    tokenizer = tokenizer_of(CONFIGS["gpt2"])
    task = task_of(config, tokenizer)
    return task, task.encode(list(examples), True)


def ids(text):
    return tokenizer_of(CONFIGS["gpt2"]).encode(text).ids.tolist()


CHOICE = {"kind": "choice", "choices": ("options",)}
A, B = map(ids, TEXTS)


def test_rows_are_put_together_as_in_figure_1():
    _, rows = rows_of(config_of(), example(TEXTS[0]))
    assert rows.tokens[0].tolist() == [START, *A, EXTRACT]
    _, rows = rows_of(config_of(pair="b"), example(*TEXTS))
    assert rows.tokens[0].tolist() == [START, *A, DELIMITER, *B, EXTRACT]
    _, rows = rows_of(config_of(pair="b", both_orders=True), example(*TEXTS))
    assert [each.tolist() for each in rows.tokens] == [
        [START, *A, DELIMITER, *B, EXTRACT],
        [START, *B, DELIMITER, *A, EXTRACT],
    ]
    config = config_of(**CHOICE, pair="q", labels=("0", "1", "2"))
    _, rows = rows_of(config, example("She", "was", choices=TEXTS))
    assert [each.tolist() for each in rows.tokens] == [
        [START, *ids("She was"), DELIMITER, *A, EXTRACT],
        [START, *ids("She was"), DELIMITER, *B, EXTRACT],
        [],
    ]
    assert rows.group == 3 and rows.lengths.tolist() == [
        len(B) + 3 + len(ids("She was"))
    ]


def test_texts_are_cut_and_no_special_token_is():
    """Each of two has n_ctx // 2 - 2, however short the other one is: train.py."""
    long = " ".join(TEXTS * 3)
    _, rows = rows_of(config_of(length=20), example(long))
    assert rows.tokens[0].tolist() == [START, *ids(long)[:18], EXTRACT]
    _, rows = rows_of(config_of(length=20, pair="b"), example(long, "It"))
    cut = ids(long)[:8]
    assert rows.tokens[0].tolist() == [START, *cut, DELIMITER, *ids("It"), EXTRACT]
    assert rows.notes == ("1 row cut to 20 tokens",)
    _, rows = rows_of(config_of(length=20, pair="b"), example(long, long))
    assert rows.tokens[0].tolist() == [START, *cut, DELIMITER, *cut, EXTRACT]


def test_alternatives_are_an_axis_of_the_batch():
    config = config_of(**CHOICE, labels=("0", "1", "2"))
    three = (*TEXTS, "She")
    _, rows = rows_of(
        config, example("It", choices=TEXTS), example("It", choices=three, label="2")
    )
    batch = padded_batch(rows, np.array([1, 0, NONE]), 40)
    assert (
        batch.tokens.shape == batch.mask.shape == batch.token_types.shape == (3, 3, 40)
    )
    assert batch.mask.any(-1).tolist()[:2] == [[True] * 3, [True, True, False]]
    assert batch.labels.tolist()[:2] == [2, 0] and batch.weights.tolist() == [1, 1, 0]
    want = [START, *ids("It"), DELIMITER, *ids("She"), EXTRACT]
    assert batch.tokens[0, 2].tolist() == want + [0] * (40 - len(want))


def test_a_row_of_language_counts_once_and_one_that_fills_up_not_at_all():
    mask = np.array(
        [[[1, 1, 1, 0], [1, 1, 1, 1]], [[1, 1, 0, 0], [0] * 4], [[1] * 4] * 2]
    )
    batch = TaskBatch(
        jnp.zeros((3, 2, 4), jnp.int32),
        jnp.zeros((3, 2, 4), jnp.int32),
        jnp.asarray(mask, bool),
        jnp.zeros(3, jnp.int32),
        jnp.array([1.0, 1.0, 0.0]),
    )
    third = 1 / 3
    want = [[0.5, 0.5, 0, 0], [third] * 3 + [0], [1, 0, 0, 0], *[[0] * 4] * 3]
    np.testing.assert_allclose(next_token_weights(batch), want, rtol=1e-6)


def applied(config, params, task, rows):
    batch = padded_batch(rows, np.arange(len(rows.lengths)), 40)
    inputs = (jnp.asarray(each) for each in batch[:3])
    return jax.jit(module_of(config, task).apply)({"params": params}, *inputs)


@pytest.mark.parametrize("name", ["gpt1", "gpt2"])
def test_similarity_is_the_same_whichever_text_comes_first(name):
    config = config_of(name, pair="b", both_orders=True)
    tokenizer = tokenizer_of(CONFIGS[name])
    task = task_of(config, tokenizer)
    params = trained_alike(config, task)
    found = [
        np.asarray(applied(config, params, task, task.encode([each], False)))
        for each in (example(*TEXTS), example(*TEXTS[::-1]), example(TEXTS[0], "It"))
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-2


def trained_alike(config, task):
    """Random parameters, not so near to 0 as they start."""
    params = dict(random_params(config.model))
    shape = init_params(module_of(config, task), 0)["task"]
    random = np.random.RandomState(5)
    params["task"] = jax.tree.map(
        lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), jnp.float32), shape
    )
    return params


def test_new_tokens_are_new_rows_and_all_else_is_as_pretrained():
    """Also where the table grows by a block that pads it: 256 rows to 384."""
    old = dataclasses.replace(CONFIGS["gpt2"], vocab_size=256)
    config = config_of()
    model = dataclasses.replace(old, vocab_size=259)
    config = dataclasses.replace(config, model=model, init="models/gpt")
    task = task_of(config, tokenizer_of(CONFIGS["gpt2"]))
    module = module_of(config, task)
    file = File([], TaskRows([], np.zeros(0), 0, []))
    run = FinetuneRun(config, task, module, file, None, {}, [])
    pretrained, random = random_params(old), init_params(module, 0)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), random
    )
    found = Pretrained("models/gpt", pretrained)
    params, notes = merge(found, abstract, random, run.source().new)
    assert notes == [
        "parameters of models/gpt",
        "initialised at random: task/kernel, embed/token/table from row 256 on",
    ]
    table = np.asarray(params["embed"]["token"].pop("table"))
    known = np.asarray(pretrained["embed"]["token"].pop("table"))
    assert known.shape == (256, 16) and table.shape == (384, 16)
    np.testing.assert_array_equal(table[:256], known)
    new = table[256:259]
    assert 0.01 < new.std() < 0.03 and not table[259:].any()
    assert np.abs(params.pop("task")["kernel"]).max() > 0
    for mine, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(pretrained), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def total(objective, params, batch):
    """What a step minimises."""
    sums, _ = objective.loss(params, batch)
    weights, scale = objective.weights(batch), scales(objective.figures)
    return sum(scale[k] * sums[k].total / weights[k] for k in weights)


def test_a_padded_alternative_never_wins_and_moves_nothing():
    config = config_of(**CHOICE, labels=("0", "1", "2"), lm_weight=0.5)
    task, rows = rows_of(config, example("It", choices=TEXTS, label="1"))
    narrow = config_of(**CHOICE)
    _, alone = rows_of(narrow, example("It", choices=TEXTS, label="1"))
    params = trained_alike(config, task)
    # Whatever there is scores as badly as numbers can be.
    bad = {**params, "task": jax.tree.map(lambda x: x * 1e30, params["task"])}
    for each in (params, bad):
        logits = np.asarray(applied(config, each, task, rows))
        assert logits.shape == (1, 3) and logits.argmax() < 2
    objective = task_objective(module_of(config, task), task, None)

    def loss(params, rows):
        batch = padded_batch(rows, np.array([0, NONE]), 40)
        return total(objective, params, jax.tree.map(jnp.asarray, batch))

    (three, mine), (two, theirs) = (
        jax.jit(jax.value_and_grad(functools.partial(loss, rows=each)))(params)
        for each in (rows, alone)
    )
    np.testing.assert_allclose(three, two, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
