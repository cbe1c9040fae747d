"""GPT-1 and GPT-2."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.config import GptConfig
from jaxlm.families.family import Family, Frame
from jaxlm.families.samples import BEGUN, continuations
from jaxlm.models.flops import gpt_forward_flops
from jaxlm.models.gpt import Gpt
from jaxlm.models.kernels.head import Head
from jaxlm.models.layers import gather
from jaxlm.objectives.causal import causal_figures, causal_lm
from jaxlm.text.tokenizers import Tokenizer
from jaxlm.types import GPT_FRAME


class GptFamily(Family):
    """GPT-1 and GPT-2: plain text, where each next token is predicted.

    A task adds three new tokens to each row, with ids after the vocabulary (Radford et
    al. 2018, figure 1; openai/finetune-transformer-lm train.py).
    """

    name = "gpt"
    article = "a GPT"
    purpose = "generate continues a text"
    config = GptConfig
    build = encoder = Gpt
    objective = staticmethod(causal_lm)
    figures = staticmethod(causal_figures)
    forward_flops = staticmethod(gpt_forward_flops)
    sampler = continuations
    prompts = BEGUN
    task_tokens = GPT_FRAME
    bidirectional = False
    scorings = ("next",)

    def frame(self, config: Any, tokenizer: Tokenizer, task: bool = False) -> Frame:
        """See `Family`."""
        none = np.zeros(0, np.int32)
        if not task:
            return Frame(tokenizer, none, none, none, 0)
        first = tokenizer.vocab_size
        begin, between, end = np.arange(first, first + 3, dtype=np.int32)[:, None]
        # No token sees what fills a row: id 0, as in the release.
        return Frame(tokenizer, begin, between, end, 0, halves=True)

    def predict(
        self, module: Any, tokens_BL: Any, lengths_B: Any, places_BP: Any
    ) -> Head:
        """See `Family`."""
        out = module(tokens_BL, lengths=lengths_B, logits=False)
        return Head(gather(out.last, jnp.maximum(places_BP - 1, 0)), out.table)

    def train_flops(self, run: Any, phase: Any) -> int:
        """See `Family`; all tokens are predicted."""
        return super().train_flops(
            run, dataclasses.replace(phase, predictions=phase.length)
        )

    def for_task(self, config: Any, *, vocab_size: int, pooler: bool) -> Any:
        """See `Family`."""
        return dataclasses.replace(config, vocab_size=vocab_size + len(GPT_FRAME))


GPT = GptFamily()
