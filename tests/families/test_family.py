"""Each family is one record, and its parts fit each other."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import ModelConfig, TextConfig, bert, elmo, gpt2
from jaxlm.families import FAMILIES, family_of, parameter_shapes
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.tree import leaves

TEXT = "the cat sat on the mat"
SHAPE = {"num_layers": 2, "num_heads": 2, "d_model": 8, "d_ff": 12, "max_length": 16}
CONFIGS = {
    "bert": bert("tiny", vocab_size=60, **SHAPE),
    "gpt": gpt2("tiny", vocab_size=300, **SHAPE),
    "elmo": elmo(
        "tiny", vocab_size=8, d_model=6, d_ff=8, filters=(4, 5), max_characters=8
    ),
}
KINDS = {"bert": "wordpiece", "gpt": "byte_bpe", "elmo": "words"}


def test_every_config_has_one_record():
    kinds = [family.config for family in FAMILIES]
    assert sorted(kinds, key=repr) == sorted(typing.get_args(ModelConfig), key=repr)
    for family in FAMILIES:
        config = CONFIGS[family.name]
        assert family_of(config) is family and config.family == family.name


@pytest.mark.parametrize("name", CONFIGS)
def test_a_framed_row_is_encoded_at_each_of_its_tokens(name):
    config = CONFIGS[name]
    family = family_of(config)
    tokenizer = train_tokenizer(
        [TEXT],
        TextConfig(tokenizer=KINDS[name], verbatim=name == "gpt"),
        config.vocab_size,
    )
    frame = family.frame(config, tokenizer)
    tokens, strings = frame.spelled(TEXT)
    assert len(tokens) == len(strings)
    rows, mask = frame.padded([frame.row(tokens), frame.row(tokens[:0])], 16)
    assert mask.sum() == len(tokens) + 2 * (len(frame.begin) + len(frame.end))
    encoder = family.encoder(config)
    args = (
        jnp.asarray(rows, jnp.int32),
        jnp.zeros((2, 16), jnp.int32),
        jnp.asarray(mask),
    )
    carry = family.zero_carry(config, 2)
    out, after = jax.eval_shape(
        lambda: encoder.init_with_output(
            jax.random.key(0), *args, carry=carry, method=family.encode
        )[0]
    )
    assert out.hidden.shape == (3, 2, 16, family.width(config))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_encoder_s_parameters_lie_among_the_model_s(name):
    config = CONFIGS[name]
    family = family_of(config)
    encoder = family.encoder(config)
    shapes = jax.eval_shape(
        lambda: encoder.init(
            jax.random.key(0), *family.example(config), method=family.encode
        )
    )
    whole = {path: leaf.shape for path, leaf in leaves(parameter_shapes(config))}
    mine = {path: leaf.shape for path, leaf in leaves(shapes["params"])}
    assert mine and mine.items() <= whole.items()
    assert np.isfinite(family.forward_flops(config, 8, 8))
