"""BERT and ERNIE."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.config import BertConfig
from jaxlm.families.family import Family, Frame
from jaxlm.families.samples import masked_words
from jaxlm.models.bert import Bert
from jaxlm.models.flops import bert_forward_flops
from jaxlm.models.kernels.head import Head
from jaxlm.objectives.masked import masked_figures, masked_lm
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import UserError


class BertFamily(Family):
    """BERT and ERNIE: masked words, and next sentences or replaced turns."""

    name = "bert"
    article = "a BERT"
    purpose = "fill fills its blanks"
    config = BertConfig
    build = encoder = Bert
    objective = staticmethod(masked_lm)
    figures = staticmethod(masked_figures)
    forward_flops = staticmethod(bert_forward_flops)
    sampler = masked_words
    token_types = has_cls = fills = packs = True
    scorings = ("pll", "pll_word_l2r")

    def frame(self, config: Any, tokenizer: Tokenizer, task: bool = False) -> Frame:
        """See `Family`."""
        special = tokenizer.special
        if special is None:
            raise UserError(
                "the vocabulary has no [CLS], [SEP] and [PAD], as a BERT's has"
            )
        cls, sep = (np.array([i], np.int32) for i in (special.cls, special.sep))
        return Frame(tokenizer, cls, sep, sep, special.pad)

    def predict(
        self, module: Any, tokens_BL: Any, lengths_B: Any, places_BP: Any
    ) -> Head:
        """See `Family`."""
        types = jnp.zeros_like(tokens_BL)
        return module(tokens_BL, types, places_BP, lengths=lengths_B).head

    def train_flops(self, run: Any, phase: Any) -> int:
        """See `Family`; a causal row is predicted at all positions."""
        share = run.causal_share(phase)
        mean = (1 - share) * phase.predictions + share * phase.length
        phase = dataclasses.replace(phase, predictions=max(1, round(mean)))
        return super().train_flops(run, phase)

    def window(self, config: Any) -> int:
        """See `Family`."""
        return config.max_length - 2

    def for_task(self, config: Any, *, vocab_size: int, pooler: bool) -> Any:
        """See `Family`."""
        if pooler and not config.nsp:
            raise UserError(
                "has no pooler, it was trained without next sentences: pass "
                "--task.pooling cls or mean"
            )
        return dataclasses.replace(config, nsp=pooler)

    def missing_head(self, config: Any, params: Any) -> str:
        """See `Family`."""
        if "mlm" in params:
            return ""
        return (
            "no head of masked words, its files hold none: embed gives its vectors; "
            "pretrain --init trains one"
        )


BERT = BertFamily()
