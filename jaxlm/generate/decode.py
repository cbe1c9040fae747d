"""Prompts of ids → continuations: one prefill, then a loop that stays on the device.

    prompt     a b c . .          P slots, padded on the right to a bucket
    slots      a b c . . d e f    the next tokens of all rows go to slots P, P + 1, …
    positions  0 1 2     3 4 5    counted in each row; padding has none

Rows never see padding or each other, and random draws are named by (seed, sample,
position): a prompt gives the same text alone and among others. Shapes stay the same
from the first token to the last, so each token costs the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.generate.choose import choose
from jaxlm.generate.sampling import Sampling, TokenChoice
from jaxlm.keys import key_for
from jaxlm.models.gpt import Gpt, empty_caches
from jaxlm.models.kernels.head import tied_logits
from jaxlm.models.layers import Cache

CHUNK = 32  # tokens between two looks of the host, for streaming and stop strings


class DecodeState(NamedTuple):
    """Texts of B rows under way; N is the room for new tokens."""

    caches: tuple[Cache, ...]
    padding: Bool[Array, "B T"]  # slots between a prompt and the first new token
    logits: Float[Array, "B V"]  # of the token to be chosen next
    prompt: Int[Array, "B"]  # tokens of each prompt
    made: Int[Array, ""]  # tokens chosen so far
    done: Bool[Array, "B"]
    seen: Bool[Array, "B V"] | None  # for the repetition penalty
    tokens: Int[Array, "B N"]
    scores: Float[Array, "B N"]  # log-probability of each token under the model


class Continuation(NamedTuple):
    """What follows a prompt."""

    tokens: np.ndarray  # int32 [n], without the one that ends it
    scores: np.ndarray | None  # float32 [n], log-probabilities, where asked for


Watch = Callable[[list[np.ndarray]], Sequence[bool]]


def prefill(
    module: Gpt,
    params: Any,
    prompts: Sequence[np.ndarray],
    max_tokens: int,
    *,
    penalty: bool = False,
) -> DecodeState:
    """Read the prompts, with room for `max_tokens` more.

    Prompts are padded to a power of two and the room to whole chunks, so that few
    programs are compiled. `params` are `unstacked`.
    """
    size, longest = 16, max(map(len, prompts))
    while size < longest:
        size *= 2
    tokens_BP = np.zeros((len(prompts), min(size, module.config.max_length)), np.int32)
    for row, prompt in zip(tokens_BP, prompts, strict=True):
        row[: len(prompt)] = prompt
    prompt_B = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
    room = -(-max_tokens // CHUNK) * CHUNK
    return _prefill(
        module, params, jnp.asarray(tokens_BP), prompt_B, room=room, penalty=penalty
    )


@functools.partial(jax.jit, static_argnames=("module", "room", "penalty"))
def _prefill(
    module: Gpt,
    params: Any,
    tokens_BP: Int[Array, "B P"],
    prompt_B: Int[Array, "B"],
    *,
    room: int,
    penalty: bool,
) -> DecodeState:
    batch, length = tokens_BP.shape
    slot_T = jnp.arange(length + room)
    padding_BT = (slot_T[None] >= prompt_B[:, None]) & (slot_T[None] < length)
    position_ids = jnp.minimum(jnp.arange(length), module.config.max_length - 1)[None]
    caches = empty_caches(module.config, batch, length + room, module.dtype)
    logits_BV, caches = next_logits(
        module, params, tokens_BP, position_ids, padding_BT, caches, prompt_B - 1
    )
    seen_BV = None
    if penalty:
        rows = jnp.arange(batch)[:, None]
        seen_BV = jnp.zeros(logits_BV.shape, bool)
        seen_BV = seen_BV.at[rows, tokens_BP].max(~padding_BT[:, :length])
    return DecodeState(
        caches=caches,
        padding=padding_BT,
        logits=logits_BV,
        prompt=prompt_B,
        made=jnp.zeros((), jnp.int32),
        done=jnp.zeros(batch, bool),
        seen=seen_BV,
        tokens=jnp.zeros((batch, room), jnp.int32),
        scores=jnp.zeros((batch, room), jnp.float32),
    )


def next_logits(
    module: Gpt,
    params: Any,
    tokens_BL: Int[Array, "B L"],
    position_ids: Int[Array, "#B L"],
    padding_BT: Bool[Array, "B T"],
    caches: tuple[Cache, ...],
    last_B: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B V"], tuple[Cache, ...]]:
    """Run the decoder on L more tokens: float32 logits after token `last_B`, caches.

    The next L slots hold the tokens; without `last_B` L is 1.
    """
    out: Any = module.apply(
        {"params": params},
        tokens_BL,
        position_ids=position_ids,
        segments=(~padding_BT).astype(jnp.int32),
        caches=caches,
        logits=False,
    )
    last_BD = out.last[:, 0]
    if last_B is not None:
        last_BD = jnp.take_along_axis(out.last, last_B[:, None, None], axis=1)[:, 0]
    logits_BR = tied_logits(last_BD, out.table)
    return logits_BR[:, : module.config.vocab_size], out.carry


@functools.partial(
    jax.jit,
    static_argnames=("module", "choice", "seed", "end", "scored"),
    donate_argnames=("state",),
)
def _advance(
    module: Gpt,
    params: Any,
    state: DecodeState,
    until: Int[Array, ""],
    sample_B: Int[Array, "B"],
    *,
    choice: TokenChoice,
    seed: int,
    end: int | None,
    scored: bool,
) -> DecodeState:
    """Choose tokens until each row has `until`, or all rows are done."""

    def step(state: DecodeState) -> DecodeState:
        position_B = state.prompt + state.made
        keys_B = key_for(seed, "sample", sample_B, position_B)
        token_B = choose(state.logits, keys_B, choice, state.seen)
        token_B = jnp.where(state.done, 0 if end is None else end, token_B)
        scores_BN, seen_BV = state.scores, state.seen
        if scored:
            log_p_BV = jax.nn.log_softmax(state.logits)
            score_B1 = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=-1)
            scores_BN = _put(scores_BN, score_B1, state.made)
        if seen_BV is not None:
            seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
        logits_BV, caches = next_logits(
            module,
            params,
            token_B[:, None],
            position_B[:, None],
            state.padding,
            state.caches,
        )
        return state._replace(
            caches=caches,
            logits=logits_BV,
            made=state.made + 1,
            done=state.done if end is None else state.done | (token_B == end),
            seen=seen_BV,
            tokens=_put(state.tokens, token_B[:, None], state.made),
            scores=scores_BN,
        )

    return jax.lax.while_loop(
        lambda state: (state.made < until) & ~jnp.all(state.done), step, state
    )


def _put(x_BN: Array, column_B1: Array, index: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x_BN, column_B1, index, axis=1)


def decode(
    module: Gpt,
    params: Any,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    *,
    end: int | None = None,
    scored: bool = False,
    watch: Watch | None = None,
) -> list[Continuation]:
    """Continue each prompt: [prompt 0 sample 0, prompt 0 sample 1, …, prompt 1 …].

    Args:
        module: a decoder.
        params: of it, `unstacked` (models/gpt.py).
        prompts: at least one id each; with `max_tokens` more they fit the context.
        sampling: without beams; stop strings are left to `watch`.
        end: id that ends a continuation.
        scored: return log-probabilities.
        watch: called every `CHUNK` tokens with all tokens of each row so far; returns
            True for each row that ends there.
    """
    samples = sampling.samples
    rows = [prompt for prompt in prompts for _ in range(samples)]
    penalty = sampling.repetition_penalty != 1
    state = prefill(module, params, rows, sampling.max_tokens, penalty=penalty)
    sample_B = jnp.tile(jnp.arange(samples, dtype=jnp.int32), len(prompts))
    ended = np.zeros(len(rows), bool)
    made = 0
    while made < sampling.max_tokens and not ended.all():
        made = min(made + CHUNK, sampling.max_tokens)
        state = _advance(
            module,
            params,
            state,
            jnp.asarray(made, jnp.int32),
            sample_B,
            choice=sampling.choice,
            seed=sampling.seed,
            end=end,
            scored=scored,
        )
        ended = np.asarray(state.done)
        if watch:
            ended = ended | np.array(watch(_rows(state, end)), bool)
            state = state._replace(done=jnp.asarray(ended))
    scores = np.asarray(state.scores)
    return [
        Continuation(row, scores[i, : len(row)] if scored else None)
        for i, row in enumerate(_rows(state, end))
    ]


def _rows(state: DecodeState, end: int | None) -> list[np.ndarray]:
    """The tokens of each row before the one that ends it."""
    tokens = np.asarray(state.tokens)[:, : int(state.made)]
    return [before(row, end) for row in tokens]


def before(row: np.ndarray, end: int | None) -> np.ndarray:
    """The tokens before the first `end`."""
    if end is None or end not in row:
        return row
    return row[: np.flatnonzero(row == end)[0]]
