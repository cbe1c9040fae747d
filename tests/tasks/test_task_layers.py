"""Mixes, BiLSTMs and pools against torch and numpy, over encoders of every family."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import CONFIGS, tokenizer_of
from sentences import sentence_characters

from jaxlm.config import FinetuneConfig, TaskConfig, bert, elmo, gpt2
from jaxlm.families import build, family_of
from jaxlm.tasks.batches import TaskBatch
from jaxlm.tasks.classes import Classes
from jaxlm.tasks.model import AttentionPool, BiLstms, TaskModel, pool
from jaxlm.tasks.objective import task_objective
from jaxlm.text.characters import word_characters
from jaxlm.train.state import abstract_params, init_params

SMALL = {"d_model": 8, "d_ff": 16}
ELMO = elmo("tiny", vocab_size=0, filters=(4, 6), max_characters=9, **SMALL)
FAMILIES = {
    "bert": bert("tiny", vocab_size=30, num_heads=2, max_length=16, nsp=False, **SMALL),
    "gpt": gpt2("tiny", vocab_size=30, num_heads=2, max_length=16, **SMALL),
    "elmo": ELMO,
}
ENCODER = {
    "bert": {"embed", "layers"},
    "gpt": {"embed", "layers", "final_norm"},
    "elmo": {"words", "layers"},
}
LENGTHS = np.array([5, 2, 3])
MASK = np.arange(5)[None] < LENGTHS[:, None]
SENTENCES = [["a", "dull", "film", "is", "long"], ["so", "it"], ["warm", "and", "wet"]]


def rows_of(config):
    """Tokens, types and mask of three rows."""
    types = jnp.zeros(MASK.shape, jnp.int32)
    if config.family != "elmo":
        tokens = np.random.default_rng(0).integers(1, 30, MASK.shape) * MASK
        return jnp.asarray(tokens, jnp.int32), types, jnp.asarray(MASK)
    tokens = np.zeros((*MASK.shape, 9), np.uint16)
    for row, words in zip(tokens, SENTENCES, strict=True):
        row[: len(words)] = word_characters(words, slots=9)
    return jnp.asarray(tokens), types, jnp.asarray(MASK)


def made(module):
    """Random parameters, the mixes' too."""
    params = jax.jit(lambda: init_params(module, 0))()
    random = np.random.default_rng(1)
    for name in {"mix", "mix_out"} & params.keys():
        w = random.normal(size=params[name]["weights"].shape)
        params[name] = {
            "weights": jnp.asarray(w, jnp.float32),
            "scale": jnp.float32(1.7),
        }
    return params


def allennlp(layers, w, gamma, mask=None):
    """scalar_mix.py; with a mask, `do_layer_norm` over all of the batch."""
    shares = np.exp(w) / np.exp(w).sum()
    out = 0.0
    for share, layer in zip(shares, layers, strict=True):
        if mask is not None:
            real = layer[mask]
            layer = (layer - real.mean()) / np.sqrt(real.var() + 1e-12)
        out = out + share * layer
    return gamma * out


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_a_task_is_read_off_allennlp_s_mix_of_layers(layers, normalise):
    fields = TaskConfig(mix="input", layers=layers, normalise=normalise, pooling="mean")
    module = TaskModel(ELMO, fields, 3, "mean")
    params = made(module)
    mine = jax.jit(module.apply)({"params": params}, *rows_of(ELMO))
    # The encoder by itself, on whole sentences as the host spells them.
    ids, mask = sentence_characters(SENTENCES, slots=9)
    own = {name: params[name] for name in ("words", "layers")}
    out = jax.jit(build(ELMO).apply)(
        {"params": own}, jnp.asarray(ids, jnp.int32), lengths=jnp.asarray(mask.sum(1))
    )
    hidden = np.asarray(out.hidden, np.float64)[:, :, 1:-1]
    hidden = hidden[list(layers)] if layers else hidden
    w = np.asarray(params["mix"]["weights"], np.float64)
    assert len(w) == (len(layers) or 3)
    x = allennlp(hidden, w, 1.7, MASK if normalise else None)
    pooled = np.stack([row[:n].mean(0) for row, n in zip(x, LENGTHS, strict=True)])
    kernel, bias = (np.asarray(params["task"][name]) for name in ("kernel", "bias"))
    want = pooled @ kernel + bias
    np.testing.assert_allclose(mine, want, rtol=1e-4, atol=1e-6)


