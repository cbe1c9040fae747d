"""RoFormer and ModernBERT equal transformers' models: hidden states and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import BertConfig
from jaxlm.models.bert import Bert
from jaxlm.models.layers import rope
from jaxlm.tree import leaves
from tools.goldens import random_params

ROFORMER = BertConfig(
    vocab_size=61,
    num_layers=3,
    num_heads=2,
    d_model=20,
    d_ff=28,
    max_length=40,
    positions="rope",
    nsp=False,
)
MODERNBERT = dataclasses.replace(
    ROFORMER,
    num_layers=5,
    num_token_types=0,
    norm="pre",
    norm_eps=1e-5,
    gated=True,
    biases=False,
    window=6,
    rope_base=300.0,
    local_rope_base=40.0,
)
B, L = 3, 23
LENGTHS = jnp.array([L, 17, 5])
REAL = np.arange(L)[None] < np.asarray(LENGTHS)[:, None]


def inputs(config):
    random = np.random.RandomState(1)
    # Not 0: torch gives the row of padding no gradient.
    tokens = random.randint(1, config.vocab_size, (B, L))
    return tokens, random.randint(0, max(1, config.num_token_types), (B, L))


def interleaved(config, kernel_DHK):
    """Query or key channels in RoFormer's order: pairs are neighbours."""
    half = config.d_model // config.num_heads // 2
    order = np.arange(2 * half).reshape(2, half).T.ravel()
    return kernel_DHK[..., order]


def roformer(config):
    """transformers' model of a config."""
    import transformers

    return transformers.RoFormerForMaskedLM(
        transformers.RoFormerConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.d_ff,
            max_position_embeddings=config.max_length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def roformer_tensors(config, params):
    """Our parameters as its tensors."""
    at, layers, state = "roformer.", params["layers"], {}
    embed, mlm, d = params["embed"], params["mlm"], config.d_model
    table = embed["token"]["table"][: config.vocab_size]
    state |= {f"{at}embeddings.word_embeddings.weight": table}
    types = embed["token_type"]["table"]
    state |= {f"{at}embeddings.token_type_embeddings.weight": types}

    def norm(name, of):
        state.update({f"{name}.weight": of["scale"], f"{name}.bias": of["bias"]})

    def dense(name, kernel, bias):
        state.update({f"{name}.weight": kernel.T, f"{name}.bias": bias})

    norm(f"{at}embeddings.LayerNorm", embed["norm"])
    for n in range(config.num_layers):
        layer, to = jax.tree.map(lambda x, n=n: x[n], layers), f"{at}encoder.layer.{n}."
        for name in ("query", "key", "value"):
            kernel, bias = (layer["attention"][name][k] for k in ("kernel", "bias"))
            if name != "value":
                kernel, bias = (interleaved(config, x) for x in (kernel, bias))
            dense(f"{to}attention.self.{name}", kernel.reshape(d, d), bias.reshape(d))
        out = layer["attention"]["out"]
        kernel = out["kernel"].reshape(d, d)
        dense(f"{to}attention.output.dense", kernel, out["bias"])
        norm(f"{to}attention.output.LayerNorm", layer["attention_norm"])
        dense(f"{to}intermediate.dense", **layer["mlp"]["wi"])
        dense(f"{to}output.dense", **layer["mlp"]["wo"])
        norm(f"{to}output.LayerNorm", layer["mlp_norm"])
    dense("cls.predictions.transform.dense", **mlm["dense"])
    norm("cls.predictions.transform.LayerNorm", mlm["norm"])
    bias = mlm["bias"][: config.vocab_size]
    state |= {"cls.predictions.bias": bias, "cls.predictions.decoder.bias": bias}
    return state | {"cls.predictions.decoder.weight": table}


def modernbert(config):
    """transformers' model of a config."""
    import transformers

    return transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.d_ff,
            max_position_embeddings=config.max_length,
            local_attention=config.window,
            global_rope_theta=config.rope_base,
            local_rope_theta=config.local_rope_base,
            pad_token_id=0,
            attn_implementation="eager",
        )
    )


