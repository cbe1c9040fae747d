"""BERT and ERNIE."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from jaxlm.config import BertConfig, MaskedData, Phase, RunConfig
from jaxlm.families.family import Family
from jaxlm.families.frame import bert_frame
from jaxlm.families.tokens import check_tokens, mask_as_segments, token_example
from jaxlm.models.bert import Bert
from jaxlm.models.flops import bert_forward_flops, bert_train_flops
from jaxlm.models.layers import position_ids
from jaxlm.objectives import Objective, dialogue_lm, masked_lm
from jaxlm.objectives.masked import masked_figures
from jaxlm.text.manifest import Manifest
from jaxlm.types import UserError


def encode(
    module: Bert,
    tokens_BL: Any,
    token_types_BL: Any,
    mask_BL: Any,
    *,
    segments: Any = None,
    carry: Any = (),
    logits: bool = False,
    deterministic: bool = True,
) -> tuple[Any, Any]:
    """See `Family.encode`; with the pooled vector where there is a pooler."""
    facts: dict[str, Any] = {"lengths": mask_BL.sum(1)}
    if segments is not None:
        facts = {"segments": segments, "position_ids": position_ids(segments)}
    out = module(
        tokens_BL,
        token_types_BL,
        **facts,
        logits=logits,
        deterministic=deterministic,
    )
    return out, carry


def inputs(
    config: BertConfig, tokens: np.ndarray, token_types: Any, mask: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """See `Family.inputs`."""
    check_tokens(config, tokens)
    types = np.zeros_like(tokens) if token_types is None else token_types
    ids = jnp.asarray(tokens, jnp.int32), jnp.asarray(types, jnp.int32)
    return ids, mask_as_segments(mask)


def objective(
    run: RunConfig, module: Any, manifest: Manifest, phase: Phase, stream: str
) -> Objective:
    """Masked words, with next sentences or dialogues."""
    options: Any = {"seed": run.seed, "stream": stream}
    model, data = cast(BertConfig, run.model), cast(MaskedData, run.data)
    if run.text.dialogues:
        return dialogue_lm(module, model, data, phase, manifest, **options)
    options["languages"] = manifest.languages
    return masked_lm(module, model, data, phase, manifest.special, **options)


def for_task(config: BertConfig, *, vocab_size: int, pooler: bool) -> BertConfig:
    """See `Family.for_task`."""
    del vocab_size
    if pooler and not config.nsp:
        raise UserError(
            "has no pooler, it was trained without next sentences: pass "
            "--task.pooling cls or mean"
        )
    return dataclasses.replace(config, nsp=pooler)


def missing_head(config: BertConfig, params: Any) -> str:
    """See `Family.missing_head`."""
    del config
    if "mlm" in params:
        return ""
    return (
        "no head of masked words, its files hold none: embed gives its vectors; "
        "pretrain --init trains one"
    )


BERT = Family(
    name="bert",
    article="a BERT",
    purpose="fill fills its blanks",
    config=BertConfig,
    build=Bert,
    encoder=Bert,
    frame=lambda config, tokenizer, task=False: bert_frame(tokenizer),
    encode=encode,
    example=token_example,
    inputs=inputs,
    objective=objective,
    figures=lambda run: masked_figures(run.model.nsp, run.text.dialogues),
    forward_flops=lambda config, length, predictions: bert_forward_flops(
        config, length=length, predictions=predictions
    ),
    train_flops=lambda run, phase: bert_train_flops(
        run.model,
        batch=phase.batch,
        length=phase.length,
        predictions=phase.predictions,
    ),
    window=lambda config: config.max_length - 2,
    for_task=for_task,
    missing_head=missing_head,
    has_cls=True,
    fills=True,
    packs=True,
)