@pytest.mark.oracle
def test_a_bilstm_of_two_layers_is_torch_s():
    import torch

    width, depth, inputs = 6, 2, 10
    module = BiLstms(width, depth, 0.0, jnp.float32)
    x = np.random.default_rng(0).normal(size=(*MASK.shape, inputs)).astype(np.float32)
    given = jnp.asarray(x), jnp.asarray(MASK)
    params = jax.jit(module.init)(jax.random.key(0), *given)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    theirs = torch.nn.LSTM(inputs, width, depth, batch_first=True, bidirectional=True)
    order = [0, 2, 1, 3]  # ours i j f o, theirs i f j o
    for n in range(depth):
        layer = jax.tree.map(np.asarray, params[f"layer_{n}"])
        for way, end in enumerate(("", "_reverse")):
            kernel = layer["kernel"][way][:, order].reshape(-1, 4 * width).T
            bias = layer["bias"][way].copy()
            bias[2] += 1  # our forget gate's is added in the cell
            split = len(kernel.T) - width
            parts = {
                "weight_ih": kernel[:, :split],
                "weight_hh": kernel[:, split:],
                "bias_ih": bias[order].reshape(-1),
                "bias_hh": np.zeros(4 * width, np.float32),
            }
            for name, part in parts.items():
                leaf = getattr(theirs, f"{name}_l{n}{end}")
                leaf.data = torch.tensor(np.ascontiguousarray(part))
    pack = torch.nn.utils.rnn.pack_padded_sequence
    unpack = torch.nn.utils.rnn.pad_packed_sequence
    theirs_x = torch.tensor(x, requires_grad=True)
    packed = pack(theirs_x, LENGTHS, batch_first=True, enforce_sorted=False)
    want, _ = unpack(theirs(packed)[0], batch_first=True)
    factor = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    (want * torch.tensor(factor)).sum().backward()

    def loss(x):
        out = module.apply({"params": params}, x, given[1])
        return (out * factor).sum(), out

    gradient, mine = jax.jit(jax.grad(loss, has_aux=True))(given[0])
    np.testing.assert_allclose(mine, want.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(gradient, theirs_x.grad.numpy(), atol=5e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_mixes_and_a_body_and_padding_is_not_seen(family):
    config = FAMILIES[family]
    fields = TaskConfig(mix="both", body="bilstm", width=4, pooling="max", dropout=0.5)
    module = TaskModel(config, fields, 2, "max")
    params = made(module)
    width = 2 * 4 + config.d_model * (2 if family == "elmo" else 1)
    assert params["task"]["kernel"].shape == (width, 2)
    assert set(params) - {"mix", "mix_out", "body", "task"} == ENCODER[family]
    rows = rows_of(config)
    wider = [jnp.pad(x, ((0, 0), (0, 2), *[(0, 0)] * (x.ndim - 2))) for x in rows]
    apply = jax.jit(module.apply)
    narrow, wide = (apply({"params": params}, *each) for each in (rows, wider))
    assert np.abs(narrow).max() > 1e-3
    np.testing.assert_allclose(narrow, wide, atol=2e-6)


def test_pools_are_over_a_row_s_own_tokens():
    x = np.random.default_rng(0).normal(size=(*MASK.shape, 4)).astype(np.float32)
    x[~MASK] = 99
    kernel = np.arange(4, dtype=np.float32) / 3
    given = jnp.asarray(x), jnp.asarray(MASK)
    asked = AttentionPool().apply({"params": {"kernel": jnp.asarray(kernel)}}, *given)
    for i, n in enumerate(LENGTHS):
        row = x[i, :n]
        shares = np.exp(row @ kernel)
        want = (shares / shares.sum()) @ row
        np.testing.assert_allclose(asked[i], want, atol=1e-6)
        np.testing.assert_allclose(pool("max", *given)[i], row.max(0), atol=1e-6)
        np.testing.assert_allclose(pool("mean", *given)[i], row.mean(0), atol=1e-6)
    first = AttentionPool().init(jax.random.key(0), *given)
    start = AttentionPool().apply(first, *given)
    np.testing.assert_allclose(start, pool("mean", *given), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_encoder_has_no_way_back_and_no_dropout(family):
    config = FAMILIES[family]
    assert config.dropout > 0
    rows = rows_of(config)

    def lowered(way, **choices):
        """(products, exclusive ors: random bits are made of them) of a program."""
        fields = TaskConfig(mix="input", pooling="mean")
        module = TaskModel(config, fields, 2, "mean", **choices)
        drawn = {"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}

        def loss(params, **more):
            return module.apply({"params": params}, *rows, **more).sum()

        whole = {
            "ahead": loss,
            "back": lambda params: jax.grad(loss)(params, **drawn),
        }[way]
        text = jax.jit(whole).lower(abstract_params(module)).as_text()
        return text.count("dot_general"), text.count("stablehlo.xor")

    products, draws = lowered("ahead")
    assert draws == 0
    frozen, whole = lowered("back", frozen=True), lowered("back")
    # Of head and mix alone there is a way back, and dropout on what the head reads.
    assert frozen[0] <= products + 5 and whole[0] > 1.8 * products
    assert 0 < frozen[1] < whole[1]


def test_the_penalty_is_whole_however_a_batch_is_cut():
    class Nothing(Classes):
        def sums(self, logits, batch):
            return {}

    fields = TaskConfig(mix="input", pooling="mean", penalty=0.1)
    config = FinetuneConfig(task=fields)
    task = Nothing(config, tokenizer_of(CONFIGS["bert"]))
    module = SimpleNamespace(apply=lambda *_, **__: (None, None))
    objective = task_objective(module, task, None)
    w = jnp.asarray([1.0, -2.0, 0.5])
    mix = {"weights": w, "scale": jnp.float32(9)}
    rows = jnp.zeros((4, 2), jnp.int32)
    weights = jnp.asarray([1.0, 1.0, 1.0, 0.0])
    batch = TaskBatch(rows, rows, rows > 0, rows[:, 0], weights)
    whole = objective.weights(batch)["mix_loss"]
    for names, want in ((("mix",), 0.525), (("mix", "mix_out"), 1.05)):
        total = 0.0
        for cut in (slice(0, 1), slice(1, 4)):
            part = jax.tree.map(lambda x, cut=cut: x[cut], batch)
            sums, _ = objective.loss(dict.fromkeys(names, mix), part)
            total += sums["mix_loss"].total / whole
        assert total == pytest.approx(want, rel=1e-6)


def test_a_row_s_arithmetic_is_counted_without_a_head_over_words():
    for config in FAMILIES.values():
        flops = family_of(config).forward_flops
        assert flops(config, 8, 0) > 0
    gpt = FAMILIES["gpt"]
    flops = family_of(gpt).forward_flops
    assert flops(gpt, 8, 8) - flops(gpt, 8, 0) == 2 * 8 * 8 * 30
