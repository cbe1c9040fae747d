"""A batch of any family → the hidden states that a task is read off, all layers.

    BERT    [CLS] a film [SEP]       as its rows are
    GPT     start a film extract     causal
    ELMo    <S> a film </S>          characters; the boundaries are read and left out

The trunk is the family's own module, with its parameters under their own names. Next:
`model.py` reads a task off what it gives.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer

from jaxlm.config import BertConfig, ElmoConfig, GptConfig, ModelConfig
from jaxlm.models import LanguageModel
from jaxlm.models.bert import Bert
from jaxlm.models.elmo import Elmo
from jaxlm.models.encoder import Encoded
from jaxlm.models.flops import (
    bert_forward_flops,
    elmo_forward_flops,
    gpt_forward_flops,
)
from jaxlm.models.gpt import Gpt
from jaxlm.models.layers import causal_mask, position_ids, same_segment
from jaxlm.text.characters import BEGIN, END, NO_WORD, word_characters


def read(
    trunk: LanguageModel,
    tokens: Integer[Array, "B L"] | Integer[Array, "B L C"],
    token_types_BL: Int[Array, "B L"],
    mask_BL: Bool[Array, "B L"],
    *,
    segments_BL: Int[Array, "B L"] | None = None,
    logits: bool = False,
    deterministic: bool = True,
) -> Encoded:
    """All layers' hidden states [M, B, L, D] at the tokens of the rows.

    Args:
        trunk: the module of a family.
        tokens: ids, or the characters of an ELMo's words.
        token_types_BL: a BERT's; not read of the others.
        mask_BL: True at a row's tokens, which come first.
        segments_BL: of packed rows, a BERT's: see `TaskBatch`.
        logits: with those of the next token; a GPT's only. Its `last` and `head`, of
            which they are the product, are there in any case.
        deterministic: True switches dropout off.

    Returns:
        With the pooled vector of a BERT that has a pooler.
    """
    if segments_BL is not None and not isinstance(trunk, Bert):
        raise ValueError(f"{type(trunk).__name__} reads no packed rows")
    match trunk:
        case Bert():
            seen, places_BL = mask_BL, None
            if segments_BL is not None:
                seen, places_BL = same_segment(segments_BL), position_ids(segments_BL)
            return trunk(
                tokens,
                token_types_BL,
                seen,
                places_BL=places_BL,
                logits=False,
                deterministic=deterministic,
            )
        case Gpt():
            seen = causal_mask(tokens.shape[1]) & mask_BL[:, None]
            return trunk(tokens, None, seen, logits=logits, deterministic=deterministic)
        case Elmo():
            tokens, mask_BL = bounded(tokens, mask_BL)
            out = trunk(
                tokens, None, mask_BL, logits=False, deterministic=deterministic
            )
            return Encoded(hidden=out.hidden[:, :, 1:-1])


def bounded(
    characters_BLC: Integer[Array, "B L C"], mask_BL: Bool[Array, "B L"]
) -> tuple[Integer[Array, "B L2 C"], Bool[Array, "B L2"]]:
    """With `<S>` before and `</S>` behind the words of each row, and the mask of that.

    As AllenNLP's `Elmo`, which leaves the two out of what it gives.
    """
    slots = characters_BLC.shape[2]
    begin_C, end_C = word_characters([BEGIN, END], slots=slots)
    grow = ((0, 0), (1, 1), (0, 0))
    x = jnp.pad(characters_BLC, grow, constant_values=NO_WORD)
    at_L = jnp.arange(x.shape[1])[None]
    last_B1 = mask_BL.sum(axis=1)[:, None] + 1
    x = jnp.where((at_L == 0)[..., None], begin_C[None, None], x)
    x = jnp.where((at_L == last_B1)[..., None], end_C[None, None], x)
    return x, at_L <= last_B1


def example(config: ModelConfig) -> tuple[Any, ...]:
    """A row to initialise on: tokens, token types, mask."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    if isinstance(config, ElmoConfig):
        characters = jnp.zeros((1, 2, config.max_characters), jnp.uint16)
        return characters, tokens, jnp.ones((1, 2), bool)
    return tokens, tokens, jnp.ones((1, 2), bool)


def forward_flops(config: ModelConfig, length: int, *, words: bool = False) -> int:
    """Of one row of `length` tokens through all layers; `words`: and a GPT's head."""
    match config:
        case BertConfig():
            return bert_forward_flops(config, length=length, predictions=0)
        case GptConfig():
            scored = length if words else 0
            return gpt_forward_flops(config, length=length, predictions=scored)
        case ElmoConfig():
            return elmo_forward_flops(config, length=length + 2, classes=0)
