"""ScalarMix is the originals' formula, written out again in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import bert
from jaxlm.models.bert import Bert
from jaxlm.models.mix import ScalarMix, mix_penalty

M, B, L, D = 3, 2, 5, 4
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def weight_layers(layers, w, gamma, mask, normalise):
    """bilm/elmo.py: weight_layers, line by line (without its l2_coef)."""

    def do_ln(x):
        x_masked = x * mask[..., None]
        n = mask.sum() * x.shape[-1]
        mean = x_masked.sum() / n
        variance = (((x_masked - mean) * mask[..., None]) ** 2).sum() / n
        return (x - mean) / np.sqrt(variance + 1e-12)

    e = np.exp(w + 1 / len(w))
    pieces = [
        share * (do_ln(layer) if normalise else layer)
        for share, layer in zip(e / e.sum(), layers, strict=True)
    ]
    return sum(pieces) * gamma


def allennlp(layers, w, gamma, mask, normalise):
    """allennlp/modules/scalar_mix.py, in torch."""
    import torch

    def do_layer_norm(tensor, broadcast, n):
        masked = tensor * broadcast
        mean = torch.sum(masked) / n
        variance = torch.sum(((masked - mean) * broadcast) ** 2) / n
        return (tensor - mean) / torch.sqrt(variance + 1e-12)

    layers, broadcast = torch.tensor(layers), torch.tensor(mask).float().unsqueeze(-1)
    n = broadcast.sum() * layers.shape[-1]
    shares = torch.nn.functional.softmax(torch.tensor(w), dim=0)
    return gamma * sum(
        share * (do_layer_norm(layer, broadcast, n) if normalise else layer)
        for share, layer in zip(shares, layers, strict=True)
    )


def case():
    random = np.random.default_rng(0)
    scales = np.array([1, 30, 0.01])[:, None, None, None]
    layers = 5 + scales * random.normal(size=(M, B, L, D))
    return layers.astype(np.float32), random.normal(size=M).astype(np.float32)


def ours(layers, w, gamma, mask, normalise):
    params = {"weights": jnp.asarray(w), "scale": jnp.asarray(gamma)}
    mix = ScalarMix(normalise=normalise)
    mask = None if mask is None else jnp.asarray(mask)
    return mix.apply({"params": params}, jnp.asarray(layers), mask)


@pytest.mark.parametrize("normalise", [False, True])
def test_it_is_the_originals_formula(normalise):
    layers, w = case()
    mine = ours(layers, w, 1.7, MASK, normalise)
    theirs = weight_layers(layers.astype(np.float64), w, 1.7, MASK, normalise)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("normalise", [False, True])
def test_it_is_allennlps_formula(normalise):
    layers, w = case()
    mine = ours(layers, w, 0.6, MASK, normalise)
    theirs = allennlp(layers.astype(np.float64), w, 0.6, MASK, normalise)
    np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_what_is_masked_counts_for_the_normalisation_only():
    layers, w = case()
    other = layers.copy()
    other[:, ~MASK] = 1000
    for normalise in (False, True):
        a, b = (ours(x, w, 1.0, MASK, normalise) for x in (layers, other))
        np.testing.assert_array_equal(a[MASK], b[MASK])
    assert np.abs(ours(other, w, 1.0, None, True) - a)[MASK].max() > 0.1
    assert np.isfinite(ours(layers, w, 1.0, np.zeros_like(MASK), True)).all()


def test_it_starts_as_the_mean_and_mixes_any_encoders_layers():
    config = bert("tiny", vocab_size=11, d_model=8, d_ff=8, num_heads=2, nsp=False)
    module = Bert(config)
    row = module.example()
    params = module.init(jax.random.key(0), *row)["params"]
    hidden = module.apply({"params": params}, *row, logits=False).hidden
    mix = ScalarMix()
    params = mix.init(jax.random.key(0), hidden)["params"]
    assert jax.tree.map(jnp.shape, params) == {"weights": (3,), "scale": ()}
    mixed = mix.apply({"params": params}, hidden)
    np.testing.assert_allclose(mixed, hidden.mean(0), atol=1e-6)


def test_the_penalty_is_on_the_weights_alone():
    params = {"weights": jnp.array([1.0, -2, 0]), "scale": jnp.array(9.0)}
    value, grad = jax.value_and_grad(mix_penalty)(params, 0.1)
    np.testing.assert_allclose(value, 0.5, rtol=1e-6)
    np.testing.assert_allclose(grad["weights"], [0.2, -0.4, 0], rtol=1e-6)
    assert grad["scale"] == 0
