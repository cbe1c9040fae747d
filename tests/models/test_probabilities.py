"""Attention probabilities equal transformers', are summed by layer, and cost nothing
where no one looks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.test_modern_parity import (
    LENGTHS,
    MODERNBERT,
    REAL,
    ROFORMER,
    inputs,
    modernbert,
    modernbert_tensors,
    roformer,
    roformer_tensors,
)

from jaxlm.models.bert import Bert
from jaxlm.models.gpt import Gpt
from tools import goldens, goldens_gpt


def seen(module, params, *tokens, looks=lambda p: p, **facts):
    """What the module says, under one jit."""

    @jax.jit
    def run(params, *inputs, **facts):
        return module.apply({"params": params}, *inputs, **facts, looks=looks)

    return run(params, *(jnp.asarray(each, jnp.int32) for each in tokens), **facts)


def assert_equal(mine, theirs, real_BL):
    """Of queries that are no padding."""
    theirs = np.stack([each.detach().numpy() for each in theirs])
    mine = np.asarray(mine)
    assert mine.shape == theirs.shape and mine.dtype == np.float32
    n, h = mine.shape[0], mine.shape[2]
    real = np.broadcast_to(real_BL[None, :, None], (n, len(real_BL), h, mine.shape[3]))
    np.testing.assert_allclose(mine[real], theirs[real], atol=1e-6)
    np.testing.assert_allclose(mine[real].sum(-1), 1, atol=1e-6)


@pytest.mark.oracle
def test_a_berts_equal_transformers():
    import torch

    config, params, _ = goldens.case("gelu_erf")
    batch = goldens.random_batch(config, batch=4, length=13, predictions=3, seed=7)
    theirs = goldens.to_transformers(config, params).eval()
    theirs.set_attn_implementation("eager")
    want = theirs(
        *(torch.from_numpy(np.array(x)) for x in (batch.tokens, batch.mask)),
        token_type_ids=torch.from_numpy(np.array(batch.token_types)),
        output_attentions=True,
    )
    inputs = batch.tokens, batch.token_types
    got = seen(Bert(config), params, *inputs, lengths=batch.mask.sum(1))
    assert_equal(got.attention, want.attentions, np.asarray(batch.mask))


@pytest.mark.oracle
@pytest.mark.parametrize("name", goldens_gpt.CASES)
def test_a_gpts_equal_transformers(name):
    import torch

    config = goldens_gpt.CASES[name]
    params = goldens_gpt.random_params(config, seed=5)
    tokens = goldens_gpt.random_tokens(config, 2, 13, seed=7)
    theirs = goldens_gpt.to_transformers(config, params).eval()
    theirs.set_attn_implementation("eager")
    want = theirs(torch.tensor(tokens), output_attentions=True)
    got = seen(Gpt(config), params, tokens)
    assert_equal(got.attention, want.attentions, np.ones(tokens.shape, bool))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("config", "theirs", "tensors"),
    [
        (ROFORMER, roformer, roformer_tensors),
        (MODERNBERT, modernbert, modernbert_tensors),
    ],
)
def test_those_of_encoders_with_rope_equal_transformers(config, theirs, tensors):
    import torch

    params, model = goldens.random_params(config), theirs(config)
    state = {
        k: torch.from_numpy(np.array(x)) for k, x in tensors(config, params).items()
    }
    model.load_state_dict(state, strict=False)
    tokens, types = inputs(config)
    want = model.eval()(
        torch.from_numpy(tokens),
        attention_mask=torch.from_numpy(REAL.astype(np.int64)),
        output_attentions=True,
        **(
            {"token_type_ids": torch.from_numpy(types)}
            if config.num_token_types
            else {}
        ),
    )
    got = seen(Bert(config), params, tokens, types, lengths=LENGTHS).attention
    assert_equal(got, want.attentions, REAL)
    if config.window:  # of row 0, which has no padding
        far = np.abs(np.subtract.outer(*[np.arange(REAL.shape[1])] * 2)) > 3
        local = [not np.asarray(each)[0][..., far].any() for each in got]
        assert local == list(config.local)


def test_hidden_states_are_the_same_bits_when_someone_looks():
    given = goldens.random_params(MODERNBERT), *inputs(MODERNBERT)
    plain = seen(Bert(MODERNBERT), *given, looks=None)
    assert plain.attention is None
    looked = seen(Bert(MODERNBERT), *given)
    np.testing.assert_array_equal(plain.hidden, looked.hidden)


def test_probabilities_are_reduced_layer_by_layer_and_never_stacked():
    """Memory is that of a layer: what is kept of it is a sum here."""
    params, length = goldens.random_params(ROFORMER), 256
    tokens = jnp.zeros((4, length), jnp.int32)

    def memory(looks):
        def run(params):
            facts = {"logits": False, "looks": looks}
            out = Bert(ROFORMER).apply({"params": params}, tokens, tokens, **facts)
            return out.last, out.attention

        return jax.jit(run).lower(params).compile().memory_analysis()

    layer = 4 * 4 * ROFORMER.num_heads * length**2  # bytes
    whole, plain = memory(lambda p: p), memory(None)
    summed = memory(lambda p: p.sum((0, 2, 3)))
    assert whole.output_size_in_bytes > ROFORMER.num_layers * layer
    assert summed.output_size_in_bytes < layer
    extra = summed.temp_size_in_bytes - plain.temp_size_in_bytes
    assert extra < 1.5 * layer
