"""ELMo."""

from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from jaxlm.config import BilmData, ElmoConfig, Phase, RunConfig
from jaxlm.families.family import Family
from jaxlm.families.frame import elmo_frame
from jaxlm.models.elmo import Elmo, head_rows, zero_state
from jaxlm.models.encoder import Encoded
from jaxlm.models.flops import elmo_forward_flops
from jaxlm.objectives import Objective, bidirectional_lm
from jaxlm.objectives.bidirectional import FIGURES
from jaxlm.text.characters import (
    BEGIN,
    END,
    NO_WORD,
    check_characters,
    word_characters,
)
from jaxlm.text.manifest import Manifest
from jaxlm.types import UserError

WINDOW = 1024  # words; a recurrence has no context of its own


def encode(
    module: Elmo,
    characters_BLC: Any,
    token_types_BL: Any,
    mask_BL: Any,
    *,
    segments: Any = None,
    carry: Any = (),
    logits: bool = False,
    deterministic: bool = True,
) -> tuple[Any, Any]:
    """See `Family.encode`. `<S>` and `</S>` are read and left out of what is given, as
    AllenNLP's `Elmo` does."""
    del token_types_BL, logits
    if segments is not None:
        raise ValueError("an ELMo reads no packed rows")
    characters_BLC, lengths_B = with_boundaries(characters_BLC, mask_BL.sum(1))
    out = module(
        characters_BLC,
        carry or None,
        lengths=lengths_B,
        logits=False,
        deterministic=deterministic,
    )
    return Encoded(hidden=out.hidden[:, :, 1:-1]), out.carry


def with_boundaries(
    characters_BLC: Integer[Array, "B L C"], lengths_B: Int[Array, "B"]
) -> tuple[Integer[Array, "B L2 C"], Int[Array, "B"]]:
    """`<S>` before and `</S>` behind the words of each row, and their number."""
    begin_C, end_C = word_characters([BEGIN, END], slots=characters_BLC.shape[2])
    grow = ((0, 0), (1, 1), (0, 0))
    x = jnp.pad(characters_BLC, grow, constant_values=NO_WORD)
    at_L = jnp.arange(x.shape[1])[None]
    last_B1 = lengths_B[:, None] + 1
    x = jnp.where((at_L == 0)[..., None], begin_C[None, None], x)
    x = jnp.where((at_L == last_B1)[..., None], end_C[None, None], x)
    return x, lengths_B + 2


def example(config: ElmoConfig) -> tuple[Any, ...]:
    """See `Family.example`."""
    characters = jnp.zeros((1, 2, config.max_characters), jnp.uint16)
    return characters, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)


def inputs(
    config: ElmoConfig, characters: np.ndarray, token_types: Any, mask: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """See `Family.inputs`; the characters are [B, L, C], boundaries among them."""
    if token_types is not None:
        raise UserError("an ELMo has no token types")
    if characters.ndim != 3 or characters.shape[2] != config.max_characters:
        raise UserError(
            f"characters of shape {characters.shape} are not [B, L, "
            f"{config.max_characters}]: see jaxlm.text.characters"
        )
    check_characters(characters)
    lengths = None if mask is None else jnp.asarray(mask, bool).sum(1)
    return (jnp.asarray(characters, jnp.int32),), {"lengths": lengths}


def objective(
    run: RunConfig, module: Any, manifest: Manifest, phase: Phase, stream: str
) -> Objective:
    """Each next word and each one before."""
    del manifest, phase, stream
    model, data = cast(ElmoConfig, run.model), cast(BilmData, run.data)
    return bidirectional_lm(module, model, data, few_rows=run.optim.keeps_rows)


def train_flops(run: RunConfig, phase: Phase) -> int:
    """See `Family.train_flops`."""
    model, data = cast(ElmoConfig, run.model), cast(BilmData, run.data)
    classes = data.negatives or model.vocab_size
    row = elmo_forward_flops(model, length=phase.length, classes=classes)
    return 3 * phase.batch * row


ELMO = Family(
    name="elmo",
    article="an ELMo",
    purpose="embed gives its vectors",
    config=ElmoConfig,
    build=Elmo,
    encoder=Elmo,
    frame=lambda config, tokenizer, task=False: elmo_frame(
        tokenizer, config.max_characters
    ),
    encode=encode,
    example=example,
    inputs=inputs,
    objective=objective,
    figures=lambda run: FIGURES,
    forward_flops=lambda config, length, predictions: elmo_forward_flops(
        config,
        length=length + 2,
        classes=config.vocab_size if predictions else 0,
    ),
    train_flops=train_flops,
    padding=lambda config: (
        (head_rows(config) - config.vocab_size) * (config.d_model + 1)
    ),
    window=lambda config: WINDOW,
    width=lambda config: 2 * config.d_model,
    missing_head=lambda config, params: (
        "" if config.vocab_size else "no softmax: embed gives its vectors"
    ),
    zero_carry=zero_state,
)