def modernbert_tensors(config, params):
    """Our parameters as its tensors."""
    embed, layers, mlm = params["embed"], params["layers"], params["mlm"]
    table, d = embed["token"]["table"][: config.vocab_size], config.d_model
    state = {
        "model.embeddings.tok_embeddings.weight": table,
        "model.embeddings.norm.weight": embed["norm"]["scale"],
        "model.final_norm.weight": params["final_norm"]["scale"],
        "head.dense.weight": mlm["dense"]["kernel"].T,
        "head.norm.weight": mlm["norm"]["scale"],
        "decoder.weight": table,
        "decoder.bias": mlm["bias"][: config.vocab_size],
    }
    for n in range(config.num_layers):
        layer, to = jax.tree.map(lambda x, n=n: x[n], layers), f"model.layers.{n}."
        names, mlp = ("query", "key", "value"), layer["mlp"]
        qkv = [layer["attention"][each]["kernel"].reshape(d, d).T for each in names]
        state[f"{to}attn.Wqkv.weight"] = jnp.concatenate(qkv)
        out = layer["attention"]["out"]["kernel"]
        state[f"{to}attn.Wo.weight"] = out.reshape(d, d).T
        both = [mlp[each]["kernel"].T for each in ("wi", "gate")]
        state[f"{to}mlp.Wi.weight"] = jnp.concatenate(both)
        state[f"{to}mlp.Wo.weight"] = mlp["wo"]["kernel"].T
        state[f"{to}mlp_norm.weight"] = layer["mlp_norm"]["scale"]
        if n:
            state[f"{to}attn_norm.weight"] = layer["attention_norm"]["scale"]
    return state


@pytest.mark.oracle
def test_angles_equal_transformers_to_the_last_digit_at_8192():
    import torch
    from transformers.models.modernbert import modeling_modernbert

    config = modeling_modernbert.ModernBertConfig(max_position_embeddings=8192)
    turn = modeling_modernbert.ModernBertRotaryEmbedding(config)
    ids = torch.arange(8192)[None]
    for kind, base in (("full", 160_000.0), ("sliding", 10_000.0)):
        cos, sin = turn(torch.zeros(1), ids, f"{kind}_attention")
        ours = rope(jnp.arange(8192)[None], 64, base)
        np.testing.assert_allclose(ours.cos, cos[..., :32], atol=1e-6)
        np.testing.assert_allclose(ours.sin, sin[..., :32], atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("config", "theirs", "tensors"),
    [
        (ROFORMER, roformer, roformer_tensors),
        (MODERNBERT, modernbert, modernbert_tensors),
    ],
)
def test_outputs_and_gradients_equal_transformers(config, theirs, tensors):
    import torch

    assert config.layout == theirs.__name__
    params, model = random_params(config), theirs(config)
    state, back = jax.vjp(functools.partial(tensors, config), params)
    weights = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys
    assert all("embed_positions" in name for name in left.missing_keys)
    tokens, types = inputs(config)
    aims = np.random.RandomState(2).standard_normal((B, L, config.vocab_size))
    aims = aims.astype(np.float32) * REAL[..., None]

    given = (
        {"token_type_ids": torch.from_numpy(types)} if config.num_token_types else {}
    )
    want = model.eval()(
        torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(REAL.astype(np.int64)),
        output_hidden_states=True,
        **given,
    )
    (want.logits * torch.from_numpy(aims)).sum().backward()
    grads = {name: x.grad for name, x in model.named_parameters(remove_duplicate=True)}
    have = {
        name: jnp.zeros_like(x) if grads.get(name) is None else jnp.asarray(grads[name])
        for name, x in state.items()
    }
    (want_grads,) = back(have)

    def loss(params):
        given = jnp.asarray(tokens), jnp.asarray(types)
        out = Bert(config).apply({"params": params}, *given, lengths=LENGTHS)
        return (out.logits * aims).sum(), out

    (_, got), got_grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    pairs = [(got.logits, want.logits)]
    pairs += zip(got.hidden, want.hidden_states, strict=True)
    for mine, other in pairs:
        mine, other = np.asarray(mine)[REAL], other.detach().numpy()[REAL]
        assert np.abs(mine - other).max() < 1e-5 * np.abs(other).max()
    most = max(np.abs(x).max() for _, x in leaves(want_grads))
    for (path, mine), (_, other) in zip(
        leaves(got_grads), leaves(want_grads), strict=True
    ):
        size = np.abs(other).max() + 1e-4 * most
        assert np.abs(mine - other).max() < 1e-5 * size, path
