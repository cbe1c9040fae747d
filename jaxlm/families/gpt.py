"""GPT-1 and GPT-2."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from jaxlm.config import GptConfig, Phase, RunConfig, StreamData
from jaxlm.families.family import Family
from jaxlm.families.frame import gpt_frame
from jaxlm.families.tokens import check_tokens, mask_as_segments, token_example
from jaxlm.models.flops import gpt_forward_flops
from jaxlm.models.gpt import Gpt, table_rows
from jaxlm.objectives import Objective, causal_lm
from jaxlm.objectives.causal import FIGURES
from jaxlm.text.manifest import Manifest
from jaxlm.types import GPT_FRAME, UserError


def encode(
    module: Gpt,
    tokens_BL: Any,
    token_types_BL: Any,
    mask_BL: Any,
    *,
    segments: Any = None,
    carry: Any = (),
    logits: bool = False,
    deterministic: bool = True,
) -> tuple[Any, Any]:
    """See `Family.encode`; with `last` and `table`, whose product the logits are."""
    del token_types_BL
    if segments is not None:
        raise ValueError("a GPT reads no packed rows")
    out = module(
        tokens_BL,
        lengths=mask_BL.sum(1),
        logits=logits,
        deterministic=deterministic,
    )
    return out, carry


def inputs(
    config: GptConfig, tokens: np.ndarray, token_types: Any, mask: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """See `Family.inputs`."""
    if token_types is not None:
        raise UserError("a GPT has no token types")
    check_tokens(config, tokens)
    return (jnp.asarray(tokens, jnp.int32),), mask_as_segments(mask)


def objective(
    run: RunConfig, module: Any, manifest: Manifest, phase: Phase, stream: str
) -> Objective:
    """Each next token."""
    del stream
    return causal_lm(
        module,
        cast(GptConfig, run.model),
        cast(StreamData, run.data),
        phase,
        manifest.end_of_document,
        manifest.languages,
    )


def for_task(config: GptConfig, *, vocab_size: int, pooler: bool) -> GptConfig:
    """See `Family.for_task`."""
    del pooler
    return dataclasses.replace(config, vocab_size=vocab_size + len(GPT_FRAME))


def forward_flops(config: GptConfig, length: int, predictions: int) -> int:
    """See `Family.forward_flops`."""
    return gpt_forward_flops(config, length=length, predictions=predictions)


GPT = Family(
    name="gpt",
    article="a GPT",
    purpose="generate continues a text",
    config=GptConfig,
    build=Gpt,
    encoder=Gpt,
    frame=lambda config, tokenizer, task=False: gpt_frame(tokenizer, task=task),
    encode=encode,
    example=token_example,
    inputs=inputs,
    objective=objective,
    figures=lambda run: FIGURES,
    forward_flops=forward_flops,
    train_flops=lambda run, phase: (
        3 * phase.batch * forward_flops(run.model, phase.length, phase.length)
    ),
    padding=lambda config: (table_rows(config) - config.vocab_size) * config.d_model,
    for_task=for_task,
    task_tokens=GPT_FRAME,
    bidirectional=False,
)
