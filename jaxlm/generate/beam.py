"""Beam search over a decoder, by the rules of transformers' `_beam_search` (v5).

Each step takes the best 2 K candidates (a beam and its next token) of each prompt. A
candidate that ends, and is among the best K, is finished. The best K candidates that do
not end are the new beams. A finished text has the score log-probability / length **
length_penalty, where the length counts the end token; the best K finished texts are
kept. The search stops if the score of the best beam, at its present length, is not
above that of the worst of K finished texts.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.generate.choose import largest
from jaxlm.generate.decode import Context, Continuation, before, prefill
from jaxlm.generate.sampling import Sampling
from jaxlm.models.encoder import unstacked
from jaxlm.models.gpt import Gpt

_NEVER = -1e9  # score of an absent candidate; finite, so that it can be divided


class Beams(NamedTuple):
    """The state of a search for B prompts with K beams each."""

    context: Context  # of B · K rows
    scores: Float[Array, "B K"]  # summed log-probabilities
    finished: Int[Array, "B K N"]  # tokens of the best that have ended
    finished_scores: Float[Array, "B K"]  # by which they are ranked
    open: Bool[Array, "B"]  # a beam may still replace a finished one


@functools.partial(jax.jit, static_argnames=("module", "k", "end"))
def _search(
    module: Gpt,
    params: Any,
    context: Context,  # of B rows
    max_tokens: Int[Array, ""],
    length_penalty: Float[Array, ""],
    *,
    k: int,
    end: int | None,
) -> Beams:
    params, (batch, vocab) = unstacked(params), context.logits.shape
    first_B1 = k * jnp.arange(batch)[:, None]  # number of a prompt's first row

    def step(beams: Beams) -> Beams:
        context = beams.context
        log_p = jax.nn.log_softmax(context.logits).reshape(batch, k, vocab)
        every = (log_p + beams.scores[..., None]).reshape(batch, -1)
        best, where = largest(every, 2 * k)
        rows, token = first_B1 + where // vocab, (where % vocab).astype(jnp.int32)
        tokens = context.tokens[rows].at[:, :, context.made].set(token)
        length = context.made + 1
        ends = jnp.full(token.shape, length >= max_tokens)
        if end is not None:
            ends |= token == end

        share = length.astype(jnp.float32) ** length_penalty
        taken = ends & (jnp.arange(2 * k) < k)[None] & beams.open[:, None]
        ended = jnp.where(taken, best / share, _NEVER)
        either = jnp.concatenate([beams.finished_scores, ended], 1)
        finished_scores, keep = largest(either, k)
        either = jnp.concatenate([beams.finished, tokens], 1)
        finished = jnp.take_along_axis(either, keep[..., None], axis=1)

        scores, on = largest(jnp.where(ends, best + _NEVER, best), k)
        rows, token = (
            jnp.take_along_axis(x, on, axis=1).ravel() for x in (rows, token)
        )
        worst = finished_scores.min(-1)
        return Beams(
            context=context.of_rows(rows).extended(module, params, token),
            scores=scores,
            finished=finished,
            finished_scores=finished_scores,
            open=beams.open & (scores[:, 0] / share > worst),
        )

    def going_on(beams: Beams) -> Bool[Array, ""]:
        return (beams.context.made < max_tokens) & jnp.any(beams.open)

    none = jnp.full((batch, k), _NEVER)
    beams = Beams(
        context=context.of_rows(jnp.repeat(jnp.arange(batch), k)),
        # All beams are still the bare prompt: only the first one's candidates count.
        scores=none.at[:, 0].set(0.0),
        finished=jnp.zeros((batch, k, context.tokens.shape[1]), jnp.int32),
        finished_scores=none,
        open=jnp.ones(batch, bool),
    )
    return jax.lax.while_loop(going_on, step, beams)


def beam_search(
    module: Gpt,
    params: Any,
    prompts: list[np.ndarray],
    sampling: Sampling,
    *,
    end: int | None = None,
    drawn: int | None = None,
) -> list[list[Continuation]]:
    """The K = `sampling.beams` best continuations of each prompt, best first.

    The `scores` of a continuation hold one number, by which continuations are ranked.
    Only `max_tokens`, `beams` and `length_penalty` of `sampling` matter; for the other
    arguments see `decode`.
    """
    most = sampling.max_tokens
    beams = _search(
        module,
        params,
        prefill(module, params, prompts, most, drawn),
        most,
        sampling.length_penalty,
        k=sampling.beams,
        end=end,
    )
    found = jax.device_get((beams.finished, beams.finished_scores))
    return [
        [
            Continuation(before(row[:most], end), score[None])
            for row, score in zip(rows, scores, strict=True)
        ]
        for rows, scores in zip(*found, strict=True)
    ]
