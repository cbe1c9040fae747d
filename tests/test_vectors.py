"""Vectors of texts: those of `forward`, whatever else is in the call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentences import sentence_characters

from jaxlm.config import TextConfig, bert, elmo, gpt2
from jaxlm.config.vectors import VectorOptions
from jaxlm.families import build
from jaxlm.text.tokenizers import train_tokenizer
from jaxlm.train.state import init_params
from jaxlm.types import UserError
from jaxlm.vectors import embed

TEXTS = ["the cat sat on the mat", "", "a cat", "mat on cat , sat the the a"]
SHAPE = {"num_layers": 2, "num_heads": 2, "d_model": 8, "d_ff": 12, "max_length": 16}


def model(family: str):
    """(module, parameters that are not near zero, tokenizer)."""
    if family == "elmo":
        small = {"d_model": 6, "d_ff": 8, "filters": (4, 5), "max_characters": 8}
        config = elmo("tiny", vocab_size=8, dropout=0.0, **small)
        tokenizer = train_tokenizer(
            TEXTS, TextConfig(tokenizer="words", lowercase=False), 8
        )
    elif family == "bert":
        config = bert("tiny", vocab_size=60, **SHAPE)
        tokenizer = train_tokenizer(TEXTS, TextConfig(), 60)
    else:
        config = gpt2("tiny", vocab_size=300, **SHAPE)
        tokenizer = train_tokenizer(
            TEXTS, TextConfig(tokenizer="byte_bpe", verbatim=True), 300
        )
    module = build(config)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + random.normal(0, 0.3, leaf.shape).astype(np.float32),
        init_params(module, 0),
    )
    return module, params, tokenizer


def vectors(module, *rest, **options):
    """`embed` with the config of a module."""
    return embed(module.config, *rest, VectorOptions(**options))


@pytest.fixture(scope="module", params=["bert", "gpt", "elmo"])
def found(request):
    return request.param, *model(request.param)


def applied(module, params, *inputs, **facts):
    """What the module computes of numpy arrays."""
    to_device = {np.ndarray: jnp.asarray}
    inputs = [to_device.get(type(each), lambda x: x)(each) for each in inputs]
    return module.apply({"params": params}, *inputs, **facts)


def alone(family, module, params, tokenizer, text) -> np.ndarray:
    """Hidden states [M, L, D] of one text, by the module itself."""
    if family == "elmo":
        ids, mask = sentence_characters([tokenizer.cut(text)], slots=8)
        out = applied(
            module, params, ids.astype(np.int32), lengths=jnp.asarray(mask.sum(1))
        )
        return np.asarray(out.hidden)[:, 0, 1:-1]
    ids = tokenizer.encode(text).ids
    if family == "gpt":
        if not len(ids):
            return np.zeros((3, 0, 8))
        out = applied(module, params, ids[None])
        return np.asarray(out.hidden)[:, 0]
    special = tokenizer.special
    row = np.array([[special.cls, *ids, special.sep]], np.int32)
    out = applied(module, params, row, np.zeros_like(row))
    return np.asarray(out.hidden)[:, 0, 1:-1]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_each_text_is_read_as_if_alone(found, batch):
    family, *parts = found
    got = list(vectors(*parts, TEXTS, layers="all", pooling="none", batch=batch))
    for text, each in zip(TEXTS, got, strict=True):
        want = alone(family, *parts, text)
        assert each.vectors.shape == want.shape == (3, len(each.tokens), want.shape[2])
        np.testing.assert_allclose(each.vectors, want, atol=1e-5)


def test_layers_and_poolings_are_parts_of_all(found):
    _, *parts = found
    everything = [
        e.vectors for e in vectors(*parts, TEXTS, layers="all", pooling="none")
    ]

    def one(**options):
        return [each.vectors for each in vectors(*parts, TEXTS, **options)]

    for got, all_ in zip(one(layers=1, pooling="none"), everything, strict=True):
        np.testing.assert_allclose(got, all_[1], atol=1e-6)
    for got, all_ in zip(one(layers="mix", pooling="none"), everything, strict=True):
        np.testing.assert_allclose(got, all_.mean(0), atol=1e-6)
    for got, all_ in zip(one(), everything, strict=True):  # last, mean
        want = all_[-1].mean(0) if all_.shape[1] else np.zeros(all_.shape[2])
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_a_long_text_is_read_in_windows_with_context_on_both_sides(family):
    module, params, tokenizer = model(family)
    text = "the cat sat on the mat , " * 6
    each = next(vectors(module, params, tokenizer, [text], pooling="none", batch=2))
    ids = tokenizer.encode(text).ids
    assert len(each.tokens) == len(ids) == each.vectors.shape[0] > 2 * 16
    # By hand: windows of all positions, half of them on, and the one at the end.
    width = 14 if family == "bert" else 16
    lead = width // 4 if family == "bert" else width // 2
    starts = [*range(0, len(ids) - width, width // 2), len(ids) - width]
    want = np.zeros_like(each.vectors)
    for start in starts:
        piece = ids[start : start + width]
        if family == "bert":
            special = tokenizer.special
            row = np.array([[special.cls, *piece, special.sep]], np.int32)
            out = applied(module, params, row, np.zeros_like(row))
            hidden = np.asarray(out.hidden)[-1, 0, 1:-1]
        else:
            out = applied(module, params, piece[None])
            hidden = np.asarray(out.hidden)[-1, 0]
        skip = lead if start else 0
        want[start + skip : start + width] = hidden[skip:]
    np.testing.assert_allclose(each.vectors, want, atol=1e-5)


def test_a_stateful_elmo_goes_on_where_the_text_before_in_its_slot_ended():
    module, params, tokenizer = model("elmo")
    options = {"layers": "all", "pooling": "none", "batch": 2, "stateful": True}
    got = [e.vectors for e in vectors(module, params, tokenizer, TEXTS, **options)]
    state = None
    for pair in (0, 2):
        words = [tokenizer.cut(text) for text in TEXTS[pair : pair + 2]]
        ids, mask = sentence_characters(words, slots=8)
        out = applied(
            module,
            params,
            ids.astype(np.int32),
            state,
            lengths=jnp.asarray(mask.sum(1)),
        )
        state = out.carry
        for row in (0, 1):
            want = np.asarray(out.hidden)[:, row, 1 : 1 + len(words[row])]
            np.testing.assert_allclose(got[pair + row], want, atol=1e-5)
    fresh = list(
        vectors(module, params, tokenizer, TEXTS, **{**options, "stateful": False})
    )
    assert np.abs(fresh[2].vectors[1:] - got[2][1:]).max() > 1e-3


def test_cls_is_the_vector_before_the_text():
    module, params, tokenizer = model("bert")
    got = [e.vectors for e in vectors(module, params, tokenizer, TEXTS, pooling="cls")]
    special = tokenizer.special
    ids = tokenizer.encode(TEXTS[0]).ids
    row = np.array([[special.cls, *ids, special.sep]], np.int32)
    out = applied(module, params, row, np.zeros_like(row))
    np.testing.assert_allclose(got[0], np.asarray(out.hidden)[-1, 0, 0], atol=1e-5)


def test_mistakes():
    module, params, tokenizer = model("gpt")
    for wrong, message in (
        ({"layers": 3}, "layer 3: there are 0"),
        ({"layers": -4}, "layer -4"),
        ({"pooling": "cls"}, "a GPT has no"),
        ({"stateful": True}, "has no state"),
        ({"batch": 0}, r"batch = 0 is not in \[1, 65536\]"),
    ):
        with pytest.raises(UserError, match=message):
            next(vectors(module, params, tokenizer, TEXTS, **wrong))
