"""Beam search over a decoder, by the rules of transformers' `_beam_search` (v5).

At each step every beam's continuations compete. The best 2 K of a prompt's candidates
are looked at: those that end are taken into the K finished ones if they are among the
first K, the best K that do not end go on. A finished one's score is its summed log-
probability over length ** length_penalty, its end token counted; a search stops when
the best beam could not replace the worst of K finished ones at its present length.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.generate.decode import (
    CHUNK,
    Continuation,
    bucket,
    head_logits,
    prefill,
    read_on,
)
from jaxlm.generate.sampling import largest
from jaxlm.models.gpt import Gpt
from jaxlm.models.layers import Cache

_NEVER = -1e9  # the score of what is not there; finite, so that it may be divided


class Beams(NamedTuple):
    """A search under way: B prompts, K beams each."""

    caches: tuple[Cache, ...]  # B · K rows
    logits: Float[Array, "B K V"]
    made: Int[Array, ""]
    tokens: Int[Array, "B K N"]
    scores: Float[Array, "B K"]  # summed log-probabilities
    done_tokens: Int[Array, "B K N"]
    done_lengths: Int[Array, "B K"]
    done_scores: Float[Array, "B K"]
    is_done: Bool[Array, "B K"]
    open: Bool[Array, "B"]  # a beam may still replace a finished one


@functools.partial(
    jax.jit, static_argnames=("module", "bucket", "length_penalty", "end")
)
def _search(
    module: Gpt,
    params: Any,
    beams: Beams,
    prompt_B: Int[Array, "B"],
    most: Int[Array, ""],
    *,
    bucket: int,
    length_penalty: float,
    end: int | None,
) -> Beams:
    batch, k, _ = beams.logits.shape
    slots, heads = beams.caches[0].k.shape[-1], module.config.num_heads
    at_T = jnp.arange(slots)

    def step(beams: Beams) -> Beams:
        log_p = jax.nn.log_softmax(beams.logits) + beams.scores[..., None]
        vocab = log_p.shape[-1]
        best, where = largest(log_p.reshape(batch, -1), 2 * k)
        parent, token = where // vocab, (where % vocab).astype(jnp.int32)
        tokens = _pick(beams.tokens, parent).at[:, :, beams.made].set(token)
        length = beams.made + 1
        ends = jnp.full(token.shape, length >= most)
        if end is not None:
            ends |= token == end

        final = best / length.astype(jnp.float32) ** length_penalty
        taken = ends & (jnp.arange(2 * k) < k)[None] & beams.open[:, None]
        everyone = Finished(
            jnp.concatenate([beams.done_tokens, tokens], 1),
            jnp.concatenate([beams.done_lengths, jnp.full(token.shape, length)], 1),
            jnp.concatenate([beams.done_scores, jnp.where(taken, final, _NEVER)], 1),
            jnp.concatenate([beams.is_done, taken], 1),
        )
        _, keep = largest(everyone.scores, k)
        done = jax.tree.map(lambda x: _pick(x, keep), everyone)

        scores, on = largest(jnp.where(ends, best + _NEVER, best), k)
        parent, token = _pick(parent, on), _pick(token, on)
        rows = (parent + k * jnp.arange(batch)[:, None]).reshape(-1)
        caches = tuple(cache.of_rows(rows, heads) for cache in beams.caches)
        written = (at_T >= bucket) & (at_T <= bucket + beams.made)
        mask_BT = (at_T[None] < prompt_B[:, None]) | written[None]
        last, head_RD, caches = read_on(
            module,
            params,
            token.reshape(-1, 1),
            jnp.repeat(prompt_B + beams.made, k)[:, None],
            jnp.repeat(mask_BT, k, axis=0)[:, None],
            caches,
        )
        logits = head_logits(module, head_RD, last[:, 0])
        worst = jnp.where(done.is_done, done.scores.min(-1, keepdims=True), _NEVER)
        hoped = scores[:, :1] / length.astype(jnp.float32) ** length_penalty
        return Beams(
            caches=caches,
            logits=logits.reshape(batch, k, -1),
            made=length,
            tokens=_pick(tokens, on),
            scores=scores,
            done_tokens=done.tokens,
            done_lengths=done.lengths,
            done_scores=done.scores,
            is_done=done.is_done,
            open=beams.open & jnp.any(hoped > worst, axis=-1),
        )

    return jax.lax.while_loop(
        lambda beams: (beams.made < most) & jnp.any(beams.open), step, beams
    )


class Finished(NamedTuple):
    """Sequences that ended, and candidates to become one."""

    tokens: Int[Array, "B C N"]
    lengths: Int[Array, "B C"]
    scores: Float[Array, "B C"]
    is_done: Bool[Array, "B C"]


def _pick(x: Array, which_BK: Int[Array, "B K"]) -> Array:
    index = which_BK.reshape(*which_BK.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)


def beam_search(
    module: Gpt,
    params: Any,
    prompts: list[np.ndarray],
    *,
    max_tokens: int,
    num_beams: int,
    length_penalty: float = 1.0,
    end: int | None = None,
) -> list[list[Continuation]]:
    """The `num_beams` best continuations of each prompt, best first.

    `scores` of a continuation holds one number: its score.

    Args:
        module: a decoder.
        params: of it, `unstacked` (models/gpt.py).
        prompts: ids, at least one each; with `max_tokens` they fit the context.
        max_tokens: most tokens of a continuation.
        num_beams: K.
        length_penalty: exponent of the length that a sum of log-probabilities is
            divided by; above 0 favours long ones.
        end: id that ends a continuation.
    """
    size = bucket(max(len(prompt) for prompt in prompts), module.config.max_length)
    room = -(-max_tokens // CHUNK) * CHUNK
    tokens_BP = np.zeros((len(prompts), size), np.int32)
    for i, prompt in enumerate(prompts):
        tokens_BP[i, : len(prompt)] = prompt
    prompt_B = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
    state = prefill(
        module,
        params,
        jnp.asarray(tokens_BP),
        prompt_B,
        slots=size + room,
        room=room,
        penalty=False,
    )
    k, batch = num_beams, len(prompts)
    blank = jnp.zeros((batch, k, room), jnp.int32)
    none = jnp.full((batch, k), _NEVER)
    each = jnp.repeat(jnp.arange(batch), k)
    heads = module.config.num_heads
    beams = Beams(
        caches=tuple(cache.of_rows(each, heads) for cache in state.caches),
        logits=jnp.repeat(state.logits[:, None], k, axis=1),
        made=state.made,
        tokens=blank,
        # All beams are the prompt yet: only the first one's continuations count.
        scores=none.at[:, 0].set(0.0),
        done_tokens=blank,
        done_lengths=jnp.zeros((batch, k), jnp.int32),
        done_scores=none,
        is_done=jnp.zeros((batch, k), bool),
        open=jnp.ones(batch, bool),
    )
    found = jax.device_get(
        _search(
            module,
            params,
            beams,
            prompt_B,
            jnp.asarray(max_tokens, jnp.int32),
            bucket=size,
            length_penalty=length_penalty,
            end=end,
        )
    )
    out = []
    for b in range(batch):
        ranked = []
        for i in np.argsort(-found.done_scores[b], kind="stable"):
            row = found.done_tokens[b, i, : found.done_lengths[b, i]]
            if end is not None and len(row) and row[-1] == end:
                row = row[:-1]
            ranked.append(Continuation(row, found.done_scores[b, i : i + 1]))
        out.append(ranked)
    return out
