"""Prompts of ids → continuations: one prefill, then a loop that stays on the device.

    prompt   a b c . .          P slots, padded on the right to a bucket
    slots    a b c . . d e f    the next tokens of all rows go to slots P, P + 1, …
    places   0 1 2     3 4 5    positions are each row's own: padding has none

Rows never see padding or each other, and chance is named by (seed, sample, place): a
prompt among others gives what it gives alone. Everything has one shape from the first
token to the last, so each token costs the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.generate.sampling import Sampling, choose
from jaxlm.keys import key_for
from jaxlm.models.gpt import Gpt, empty_caches
from jaxlm.models.layers import Cache

CHUNK = 32  # tokens between two looks of the host, for streaming and stop strings


class DecodeState(NamedTuple):
    """Of a generation under way."""

    caches: tuple[Cache, ...]
    logits: Float[Array, "B V"]  # of the token to be chosen next
    prompt: Int[Array, "B"]  # tokens of each prompt
    made: Int[Array, ""]  # tokens chosen so far
    done: Bool[Array, "B"]
    seen: Bool[Array, "B V"] | None  # for the repetition penalty
    tokens: Int[Array, "B N"]
    scores: Float[Array, "B N"]  # log-probability of each token under the model


def bucket(length: int, most: int) -> int:
    """The shape that a prompt is padded to: few of them, so few programs."""
    size = 16
    while size < length:
        size *= 2
    return min(size, most)


@functools.partial(jax.jit, static_argnames=("module", "slots", "room", "penalty"))
def prefill(
    module: Gpt,
    params: Any,
    tokens_BP: Int[Array, "B P"],
    prompt_B: Int[Array, "B"],
    *,
    slots: int,
    room: int,
    penalty: bool,
) -> DecodeState:
    """Read the prompts.

    Args:
        module: a decoder.
        params: of it, `unstacked`.
        tokens_BP: prompts, padded on the right.
        prompt_B: tokens of each, at least one.
        slots: of the caches: P and those of the tokens to come.
        room: N, most tokens to come.
        penalty: keep which tokens occurred.
    """
    batch, length = tokens_BP.shape
    at = jnp.arange(length)
    positions_1P = jnp.minimum(at, module.config.max_length - 1)[None]
    mask = jnp.arange(slots)[None, None] <= at[None, :, None]
    caches = empty_caches(module.config, batch, slots, module.dtype)
    last_BPD, head_RD, caches = read_on(
        module, params, tokens_BP, positions_1P, mask, caches
    )
    last_BD = jnp.take_along_axis(last_BPD, (prompt_B - 1)[:, None, None], axis=1)[:, 0]
    seen_BV = None
    if penalty:
        rows = jnp.arange(batch)[:, None]
        real = at[None] < prompt_B[:, None]
        seen_BV = jnp.zeros((batch, module.config.vocab_size), bool)
        seen_BV = seen_BV.at[rows, tokens_BP].max(real)
    return DecodeState(
        caches=caches,
        logits=head_logits(module, head_RD, last_BD),
        prompt=prompt_B,
        made=jnp.zeros((), jnp.int32),
        done=jnp.zeros(batch, bool),
        seen=seen_BV,
        tokens=jnp.zeros((batch, room), jnp.int32),
        scores=jnp.zeros((batch, room), jnp.float32),
    )


@functools.partial(
    jax.jit,
    static_argnames=("module", "bucket", "sampling", "seed", "end", "scored"),
    donate_argnames=("state",),
)
def advance(
    module: Gpt,
    params: Any,
    state: DecodeState,
    until: Int[Array, ""],
    sample_B: Int[Array, "B"],
    *,
    bucket: int,
    sampling: Sampling,
    seed: int,
    end: int | None,
    scored: bool,
) -> DecodeState:
    """Choose tokens up to number `until`, or until every row is done.

    Args:
        module: a decoder.
        params: of it, `unstacked`.
        state: given up to this call.
        until: tokens a row.
        sample_B: which of the samples of its prompt each row is.
        bucket: P of the prompts.
        sampling: how to choose.
        seed: of the chance.
        end: id that ends a row; None: none does.
        scored: give log-probabilities.
    """
    slots = state.caches[0].k.shape[-1]
    at_T = jnp.arange(slots)

    def step(state: DecodeState) -> DecodeState:
        places_B = state.prompt + state.made
        keys_B = key_for(seed, "sample", sample_B, places_B)
        token_B = choose(state.logits, keys_B, sampling, state.seen)
        token_B = jnp.where(state.done, 0 if end is None else end, token_B)
        scores_BN = state.scores
        if scored:
            log_p_BV = jax.nn.log_softmax(state.logits)
            score_B = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=-1)
            scores_BN = jax.lax.dynamic_update_slice(
                scores_BN, score_B, (jnp.zeros_like(state.made), state.made)
            )
        written = (at_T >= bucket) & (at_T <= bucket + state.made)
        mask = (at_T[None] < state.prompt[:, None]) | written[None]
        last_B1D, head_RD, caches = read_on(
            module,
            params,
            token_B[:, None],
            places_B[:, None],
            mask[:, None],
            state.caches,
        )
        rows = jnp.arange(len(token_B))
        seen_BV = state.seen
        return DecodeState(
            caches=caches,
            logits=head_logits(module, head_RD, last_B1D[:, 0]),
            prompt=state.prompt,
            made=state.made + 1,
            done=state.done if end is None else state.done | (token_B == end),
            seen=None if seen_BV is None else seen_BV.at[rows, token_B].set(True),
            tokens=jax.lax.dynamic_update_slice(
                state.tokens,
                token_B[:, None],
                (jnp.zeros_like(state.made), state.made),
            ),
            scores=scores_BN,
        )

    return jax.lax.while_loop(
        lambda state: (state.made < until) & ~jnp.all(state.done), step, state
    )


def read_on(
    module: Gpt,
    params: Any,
    tokens_BL: Int[Array, "B L"],
    positions_BL: Int[Array, "#B L"],
    mask: Bool[Array, "#B #L T"],
    caches: tuple[Cache, ...],
) -> tuple[Float[Array, "B L D"], Float[Array, "R D"], tuple[Cache, ...]]:
    """The decoder on L more tokens: its last layer, its head's table, the caches."""
    out = module.apply(
        {"params": params}, tokens_BL, positions_BL, mask, caches, logits=False
    )
    return out.last, out.head, out.caches  # pyrefly: ignore


