"""Prompts of ids → continuations: one prefill, then a loop that stays on the device.

    prompt     a b c . .          P slots, padded on the right to a bucket
    slots      a b c . . d e f    the next tokens of all rows go to slots P, P + 1, …
    positions  0 1 2     3 4 5    counted in each row; padding has none

Rows never see padding or each other, and random draws are named by (seed, sample,
position), so the text of a prompt does not depend on other prompts. Shapes stay the
same from the first token to the last, so each token costs the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlm.generate.choose import Choice, choose
from jaxlm.generate.sampling import Sampling
from jaxlm.keys import key_for
from jaxlm.models.encoder import Cache, unstacked
from jaxlm.models.gpt import Gpt
from jaxlm.models.kernels.head import tied_logits

CHUNK = 32  # tokens between two looks of the host, for streaming and stop strings


class Continuation(NamedTuple):
    """The continuation of a prompt, as tokens."""

    tokens: np.ndarray  # int32 [n], without the one that ends it
    scores: np.ndarray | None  # float32 [n], log-probabilities, where asked for


class Context(NamedTuple):
    """The state of a decoder for B rows: a prompt each, then up to N new tokens."""

    caches: tuple[Cache, ...]
    padding: Bool[Array, "B T"]  # slots between a prompt and the first new token
    prompt: Int[Array, "B"]  # tokens of each prompt
    made: Int[Array, ""]  # new tokens so far
    tokens: Int[Array, "B N"]  # the new tokens
    logits: Float[Array, "B V"]  # of the token to be chosen next

    def extended(self, module: Gpt, params: Any, token_B: Int[Array, "B"]) -> "Context":
        """The context with another token in each row; `params` are `unstacked`."""
        tokens_B1, positions_B1 = token_B[:, None], (self.prompt + self.made)[:, None]
        inputs = tokens_B1, positions_B1, self.padding, self.caches
        out = _read(module, params, *inputs)
        put = jax.lax.dynamic_update_slice_in_dim
        return self._replace(
            caches=out.carry,
            made=self.made + 1,
            tokens=put(self.tokens, tokens_B1, self.made, axis=1),
            logits=tied_logits(out.last[:, 0], out.table)[:, : self.logits.shape[1]],
        )

    def of_rows(self, rows: Int[Array, "R"]) -> "Context":
        """The context of the rows with these numbers."""
        caches = (Cache(each.k[rows], each.v[rows], each.slot) for each in self.caches)
        padding, prompt, _, tokens, logits = self[1:]
        rest = padding[rows], prompt[rows], self.made, tokens[rows], logits[rows]
        return Context(tuple(caches), *rest)


def _read(module, params, tokens_BL, position_ids, padding_BT, caches) -> Any:
    """The output of the decoder for L more tokens, which take the next L slots."""
    return module.apply(
        {"params": params},
        tokens_BL,
        position_ids=position_ids,
        segments=(~padding_BT).astype(jnp.int32),
        caches=caches,
        logits=False,
    )


def prefill(
    module: Gpt,
    params: Any,
    prompts: Sequence[np.ndarray],
    max_tokens: int,
    drawn: int | None = None,
) -> Context:
    """Read the prompts, with room for `max_tokens` more tokens, of ids below `drawn`.

    Prompts are padded to a power of two, and the room to whole chunks, so that few
    programs are compiled.
    """
    prompt_B = np.array([len(prompt) for prompt in prompts], np.int32)
    length = max(16, 1 << int(prompt_B.max() - 1).bit_length())
    length = min(length, module.config.max_length)
    tokens_BP = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(tokens_BP, prompts, strict=True):
        row[: len(prompt)] = prompt
    room = -(-max_tokens // CHUNK) * CHUNK
    drawn = drawn or module.config.vocab_size
    return _prefill(module, params, tokens_BP, prompt_B, room=room, drawn=drawn)


@functools.partial(jax.jit, static_argnames=("module", "room", "drawn"))
def _prefill(
    module: Gpt,
    params: Any,
    tokens_BP: Int[Array, "B P"],
    prompt_B: Int[Array, "B"],
    *,
    room: int,
    drawn: int,
) -> Context:
    config, (batch, length) = module.config, tokens_BP.shape
    slot_T = jnp.arange(length + room)
    padding_BT = (slot_T[None] >= prompt_B[:, None]) & (slot_T[None] < length)
    positions = jnp.minimum(jnp.arange(length), config.max_length - 1)[None]
    heads = config.num_heads, config.d_model // config.num_heads
    empty = jnp.zeros((batch, length + room, *heads), module.dtype)
    caches = (Cache(empty, empty, jnp.zeros((), jnp.int32)),) * config.num_layers
    out = _read(module, unstacked(params), tokens_BP, positions, padding_BT, caches)
    last_B11 = (prompt_B - 1)[:, None, None]
    last_BD = jnp.take_along_axis(out.last, last_B11, axis=1)[:, 0]
    return Context(
        caches=out.carry,
        padding=padding_BT,
        prompt=prompt_B,
        made=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros((batch, room), jnp.int32),
        logits=tied_logits(last_BD, out.table)[:, :drawn],
    )


class DecodeState(NamedTuple):
    """The state of sampling for B rows."""

    context: Context
    sample: Int[Array, "B"]  # number of each row among those of its prompt
    done: Bool[Array, "B"]
    seen: Bool[Array, "B V"] | None  # tokens that occurred, for the repetition penalty
    scores: Float[Array, "B N"] | None  # log-probability of each token, if asked for


@functools.partial(
    jax.jit, static_argnames=("module", "end"), donate_argnames=("state",)
)
def _advance(
    module: Gpt,
    params: Any,
    state: DecodeState,
    until: Int[Array, ""],
    choice: Choice,
    *,
    end: int | None,
) -> DecodeState:
    """Choose tokens until each row has `until` tokens, or until all rows are done."""
    params = unstacked(params)

    def step(state: DecodeState) -> DecodeState:
        context, sample_B, done_B, seen_BV, scores_BN = state
        position_B = context.prompt + context.made
        keys_B = key_for(choice.seed, "sample", sample_B, position_B)
        token_B = choose(context.logits, keys_B, choice, seen_BV)
        token_B = jnp.where(done_B, 0 if end is None else end, token_B)
        if end is not None:
            done_B |= token_B == end
        if seen_BV is not None:
            seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
        if scores_BN is not None:
            log_p_BV = jax.nn.log_softmax(context.logits)
            score_B1 = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=-1)
            put = jax.lax.dynamic_update_slice_in_dim
            scores_BN = put(scores_BN, score_B1, context.made, axis=1)
        context = context.extended(module, params, token_B)
        return DecodeState(context, sample_B, done_B, seen_BV, scores_BN)

    def going_on(state: DecodeState) -> Bool[Array, ""]:
        return (state.context.made < until) & ~jnp.all(state.done)

    return jax.lax.while_loop(going_on, step, state)


def decode(
    module: Gpt,
    params: Any,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    *,
    end: int | None = None,
    drawn: int | None = None,
    scored: bool = False,
    watch: Callable[[list[np.ndarray]], Sequence[bool]] | None = None,
) -> list[Continuation]:
    """Continue each prompt: [prompt 0 sample 0, prompt 0 sample 1, …, prompt 1 …].

    Args:
        prompts: at least one id each; prompt and `max_tokens` must fit the context.
        sampling: without beams; its stop strings are ignored, use `watch`.
        end: id that ends a continuation.
        drawn: number of ids that may be drawn; the rest pad the vocabulary. None: all.
        scored: return log-probabilities.
        watch: called every `CHUNK` tokens with all tokens of each row so far; returns
            True for each row that is to end.
    """
    rows = [prompt for prompt in prompts for _ in range(sampling.samples)]
    seen_BV = None
    if sampling.repetition_penalty != 1:
        seen_BV = np.zeros((len(rows), module.config.vocab_size), bool)
        for seen_V, prompt in zip(seen_BV, rows, strict=True):
            seen_V[prompt] = True
        seen_BV = seen_BV[:, :drawn]
    choice = Choice.of(sampling)
    context = prefill(module, params, rows, sampling.max_tokens, drawn)
    state = DecodeState(
        context,
        sample=jnp.tile(jnp.arange(sampling.samples), len(prompts)),
        done=jnp.zeros(len(rows), bool),
        seen=None if seen_BV is None else jnp.asarray(seen_BV),
        scores=jnp.zeros(context.tokens.shape) if scored else None,
    )
    ended, tokens = np.zeros(len(rows), bool), []
    made = 0
    while made < sampling.max_tokens and not ended.all():
        made = min(made + CHUNK, sampling.max_tokens)
        state = _advance(module, params, state, made, choice, end=end)
        ended, each = np.asarray(state.done), np.asarray(state.context.tokens)
        tokens = [before(row, end) for row in each[:, : int(state.context.made)]]
        if watch:
            ended = ended | np.array(watch(tokens), bool)
            state = state._replace(done=jnp.asarray(ended))
    if not scored:
        return [Continuation(row, None) for row in tokens]
    scores = zip(tokens, np.asarray(state.scores), strict=True)
    return [Continuation(row, each[: len(row)]) for row, each in scores]


def before(row: np.ndarray, end: int | None) -> np.ndarray:
    """The tokens before the first `end`."""
    if end is None or end not in row:
        return row
    return row[: np.flatnonzero(row == end)[0]]
