"""Prompts → what a model says to them at a step of its training.

    a BERT    It was a [MASK] day.     the likeliest words
    an ELMo   It was a [MASK] day.     those by the words before, and by those behind
    a GPT     Once upon a time         a continuation

Equal parameters give equal samples. Next: `samples.jsonl` in the run directory.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.keys import key_for
from jaxlm.models.kernels.head import tied_logits
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError

HOLE = "[MASK]"
MASKED = (
    "It was a [MASK] day.",
    "She went to the [MASK] with her mother.",
    "He did not [MASK] what to say.",
    "The [MASK] of the house was open.",
    "今天天气很[MASK]。",
    "他在北京[MASK]学读书。",
)
BEGUN = (
    "Once upon a time",
    "She looked at him and said",
    "The house stood",
    "从前有一座山，",
    "北京是",
)
_WORDS = 5  # of a hole
_TOKENS = 24  # of a continuation
_FROM = 40  # likeliest tokens, one of which is drawn: as for the samples of GPT-2
_DENSE = 1.5  # more tokens a character than this spell an alphabet that was not learnt


class Sampler(NamedTuple):
    """Parameters → arrays, to be compiled; the arrays → a record for each prompt."""

    compute: Callable[[Any], Any]
    said: Callable[[Any], list[dict[str, Any]]]


def suited(tokenizer: Tokenizer, prompts: Sequence[str]) -> tuple[str, ...]:
    """The prompts that the vocabulary can spell."""
    unknown = {tokenizer.id(name) for name in ("[UNK]", "<unk>", "<UNK>")}

    def suits(prompt: str) -> bool:
        ids = tokenizer.encode(prompt.replace(HOLE, " ")).ids.tolist()
        known = not unknown & {*ids} and max(ids) < tokenizer.vocab_size
        return known and len(ids) <= _DENSE * len(prompt)

    return tuple(filter(suits, prompts))


def masked_words(family: Any, config: Any, tokenizer: Tokenizer, prompts: Any):
    """The sampler of a BERT: the likeliest words for each [MASK]."""
    hole, frame = tokenizer.special.mask, family.frame(config, tokenizer)  # type: ignore[union-attr]
    rows = [frame.row(tokenizer.encode(each, specials=True).ids) for each in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        _check(prompt, hole in row, len(row), config.max_length)
    at = [(i, j) for i, row in enumerate(rows) for j in np.flatnonzero(row == hole)]
    return _words_at(family, config, tokenizer, prompts, frame, rows, np.array(at).T)


def words_between(family: Any, config: Any, tokenizer: Any, prompts: Any) -> Sampler:
    """The sampler of an ELMo: the likeliest words for [MASK], by what is before it, and
    by what is behind it."""
    frame = family.frame(config, tokenizer)
    begin, end = np.split(frame.between[::-1], 2)  # <S> and </S>
    rows, at = [], []
    for i, prompt in enumerate(prompts):
        before, hole, behind = prompt.partition(HOLE)
        cut = [tokenizer.cut(each) for each in (before, behind.replace(HOLE, " "))]
        words = frame.words([*cut[0], "-", *cut[1]])
        rows.append(np.concatenate([begin, *words, end]))
        _check(prompt, hole != "", len(rows[-1]), family.window(config))
        # The word before the hole predicts it forwards, the one behind it backwards.
        at += [(0, i, len(cut[0])), (1, i, len(cut[0]) + 2)]
    return _words_at(family, config, tokenizer, prompts, frame, rows, np.array(at).T)


def continuations(family: Any, config: Any, tokenizer: Tokenizer, prompts: Any):
    """The sampler of a GPT: a continuation of each prompt, drawn by fixed keys."""
    module, more = _module(family, config), min(_TOKENS, config.max_length // 2)
    rows = [tokenizer.encode(each, specials=True).ids for each in prompts]
    first = np.array([tokenizer.begin_of_text or 0], np.int32)
    rows = [row if len(row) else first for row in rows]
    for prompt, row in zip(prompts, rows, strict=True):
        _check(prompt, True, len(row), config.max_length - more)
    begun = np.array([len(row) for row in rows])
    tokens_BL = np.zeros((len(rows), int(begun.max()) + more), np.int32)
    for row, ids in zip(tokens_BL, rows, strict=True):
        row[: len(ids)] = ids
    number = np.arange(len(rows))

    def compute(params: Any) -> Any:
        def extended(n: Any, tokens_BL: Any) -> Any:
            # All rows are read again for each token: they are few and short.
            out = module.apply({"params": params}, tokens_BL, logits=False)
            last_BD = out.last[number, begun - 1 + n]
            logits_BV = tied_logits(last_BD, out.table)[:, : tokenizer.drawn]
            best, ids = jax.lax.top_k(logits_BV, min(_FROM, logits_BV.shape[1]))
            keys = key_for(0, "samples", number, jnp.full(len(rows), n))
            drawn = jax.vmap(jax.random.categorical)(keys, best)
            return tokens_BL.at[number, begun + n].set(ids[number, drawn])

        return jax.lax.fori_loop(0, more, extended, jnp.asarray(tokens_BL))

    def said(tokens_BL: Any) -> list[dict[str, Any]]:
        found = []
        for prompt, row, begin in zip(prompts, tokens_BL, begun, strict=True):
            row = row[begin : begin + more]
            ends = np.flatnonzero(row == tokenizer.end_of_document)
            row = row[: ends[0]] if len(ends) else row
            found.append({"prompt": prompt, "text": tokenizer.decode(row)})
        return found

    return Sampler(compute, said)


def _module(family: Any, config: Any) -> Any:
    return family.build(config, road="plain")  # the rows fit no mesh, no kernel's tiles


def _words_at(
    family: Any,
    config: Any,
    tokenizer: Tokenizer,
    prompts: Any,
    frame: Any,
    rows: Sequence[np.ndarray],
    at: np.ndarray,
) -> Sampler:
    """The likeliest words by the logits at `at`: (… row, position), int [2 or 3, M]."""
    module = _module(family, config)
    tokens, mask = frame.padded(rows, max(map(len, rows)))
    inputs = family.inputs(config, tokens, None, mask)
    inputs = jax.tree.map(np.asarray, inputs)  # of the host, which any mesh can read

    def compute(params: Any) -> Any:
        arrays, facts = jax.tree.map(jnp.asarray, inputs)
        out = module.apply({"params": params}, *arrays, **facts)
        return _likeliest(out.logits[tuple(at)], tokenizer)

    return Sampler(compute, lambda found: _records(prompts, at[-2], found, tokenizer))


def _check(prompt: str, has_hole: bool, length: int, most: int) -> None:
    if not has_hole:
        raise UserError(f"--samples {prompt!r} has no {HOLE}")
    if length > most:
        raise UserError(f"--samples {prompt!r} has {length} tokens, more than {most}")


def _likeliest(logits_MV: Any, tokenizer: Tokenizer) -> Any:
    scores_MV = jax.nn.softmax(logits_MV.astype(jnp.float32))[:, : tokenizer.drawn]
    return jax.lax.top_k(scores_MV, min(_WORDS, scores_MV.shape[1]))


def _records(
    prompts: Sequence[str], rows: np.ndarray, found: Any, tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """A record for each prompt: words with their probabilities, a list a hole."""
    records: list[dict[str, Any]] = [{"prompt": p, "words": []} for p in prompts]
    for row, scores, ids in zip(rows, *found, strict=True):
        pairs = zip(ids, np.asarray(scores, float), strict=True)
        words = [
            [tokenizer.token(i), round(p, 4) if p == p else None] for i, p in pairs
        ]
        records[row]["words"].append(words)
    return records