def head_logits(
    module: Gpt, head_RD: Float[Array, "R D"], last_BD: Float[Array, "B D"]
) -> Float[Array, "B V"]:
    """Float32 logits of the vocabulary's own rows."""
    head_RD = head_RD.astype(last_BD.dtype)
    logits_BR = jnp.matmul(last_BD, head_RD.T, preferred_element_type=jnp.float32)
    return logits_BR[:, : module.config.vocab_size]


class Continuation(NamedTuple):
    """What follows a prompt."""

    tokens: np.ndarray  # int32 [n], the one that ends it not among them
    scores: np.ndarray | None  # float32 [n], log-probabilities, where asked for


Watch = Callable[[list[np.ndarray]], Sequence[bool]]


def decode(
    module: Gpt,
    params: Any,
    prompts: Sequence[np.ndarray],
    *,
    max_tokens: int,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    end: int | None = None,
    scored: bool = False,
    watch: Watch | None = None,
) -> list[Continuation]:
    """Continue every prompt `samples` times: [prompt 0 sample 0, 0 1, …, 1 0, …].

    Args:
        module: a decoder.
        params: of it, `unstacked` (models/gpt.py).
        prompts: ids, at least one each; with `max_tokens` they fit the context.
        max_tokens: most tokens of a continuation.
        sampling: how tokens are chosen.
        samples: continuations a prompt.
        seed: names all chance, below 2³².
        end: id that ends a continuation.
        scored: give log-probabilities.
        watch: called every `CHUNK` tokens with all tokens of each row so far; True for
            a row that shall end there.
    """
    longest = max(len(prompt) for prompt in prompts)
    size = bucket(longest, module.config.max_length)
    room = -(-max_tokens // CHUNK) * CHUNK
    rows = [prompt for prompt in prompts for _ in range(samples)]
    tokens_BP = np.zeros((len(rows), size), np.int32)
    for i, prompt in enumerate(rows):
        tokens_BP[i, : len(prompt)] = prompt
    state = prefill(
        module,
        params,
        jnp.asarray(tokens_BP),
        jnp.asarray([len(prompt) for prompt in rows], jnp.int32),
        slots=size + room,
        room=room,
        penalty=sampling.repetition_penalty != 1,
    )
    sample_B = jnp.tile(jnp.arange(samples, dtype=jnp.int32), len(prompts))
    ended = np.zeros(len(rows), bool)
    made = 0
    while made < max_tokens and not ended.all():
        until = min(made + CHUNK, max_tokens)
        state = advance(
            module,
            params,
            state,
            jnp.asarray(until, jnp.int32),
            sample_B,
            bucket=size,
            sampling=sampling,
            seed=seed,
            end=end,
            scored=scored,
        )
        made = until
        ended = np.asarray(state.done)
        if watch:
            asked = np.array(watch(_rows(state, end)), bool)
            ended = ended | asked
            state = state._replace(done=jnp.asarray(ended))
    scores = np.asarray(state.scores)
    return [
        Continuation(row, scores[i, : len(row)] if scored else None)
        for i, row in enumerate(_rows(state, end))
    ]


def _rows(state: DecodeState, end: int | None) -> list[np.ndarray]:
    tokens = np.asarray(state.tokens)[:, : int(state.made)]
    if end is None:
        return list(tokens)
    cut = [np.flatnonzero(row == end) for row in tokens]
    return [
        row[: at[0]] if len(at) else row for row, at in zip(tokens, cut, strict=True)
    ]
