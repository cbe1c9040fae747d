"""ELMo's outputs, states and gradients equal those of a plain torch model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.small_elmo import (
    LENGTHS,
    READ,
    TABLE,
    TINY,
    B,
    L,
    assert_close,
    batch,
    mask_of,
    random_params,
    random_state,
)

from jaxlm.config import elmo
from jaxlm.models.elmo import Elmo, State
from jaxlm.tree import leaves


def results_of_torch(config, params, words, state, factors):
    """What `ours` gives, from tests/reference/torch_elmo.py."""
    import torch
    from reference import torch_elmo

    params = jax.tree.map(
        lambda x: torch.tensor(np.asarray(x)).requires_grad_(), params
    )
    table, state = torch.tensor(np.asarray(TABLE)), State(*map(np.array, state))
    begin = State(*(torch.tensor(each).requires_grad_() for each in state))
    hidden = np.zeros((config.num_layers + 1, B, L, 2 * config.d_model))
    logits = np.zeros((2, B, L, config.vocab_size))
    loss, after = torch.zeros(()), State(*map(np.copy, state))
    for b, length in enumerate(LENGTHS):
        states = [
            [(begin.cell[b, n, g], begin.out[b, n, g]) for g in range(2)]
            for n in range(config.num_layers)
        ]
        at = slice(None), b, slice(length)
        if length:
            h, scores, ends = torch_elmo.row(
                config, params, table[words[b, :length].tolist()], states
            )
            hidden[at], logits[at] = h.detach(), scores.detach()
            loss = loss + (h * torch.tensor(factors[0][at])).sum()
            loss = loss + (scores * torch.tensor(factors[1][at])).sum()
        for g in range(2):
            for n in range(config.num_layers):
                end = ends[g][n] if length else states[n][g]
                for part, x, factor in zip(after, end, factors[2:], strict=True):
                    part[b, n, g] = x.detach()
                    loss = loss + (x * torch.tensor(factor[b, n, g])).sum()
    loss.backward()
    grads = jax.tree.map(lambda x: x.grad.numpy(), (params, begin))
    return {"hidden": hidden, "logits": logits, "state": after, "grads": grads}


def ours(config, params, words, state, factors):
    """Outputs, and the gradients of a random linear function of all of them."""
    module = Elmo(config)
    mask = mask_of(LENGTHS)

    def loss(params, state):
        out = module.apply({"params": params}, TABLE[words], state, lengths=READ)
        real = mask[None, :, :, None]
        parts = (out.hidden, jnp.where(real, out.logits, 0), *out.carry)
        return sum((a * b).sum() for a, b in zip(parts, factors, strict=True)), out

    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    grads, out = run(params, state)
    logits = jnp.where(mask[None, :, :, None], out.logits, 0)
    return {"hidden": out.hidden, "logits": logits, "state": out.carry, "grads": grads}


@pytest.mark.oracle
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "tanh", "skip": False, "num_highways": 0, "filters": (2, 4)},
    ],
    ids=["original", "other choices"],
)
def test_outputs_states_and_gradients_equal_a_plain_torch_model(changes):
    config = elmo("tiny", **{**vars(TINY), **changes})
    params, state, words = random_params(config), random_state(config), batch()
    random = np.random.default_rng(5)
    shapes = (
        (config.num_layers + 1, B, L, 2 * config.d_model),
        (2, B, L, config.vocab_size),
        *(x.shape for x in state),
    )
    factors = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    mine = dict(leaves(ours(config, params, words, state, factors)))
    theirs = results_of_torch(config, params, words, state, factors)
    for path, want in leaves(theirs):
        assert_close(mine.pop(path), want, path)
    assert not mine
    clipped = np.abs(theirs["state"].cell[:2]) == np.float32(config.cell_clip)
    assert 0.05 < clipped.mean() < 0.95
