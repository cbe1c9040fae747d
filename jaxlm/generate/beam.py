"""Beam search over a decoder, by the rules of transformers' `_beam_search` (v5).

At each step the continuations of all beams compete. The best 2 K candidates of a prompt
are looked at. Those that end join the K finished ones if they are among the first K;
the best K that do not end go on. The score of a finished one is its summed
log-probability over length ** length_penalty, where the end token counts. A search
stops when the best beam, at its present length, could not replace the worst of K
finished ones.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.generate.choose import largest
from jaxlm.generate.decode import Continuation, before, next_logits, prefill
from jaxlm.generate.sampling import Sampling
from jaxlm.models.gpt import Gpt
from jaxlm.models.layers import Cache

_NEVER = -1e9  # score of an absent candidate; finite, so that it can be divided


class Finished(NamedTuple):
    """Sequences that ended, or candidates for that."""

    tokens: Int[Array, "B C N"]
    lengths: Int[Array, "B C"]
    scores: Float[Array, "B C"]
    is_done: Bool[Array, "B C"]


class Beams(NamedTuple):
    """A search under way: B prompts, K beams each."""

    caches: tuple[Cache, ...]  # B · K rows
    logits: Float[Array, "B K V"]
    made: Int[Array, ""]
    tokens: Int[Array, "B K N"]
    scores: Float[Array, "B K"]  # summed log-probabilities
    finished: Finished
    open: Bool[Array, "B"]  # a beam may still replace a finished one


@functools.partial(jax.jit, static_argnames=("module", "length_penalty", "end"))
def _search(
    module: Gpt,
    params: Any,
    beams: Beams,
    prompt_B: Int[Array, "B"],
    padding_BT: Bool[Array, "B T"],
    max_tokens: Int[Array, ""],
    *,
    length_penalty: float,
    end: int | None,
) -> Beams:
    batch, k, _ = beams.logits.shape
    heads = module.config.num_heads
    padding_RT = jnp.repeat(padding_BT, k, axis=0)

    def step(beams: Beams) -> Beams:
        log_p = jax.nn.log_softmax(beams.logits) + beams.scores[..., None]
        vocab = log_p.shape[-1]
        best, where = largest(log_p.reshape(batch, -1), 2 * k)
        parent, token = where // vocab, (where % vocab).astype(jnp.int32)
        tokens = _pick(beams.tokens, parent).at[:, :, beams.made].set(token)
        length = beams.made + 1
        ends = jnp.full(token.shape, length >= max_tokens)
        if end is not None:
            ends |= token == end

        share = length.astype(jnp.float32) ** length_penalty
        taken = ends & (jnp.arange(2 * k) < k)[None] & beams.open[:, None]
        ended = Finished(
            tokens,
            jnp.full(token.shape, length),
            jnp.where(taken, best / share, _NEVER),
            taken,
        )
        either = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b], 1), beams.finished, ended
        )
        _, keep = largest(either.scores, k)
        finished = jax.tree.map(lambda x: _pick(x, keep), either)

        scores, on = largest(jnp.where(ends, best + _NEVER, best), k)
        parent, token = _pick(parent, on), _pick(token, on)
        rows = (parent + k * jnp.arange(batch)[:, None]).reshape(-1)
        logits, caches = next_logits(
            module,
            params,
            token.reshape(-1, 1),
            jnp.repeat(prompt_B + beams.made, k)[:, None],
            padding_RT,
            tuple(cache.of_rows(rows, heads) for cache in beams.caches),
        )
        worst = finished.scores.min(-1, keepdims=True)
        worst = jnp.where(finished.is_done, worst, _NEVER)
        return Beams(
            caches=caches,
            logits=logits.reshape(batch, k, -1),
            made=length,
            tokens=_pick(tokens, on),
            scores=scores,
            finished=finished,
            open=beams.open & jnp.any(scores[:, :1] / share > worst, axis=-1),
        )

    return jax.lax.while_loop(
        lambda beams: (beams.made < max_tokens) & jnp.any(beams.open), step, beams
    )


def _pick(x: Array, which_BK: Int[Array, "B K"]) -> Array:
    index = which_BK.reshape(*which_BK.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)


def beam_search(
    module: Gpt,
    params: Any,
    prompts: list[np.ndarray],
    sampling: Sampling,
    *,
    end: int | None = None,
) -> list[list[Continuation]]:
    """The K = `sampling.beams` best continuations of each prompt, best first.

    The `scores` of a continuation hold one number, which it is ranked by. Of `sampling`
    only `max_tokens`, `beams` and `length_penalty` count; for the other arguments see
    `decode`.
    """
    k, batch = sampling.beams, len(prompts)
    heads = module.config.num_heads
    state = prefill(module, params, prompts, sampling.max_tokens)
    each = jnp.repeat(jnp.arange(batch), k)
    blank = jnp.zeros((batch, k, state.tokens.shape[1]), jnp.int32)
    none = jnp.full((batch, k), _NEVER)
    beams = Beams(
        caches=tuple(cache.of_rows(each, heads) for cache in state.caches),
        logits=jnp.repeat(state.logits[:, None], k, axis=1),
        made=state.made,
        tokens=blank,
        # All beams are still the bare prompt: only the first one's candidates count.
        scores=none.at[:, 0].set(0.0),
        finished=Finished(
            blank, jnp.zeros((batch, k), jnp.int32), none, jnp.zeros((batch, k), bool)
        ),
        open=jnp.ones(batch, bool),
    )
    beams = _search(
        module,
        params,
        beams,
        state.prompt,
        state.padding,
        jnp.asarray(sampling.max_tokens, jnp.int32),
        length_penalty=sampling.length_penalty,
        end=end,
    )
    found = jax.device_get(beams.finished)
    return [
        [
            Continuation(before(tokens[i, : lengths[i]], end), scores[i : i + 1])
            for i in np.argsort(-scores, kind="stable")
        ]
        for tokens, lengths, scores, _ in zip(*found, strict=True)
    ]
