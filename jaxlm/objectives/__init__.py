"""What a family is trained on: rows → batch, batch → sums. One Objective a family."""

from __future__ import annotations

import flax.linen as nn

from jaxlm.config import BertConfig, ElmoConfig, GptConfig, Phase, RunConfig
from jaxlm.objectives.bidirectional import bidirectional_lm
from jaxlm.objectives.causal import causal_lm
from jaxlm.objectives.dialogue import dialogue_lm
from jaxlm.objectives.masked import masked_lm
from jaxlm.objectives.objective import Objective, SampledRows, Sums, stateless
from jaxlm.text.manifest import Manifest

__all__ = [
    "Objective",
    "SampledRows",
    "Sums",
    "bidirectional_lm",
    "causal_lm",
    "dialogue_lm",
    "masked_lm",
    "objective_of",
    "stateless",
]


def objective_of(
    config: RunConfig,
    module: nn.Module,
    manifest: Manifest,
    phase: Phase,
    *,
    stream: str,
) -> Objective:
    """What a run's family is pretrained on.

    Args:
        config: of the run.
        module: its model.
        manifest: of the corpus.
        phase: shape of the rows.
        stream: name of the phase, as for `data.pipeline.open_source`.

    Raises:
        UserError: the vocabulary lacks a token that the family needs.
    """
    model, data, seed = config.model, config.data, config.seed
    match model:
        case BertConfig() if config.text.dialogues:
            return dialogue_lm(
                module, model, data, phase, manifest, seed=seed, stream=stream
            )
        case BertConfig():
            return masked_lm(
                module,
                model,
                data,
                phase,
                manifest.special,
                seed=seed,
                stream=stream,
                languages=manifest.languages,
            )
        case GptConfig():
            return causal_lm(
                module,
                model,
                data,
                phase,
                manifest.end_of_document,
                manifest.languages,
            )
        case ElmoConfig():
            few_rows = config.optim.keeps_rows
            return bidirectional_lm(module, model, data, few_rows=few_rows)
